"""Who may speak to the HTTP service: passwords, sessions, API keys, CSRF, foreign origins, body sizes and answer headers.

On loopback everyone on this machine may work without signing in; a web page from elsewhere may not (Origin, Host).
Beyond loopback every address but OPEN needs an API key or a signed-in person.
"""
import hashlib
import hmac
import re
import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Annotated, Any

from anyio import to_thread
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from fastapi import Depends, Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.cds import trust
from api.errors import HttpError, answer, coded, too_large, unexpected, with_status
from api.http_limits import bounded
from api.settings import Settings
from api.store import Store
from api.workflow import Desk
from data.errors import InputError, NotAllowed, WetreadError

COOKIE = "wetread_session"
SESSION_HOURS = 12
OPEN = ("/health", "/ready", "/login", "/openapi.json", "/docs", "/static/", "/fhir/metadata")     # nothing of a patient is there
LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
BODY_MAX_BYTES = 1 << 20
FHIR_MAX_BYTES = 10 << 20
UPLOAD_MAX_BYTES = 2 << 30
UPLOADS = re.compile(r"/v1/studies$|/dicomweb/studies(/[^/]*)?$")
PASSWORD_MAX = 1024         # characters; argon2 reads them all
TRIES_MAX, TRIES_WAIT_S = 5, 60.0

HEADERS = {
    # no inline script or style, nothing from elsewhere, no frame around us
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
                               "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",       # no-referrer would make browsers send Origin: null with our own forms
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",            # pages hold patient data
}


@dataclass(frozen=True)
class Person:
    """Who asks: a signed-in person, an API key (role "key"), or whoever sits at this machine (name "local", role "local")."""

    name: str
    role: str
    csrf: str = ""


# -- passwords, keys, sessions ---------------------------------------------------------------------------------------


@cache
def hasher() -> PasswordHasher:
    return PasswordHasher()


def hash_password(text: str) -> str:
    """An argon2id hash to keep; raises InputError for a password that is no password."""
    if not 10 <= len(text) <= PASSWORD_MAX:
        raise InputError(f"password must have 10 to {PASSWORD_MAX} characters; take a longer one")
    return hasher().hash(text)


@cache
def nobody_hash() -> str:
    return hasher().hash(secrets.token_urlsafe())


def password_fits(user: dict[str, Any] | None, text: str) -> bool:
    """Takes as long for a name that is not known, so that names cannot be found out by the clock."""
    try:
        hasher().verify(user["password_hash"] if user else nobody_hash(), text[:PASSWORD_MAX])
    except (VerificationError, InvalidHashError):
        return False
    return user is not None


def new_api_key() -> tuple[str, str]:
    """(key to give away once, hash to keep). 256 random bits need no slow hash."""
    key = "wetread_" + secrets.token_urlsafe(32)
    return key, digest(key)


def digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def start_session(store: Store, user: str) -> str:
    """A new session's token for the cookie; the store keeps only its hash."""
    token = secrets.token_urlsafe(32)
    expires = datetime.now(UTC) + timedelta(hours=SESSION_HOURS)
    store.add_session(digest(token), user, secrets.token_urlsafe(32), expires.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z")
    return token


class Tries:
    """Failed sign-ins by name: after five in a row, a minute's wait. Bounded, so that guessing names cannot fill memory."""

    def __init__(self) -> None:
        self._failed: dict[str, tuple[int, float]] = {}
        self._lock = threading.Lock()

    def check(self, name: str) -> None:
        with self._lock:
            count, last = self._failed.get(name, (0, 0.0))
        if count >= TRIES_MAX and time.monotonic() - last < TRIES_WAIT_S:
            raise HttpError(429, NotAllowed("too many failed sign-ins; wait a minute"), {"Retry-After": str(int(TRIES_WAIT_S))})

    def note(self, name: str, ok: bool) -> None:
        with self._lock:
            count, _ = self._failed.pop(name, (0, 0.0))
            if not ok:
                self._failed[name] = (count + 1, time.monotonic())
                while len(self._failed) > 1000:
                    self._failed.pop(next(iter(self._failed)))


# -- the gate --------------------------------------------------------------------------------------------------------


class Gate:
    """Stands before everything: origin, person, CSRF and size are settled before a byte of a body is parsed."""

    def __init__(self, app: ASGIApp, store: Store, settings: Settings) -> None:
        self.app, self.store, self.settings = app, store, settings
        self.trust = trust.Trust(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        request = Request(scope)
        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                own = {name.lower() for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *(pair for pair in raw_headers(scope["path"]) if pair[0] not in own)]
                if for_cds(request):
                    cors = trust.cors_headers(self.settings, request.headers.get("origin", ""))
                    message["headers"] += [(name.lower().encode(), value.encode()) for name, value in cors.items()]
            await send(message)

        try:
            fhir = for_cds(request) or scope["path"].startswith("/fhir/")
            limit = UPLOAD_MAX_BYTES if UPLOADS.match(scope["path"]) else FHIR_MAX_BYTES if fhir else BODY_MAX_BYTES
            refused = await self.refusal(request, limit)
            if refused is not None:
                await refused(scope, receive, send_with_headers)
            else:
                await self.app(scope, bounded(receive, limit), send_with_headers)
        except Exception as error:
            if started:         # half an answer is out; cutting the connection is the one honest end
                raise ConnectionError("an answer broke off") from None
            await unexpected(request, error)(scope, receive, send_with_headers)

    async def refusal(self, request: Request, limit: int) -> Response | None:
        """The answer that ends a request here, or None; sets request.state.person."""
        try:
            check_origin(request, self.settings)
            if any(character < " " for character in request.scope["path"]):
                raise HttpError(400, InputError("the address holds a control character; send it without"))
            declared = request.headers.get("content-length", "0")
            if not (declared.isascii() and declared.isdigit()) or len(declared) > 18 or int(declared) > limit:
                raise HttpError(413, too_large(limit))
            if for_cds(request) and request.method == "OPTIONS":        # a browser asks first, without a token
                return Response(status_code=204)
            request.state.person = await to_thread.run_sync(self.cds_client if for_cds(request) else self.person, request)
            opened = request.url.path.startswith(OPEN)
            if request.state.person is None and not opened:
                if wants_page(request):
                    return RedirectResponse(f"/login?next={request.url.path}", 303)
                cure = ("no token; send a JWT as CDS Hooks says, or for a trial on this machine set cds_jwt = false" if for_cds(request) else
                        "no API key and no session; send Authorization: Bearer KEY, or sign in at /login")
                raise HttpError(401, NotAllowed(cure), {"WWW-Authenticate": "Bearer"})
            if for_programs(request) and request.method not in SAFE_METHODS:
                check_csrf(request.state.person, request.headers.get("x-csrf-token", ""))
        except HttpError as error:
            return with_status(request, error)
        except WetreadError as error:
            return coded(request, error)
        return None

    def cds_client(self, request: Request) -> Person | None:
        """Who calls CDS Hooks: an EHR by its token, or a program by our key; a browser's session is none of ours there."""
        token = bearer(request.headers.get("authorization", ""))
        if token.count(".") == 2:
            try:
                return Person(f"cds:{self.trust.caller(token, request.url.path)}", "cds")
            except NotAllowed as error:
                raise HttpError(401, error, {"WWW-Authenticate": 'Bearer error="invalid_token"'}) from None
        if token or request.headers.get("x-api-key"):
            return self.person(request)
        return None if self.settings.cds_jwt else Person("local", "local")

    def person(self, request: Request) -> Person | None:
        key = request.headers.get("x-api-key") or bearer(request.headers.get("authorization", ""))
        if key:
            kept = digest(key)
            for row in self.store.api_keys():
                if hmac.compare_digest(row["key_hash"], kept):
                    return Person(f"key:{row['name']}", "key")
            raise HttpError(401, NotAllowed("the API key is not known; ask your administrator for one"), {"WWW-Authenticate": "Bearer"})
        token = request.cookies.get(COOKIE)
        session = self.store.session(digest(token)) if token else None
        if session is not None:
            return Person(session["user"], session["role"], session["csrf"])
        return None if self.settings.api_key_required else Person("local", "local")


def raw_headers(path: str) -> Iterator[tuple[bytes, bytes]]:
    for name, value in HEADERS.items():
        if name == "Cache-Control" and path.startswith("/static/"):
            value = "no-cache"      # kept, but asked for again: a new version shows at once
        yield name.lower().encode(), value.encode()


def check_origin(request: Request, settings: Settings) -> None:
    """Refuse what a web page from elsewhere sends (CSRF), and on loopback any name but our own (DNS rebinding)."""
    host = request.headers.get("host", "")
    name = (host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host).lower()
    if not settings.api_key_required and name not in (*LOOPBACK_NAMES, settings.host.lower(), f"[{settings.host.lower()}]"):
        raise NotAllowed("Host is not this machine; open the address that wetread serve printed")
    origin = request.headers.get("origin")
    # browsers send it with every request that changes something; the scheme may differ behind a TLS proxy
    if origin is not None and for_cds(request) and trust.origin_allowed(settings, origin):
        return
    if origin is not None and origin.partition("://")[2].lower() != host.lower():
        raise NotAllowed("Origin is another site; open the page from its own address")
    if request.method not in SAFE_METHODS and request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise NotAllowed("Sec-Fetch-Site is another site; open the page from its own address")


def check_csrf(person: Person | None, token: str) -> None:
    """A session rides on a cookie that the browser sends by itself, so a change must also carry what only our pages know."""
    if person is not None and person.csrf and not hmac.compare_digest(person.csrf.encode(), token.encode()):
        raise NotAllowed("CSRF token is missing or old; reload the page and try again (programs: header X-CSRF-Token, or an API key)")


def bearer(header: str) -> str:
    scheme, _, key = header.partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def for_programs(request: Request) -> bool:
    return request.url.path.startswith(("/v1/", "/dicomweb/", "/fhir", trust.PATH))


def for_cds(request: Request) -> bool:
    return request.url.path == trust.PATH or request.url.path.startswith(f"{trust.PATH}/")


def wants_page(request: Request) -> bool:
    return request.method == "GET" and not for_programs(request)


# -- for the routes --------------------------------------------------------------------------------------------------


def get_desk(request: Request) -> Desk:
    return request.app.state.desk


def get_person(request: Request) -> Person:
    person = request.state.person
    assert person is not None, "the gate lets nobody through without a person"
    return person


def get_reader(person: Annotated[Person, Depends(get_person)]) -> Person:
    """Who may answer for a report: a radiologist, or whoever sits at this machine; a program never signs."""
    if person.role not in ("radiologist", "local"):
        raise NotAllowed("only a signed-in radiologist may send, sign, amend or cancel a report; sign in at /login")
    return person


def get_decider(person: Annotated[Person, Depends(get_person)]) -> Person:
    if person.role not in ("radiologist", "local", "key"):
        raise NotAllowed("only a radiologist may decide on a protocol; sign in as one at /login")
    return person


def get_administrator(person: Annotated[Person, Depends(get_person)]) -> Person:
    if person.role not in ("administrator", "local"):
        raise NotAllowed("only an administrator may do this; sign in as one at /login")
    return person


TheDesk = Annotated[Desk, Depends(get_desk)]
AnyPerson = Annotated[Person, Depends(get_person)]
Reader = Annotated[Person, Depends(get_reader)]
Decider = Annotated[Person, Depends(get_decider)]
Administrator = Annotated[Person, Depends(get_administrator)]

__all__ = ["Gate", "answer", "hash_password", "new_api_key"]
