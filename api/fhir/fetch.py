"""Our own calls to FHIR servers: only to those on the allow-list, bounded in time and size, signed in by SMART Backend Services where set up.

Source: SMART App Launch 2.0, "Backend Services" and "Client Authentication: Asymmetric (private_key_jwt)".
"""
import asyncio
import logging
import secrets
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from api.json_body import read_json
from api.settings import FhirServer
from data.errors import InputError, WetreadError

log = logging.getLogger("wetread.fhir")

ANSWER_MAX_BYTES = 1 << 20
TOKEN_WAIT_S = 10.0
EARLY_S = 30.0              # a token is renewed this long before it ends
ASSERTION_S = 240           # SMART allows five minutes
SCOPE = "system/Patient.rs system/Observation.rs system/AllergyIntolerance.rs system/Device.rs system/Condition.rs system/ImagingStudy.rs"
ALGORITHMS = {"RSA": "RS384", "EC": "ES384"}


class Fetcher:
    def __init__(self, servers: tuple[FhirServer, ...]) -> None:
        self.servers = servers
        self._client: httpx.AsyncClient | None = None
        self._tokens: dict[str, tuple[str, float]] = {}             # URL -> (token, when it ends)
        self._asking: dict[str, asyncio.Task[str]] = {}

    def allowed(self, url: str) -> FhirServer | None:
        """The server of the allow-list that holds `url`: same scheme, host and port, and a path at or below its own."""
        try:
            asked = address(url)
            return next((server for server in self.servers if asked[:3] == (own := address(server.url))[:3]
                         and f"{asked[3]}/".startswith(f"{own[3]}/")), None)
        except ValueError:
            return None

    async def get_all(self, url: str, queries: dict[str, str], bearer: str, wait_s: float) -> dict[str, Any]:
        """What each relative query gives, by its key; what did not come in time, or failed, is left out."""
        server = self.allowed(url)
        if server is None or not queries or wait_s <= 0:
            return {}
        tasks = {key: asyncio.create_task(self._get(server, f"{url.rstrip('/')}/{query}", bearer)) for key, query in queries.items()}
        done, late = await asyncio.wait(tasks.values(), timeout=wait_s)
        for task in late:
            task.cancel()
        found = {}
        for key, task in tasks.items():
            if task in done and not task.cancelled():
                if (error := task.exception()) is None:
                    found[key] = task.result()
                else:       # never the address: it holds the patient's id
                    log.warning("a FHIR server did not give %s: %s", key, error if isinstance(error, WetreadError) else type(error).__name__)
        return found

    async def _get(self, server: FhirServer, url: str, bearer: str) -> Any:
        token = bearer or (await self.token(server) if server.client_id else "")
        headers = {"Accept": "application/fhir+json", **({"Authorization": f"Bearer {token}"} if token else {})}
        status, body = await self._read("GET", url, headers=headers)
        if status == 401 and not bearer:
            self._tokens.pop(server.url, None)
        if status != 200:
            raise InputError(f"the FHIR server answered {status}, expected 200; its own log says why")
        return await asyncio.to_thread(read_json, body)

    async def token(self, server: FhirServer) -> str:
        """An access token, kept until shortly before its end; who waits no longer does not end the asking for others."""
        kept = self._tokens.get(server.url)
        if kept and kept[1] > time.monotonic():
            return kept[0]
        asking = self._asking.get(server.url)
        if asking is None or asking.done():
            asking = self._asking[server.url] = asyncio.create_task(self._ask_token(server))
            asking.add_done_callback(lambda task: task.cancelled() or task.exception())       # seen, also when nobody waits
        return await asyncio.shield(asking)

    async def _ask_token(self, server: FhirServer) -> str:
        assertion = await asyncio.to_thread(client_assertion, server)
        status, body = await self._read("POST", server.token_url, headers={"Accept": "application/json"}, timeout=TOKEN_WAIT_S, data={
            "grant_type": "client_credentials", "scope": SCOPE, "client_assertion": assertion,
            "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"})
        answer = read_json(body) if status == 200 else {}
        if status != 200 or not isinstance(answer, dict) or not isinstance(token := answer.get("access_token"), str):
            raise InputError(f"the token endpoint answered {status} and no access_token; check client_id and key of fhir_servers")
        seconds = answer.get("expires_in")
        lasts = float(seconds) if isinstance(seconds, int | float) and not isinstance(seconds, bool) else 60.0
        self._tokens[server.url] = (token, time.monotonic() + max(0.0, lasts - EARLY_S))
        return token

    async def _read(self, method: str, url: str, **options: Any) -> tuple[int, bytes]:
        if self._client is None:        # making one reads the certificates, so it is made once
            # no redirect and no proxy of the environment: the allow-list says where we go
            self._client = await asyncio.to_thread(httpx.AsyncClient, timeout=TOKEN_WAIT_S, follow_redirects=False, trust_env=False)
        body = bytearray()
        async with self._client.stream(method, url, **options) as answer:
            async for piece in answer.aiter_bytes():
                body += piece
                if len(body) > ANSWER_MAX_BYTES:
                    raise InputError(f"the answer is larger than {ANSWER_MAX_BYTES} bytes; send the resource in the prefetch")
        return answer.status_code, bytes(body)

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()


def address(url: str) -> tuple[str, str, int, str]:
    parts = urlsplit(url)
    if parts.username or parts.query or parts.fragment or ".." in parts.path or "%" in parts.path or not parts.hostname:
        raise ValueError(url)
    return parts.scheme, parts.hostname, parts.port or {"https": 443, "http": 80}.get(parts.scheme, 0), parts.path.rstrip("/")


def client_assertion(server: FhirServer) -> str:
    """The signed JWT that stands for our password; raises InputError when the key cannot be used."""
    from joserfc import jwt

    key = private_key(Path(server.key))
    algorithm = ALGORITHMS[key.key_type] if key.key_type == "RSA" or key.curve_name == "P-384" else "ES256"
    now = int(time.time())
    claims = {"iss": server.client_id, "sub": server.client_id, "aud": server.token_url, "iat": now, "exp": now + ASSERTION_S,
              "jti": secrets.token_urlsafe(24)}
    header = {"alg": algorithm, "typ": "JWT", "kid": key.kid or key.thumbprint()}
    return jwt.encode(header, claims, key, algorithms=[algorithm])


def private_key(path: Path) -> Any:
    from joserfc.errors import JoseError
    from joserfc.jwk import ECKey, RSAKey

    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(f"key {path.name} of fhir_servers cannot be read ({error.strerror}); give a file that Wetread may read") from None
    try:
        value = read_json(raw) if raw.lstrip()[:1] == b"{" else raw
        kinds = (RSAKey, ECKey) if isinstance(value, bytes) else (RSAKey if value.get("kty") == "RSA" else ECKey,)
    except WetreadError:
        kinds, value = (), b""
    for kind in kinds:
        try:
            key = kind.import_key(value)
            if key.is_private:
                return key
        except (JoseError, ValueError, KeyError, TypeError):
            continue
    raise InputError(f"key {path.name} of fhir_servers is no private RSA or EC key; give a JWK or a PEM")
