"""Who may call the CDS services: JSON web tokens of the EHRs in the settings, and the origins of browser-based ones.

Source: CDS Hooks 2.0, "Trusting CDS Clients" and "Cross-Origin Resource Sharing".
"""
import threading
import time
from pathlib import Path
from typing import Any

import httpx

from api.json_body import read_json
from api.settings import CdsClient, Settings
from data.errors import NotAllowed, WetreadError

PATH = "/cds-services"
ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "ES256", "ES384", "ES512"]      # never none, never a shared secret
TOKEN_MAX = 8192            # characters
LIFE_MAX_S, SKEW_S = 3600, 60
KEYS_S, AGAIN_S = 600.0, 30.0           # a key set is kept; for a key it lacks it is asked anew this often at most
KEYS_MAX_BYTES = 1 << 18
SEEN_MAX = 100_000


class Trust:
    """Checks tokens; remembers the key sets, and the jti of each token until it has ended (in this process)."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._keys: dict[str, tuple[Any, float]] = {}
        self._seen: dict[tuple[str, str], float] = {}
        self._lock = threading.Lock()

    def caller(self, token: str, path: str) -> str:
        """The issuer of a good token for this address; raises NotAllowed saying which part is not good."""
        from joserfc import jwt
        from joserfc.errors import JoseError

        if len(token) > TOKEN_MAX:
            raise refused("it is too long")
        header, client = self._client(token)
        if header.get("jku") not in (None, client.jwks):
            raise refused("jku is not the key set that was agreed on")
        key = self._key(client, header.get("kid"))
        try:
            claims = jwt.decode(token, key, algorithms=ALGORITHMS).claims
        except (JoseError, ValueError, TypeError, KeyError):
            raise refused("its signature is not good, or its alg is none of " + ", ".join(ALGORITHMS)) from None
        self._check(claims, client, path)
        return client.issuer

    def _client(self, token: str) -> tuple[dict[str, Any], CdsClient]:
        """Header, and whose key to check with; nothing else is believed before the signature is checked."""
        import base64

        try:
            header, claims = (read_json(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))) for part in token.split(".")[:2])
            issuer = claims["iss"]
            client = next((client for client in self.settings.cds_clients if client.issuer == issuer), None)
            if not isinstance(header, dict):
                raise ValueError
        except (WetreadError, ValueError, TypeError, KeyError):
            raise refused("it is no JSON web token with iss") from None
        if client is None:
            raise refused("iss is not on the list; name it under cds_clients in settings.toml")
        return header, client

    def _check(self, claims: dict[str, Any], client: CdsClient, path: str) -> None:
        now = time.time()
        begun, end, jti, heard = (claims.get(name) for name in ("iat", "exp", "jti", "aud"))
        if claims.get("iss") != client.issuer:
            raise refused("iss is another than the one that signed")
        if not is_time(begun) or not is_time(end):
            raise refused("iat or exp is missing; both are numbers")
        if end <= now - SKEW_S or begun > now + SKEW_S or (is_time(claims.get("nbf")) and claims["nbf"] > now + SKEW_S):
            raise refused("it has ended or has not begun; check exp, iat and the clocks")
        if end - begun > LIFE_MAX_S:
            raise refused(f"it lasts longer than {LIFE_MAX_S} s; make a new one for each call")
        addresses = {self.settings.public_url + path, self.settings.public_url + path.removesuffix("/feedback")}
        if not {text.rstrip("/") for text in (heard if isinstance(heard, list) else [heard]) if isinstance(text, str)} & addresses:
            raise refused("aud is not the address that is called; it begins with public_url of settings.toml")
        if not isinstance(jti, str) or not jti:
            raise refused("jti is missing")
        with self._lock:
            if len(self._seen) >= SEEN_MAX:
                self._seen = {key: until for key, until in self._seen.items() if until > now}
            if len(self._seen) >= SEEN_MAX:
                raise refused("too many tokens at a time")
            if self._seen.get((client.issuer, jti), 0.0) > now:
                raise refused("jti was used before; make a new token for each call")
            self._seen[client.issuer, jti] = end + SKEW_S

    def _key(self, client: CdsClient, kid: Any) -> Any:
        """The key `kid` of the client's set; the set is asked anew when it is old, or lacks the key."""
        with self._lock:
            keys, asked = self._keys.get(client.jwks, (None, 0.0))
        age = time.monotonic() - asked
        found = pick(keys, kid)
        if keys is None or age > KEYS_S or (found is None and age > AGAIN_S):
            try:
                keys = read_keys(client.jwks)
            except (OSError, httpx.HTTPError, WetreadError, ValueError, KeyError, TypeError) as error:
                if found is None:
                    raise refused(f"the key set of its issuer cannot be read ({type(error).__name__}); see jwks under cds_clients") from None
            with self._lock:
                self._keys[client.jwks] = (keys, time.monotonic())
            found = pick(keys, kid)
        if found is None:
            raise refused("kid is no key of its issuer's set")
        return found


def read_keys(place: str) -> Any:
    """A JWK Set from a file or an https URL; ValueError and its like for what is none."""
    from joserfc.errors import JoseError
    from joserfc.jwk import KeySet

    if "://" in place:
        with httpx.Client(timeout=2.0, follow_redirects=False, trust_env=False) as client, client.stream("GET", place) as answer:
            answer.raise_for_status()
            raw = b""
            for piece in answer.iter_bytes():
                raw += piece
                if len(raw) > KEYS_MAX_BYTES:
                    raise ValueError("key set")
    else:
        raw = Path(place).read_bytes()[:KEYS_MAX_BYTES]
    try:
        return KeySet.import_key_set(read_json(raw))
    except JoseError as error:
        raise ValueError(type(error).__name__) from None


def pick(keys: Any, kid: Any) -> Any:
    """By kid; a set of one key needs none."""
    if keys is None:
        return None
    if kid is None and len(keys.keys) == 1:
        return keys.keys[0]
    return next((key for key in keys.keys if kid is not None and key.kid == kid and key.key_type in ("RSA", "EC")), None)


def is_time(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def refused(why: str) -> NotAllowed:
    return NotAllowed(f"the token of the CDS client is refused: {why}")


# -- browser-based clients -------------------------------------------------------------------------------------------


def origin_allowed(settings: Settings, origin: str) -> bool:
    return origin.lower() in settings.cds_origins


def cors_headers(settings: Settings, origin: str) -> dict[str, str]:
    """For answers to an allowed origin; no credentials: a token comes in the Authorization header, never by cookie."""
    if not origin_allowed(settings, origin):
        return {"Vary": "Origin"}
    return {"Access-Control-Allow-Origin": origin, "Vary": "Origin", "Access-Control-Allow-Methods": "GET, POST, OPTIONS",
            "Access-Control-Allow-Headers": "Authorization, Content-Type", "Access-Control-Max-Age": "600",
            "Access-Control-Expose-Headers": "ETag, Location"}
