"""Errors as answers: problem JSON (RFC 9457) for programs, a plain page for people; never a traceback, never what was sent."""
import logging
import secrets
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from api.fhir.conformance import MEDIA_TYPE, outcome
from api.views import page
from data.errors import (
    BookError,
    ImageError,
    InputError,
    MessageError,
    MessageRefused,
    ModelError,
    NotAllowed,
    NotFound,
    OrderRejected,
    OutputError,
    SeriesError,
    StateError,
    StoreError,
    StoreFull,
    StudyRefused,
    WetreadError,
)

log = logging.getLogger("wetread.http")

STATUS: dict[type[WetreadError], int] = {
    InputError: 422, OrderRejected: 422, MessageError: 422, MessageRefused: 422, ImageError: 422, SeriesError: 422, StudyRefused: 422,
    NotFound: 404, StateError: 409, NotAllowed: 403, ModelError: 503, StoreError: 503, StoreFull: 507, BookError: 500, OutputError: 507,
}
FOR_PROGRAMS = ("/v1/", "/dicomweb/", "/cds-services", "/fhir", "/openapi.json", "/health", "/ready")
# what the framework itself says no to
CODED: dict[int, WetreadError] = {
    404: NotFound("there is nothing at this address; GET /docs lists what there is"),
    405: InputError("this address does not take that method; GET /docs lists what it takes"),
}


class HttpError(Exception):
    """A coded error with the HTTP status that only this place knows: 401 for no key, 413 for too much."""

    def __init__(self, status: int, error: WetreadError, headers: dict[str, str] | None = None) -> None:
        super().__init__(str(error))
        self.status, self.error, self.headers = status, error, headers


class TooLarge(HTTPException):
    """Raised while a body is read; an HTTPException, because FastAPI turns all others into its own 400."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(413)
        self.error = too_large(limit_bytes)


class TooSlow(HTTPException):
    def __init__(self) -> None:
        super().__init__(408, headers={"Connection": "close"})
        self.error = InputError("the body came too slowly or stopped; send it again")


def too_large(limit_bytes: int) -> InputError:
    return InputError(f"the body is larger than {limit_bytes} bytes, the most this address takes; send less at a time")


def add_handlers(app: FastAPI) -> None:
    app.add_exception_handler(WetreadError, coded)
    app.add_exception_handler(HttpError, with_status)
    app.add_exception_handler(RequestValidationError, malformed)
    app.add_exception_handler(HTTPException, of_framework)


def coded(request: Request, error: Any) -> Response:
    return answer(request, STATUS.get(type(error), 500), error)


def with_status(request: Request, error: Any) -> Response:
    return answer(request, error.status, error.error, error.headers)


def of_framework(request: Request, error: Any) -> Response:
    known = getattr(error, "error", None) or CODED.get(error.status_code)
    return answer(request, error.status_code, known or InputError("the request cannot be read; GET /docs shows what is expected"), error.headers)


def malformed(request: Request, error: Any) -> Response:
    """Name each field at fault, never its value: it may be a patient's."""
    rows = error.errors()
    if any(row["type"] == "json_invalid" for row in rows):
        return answer(request, 400, InputError("the body is no JSON; send one JSON object"))
    words = "; ".join(f"{place(row['loc'])}: {row['msg']}" for row in rows[:5])
    return answer(request, 422, InputError(f"{words}; GET /docs shows what is expected"))


def place(parts: tuple[Any, ...]) -> str:
    return ".".join(str(part)[:40] for part in parts if part != "body") or "body"


def unexpected(request: Request, error: Exception) -> Response:
    """A mistake of ours: the log has its kind and place under a number, the answer has the number alone."""
    number = secrets.token_hex(4)
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    where = f"{at.tb_frame.f_code.co_filename}:{at.tb_lineno}" if at else "?"
    log.error("internal error %s: %s at %s", number, type(error).__name__, where)
    return answer(request, 500, WetreadError(f"something went wrong here, not with what you sent; tell your administrator the number {number}"))


def answer(request: Request, status: int, error: WetreadError, headers: dict[str, str] | None = None) -> Response:
    if request.url.path.startswith("/fhir"):
        return JSONResponse(outcome(status, error.code, str(error)), status, headers, media_type=MEDIA_TYPE)
    if request.url.path.startswith(FOR_PROGRAMS):
        body = {"type": "about:blank", "title": type(error).__name__, "status": status, "code": error.code, "detail": str(error)}
        return JSONResponse(body, status, headers, media_type="application/problem+json")
    return page(request, "error.html", status, headers, error=str(error), number=status)
