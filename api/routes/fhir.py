"""FHIR R4 under /fhir: orders in and out, reports, studies, measurements, the protocoling task and who made what."""
import re
from typing import Any

from anyio import to_thread
from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response

from api.errors import HttpError
from api.fhir.conformance import MEDIA_TYPE, capability
from api.fhir.intake import read_request
from api.fhir.search import PARAMETERS, bundle, check_id, read_query
from api.json_body import read_json
from api.security import AnyPerson, TheDesk
from data.errors import InputError, NotFound, StateError

KINDS = tuple(PARAMETERS)


def json_wanted(request: Request) -> None:
    """Only JSON is spoken; whoever asks for XML alone is told so."""
    asked = request.query_params.get("_format") or request.headers.get("accept") or "*/*"
    if not re.search(r"json|\*/\*|application/\*|text/html", asked):
        raise HttpError(406, InputError("only JSON is spoken here; send Accept: application/fhir+json"))


router = APIRouter(prefix="/fhir", tags=["FHIR"], dependencies=[Depends(json_wanted)])
BODY = {"requestBody": {"required": True, "content": {MEDIA_TYPE: {"schema": {"type": "object"}}}}}


def fhir(resource: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> Response:
    meta = resource.get("meta", {})
    etag = {"ETag": f'W/"{meta["versionId"]}"'} if meta.get("versionId") else {}
    return JSONResponse(resource, status, {**etag, **(headers or {})}, media_type=MEDIA_TYPE)


def base_of(request: Request) -> str:
    return request.app.state.settings.public_url


@router.get("/metadata")
def metadata(request: Request) -> Response:
    """The CapabilityStatement."""
    return fhir(capability(base_of(request), request.app.version))


@router.get("/{kind}")
def search(kind: str, request: Request, desk: TheDesk, person: AnyPerson) -> Response:
    """A page of resources as a Bundle; /fhir/metadata lists the parameters."""
    return searched(kind, request.query_params.multi_items(), request, desk, person)


@router.post("/{kind}/_search", openapi_extra={"requestBody": {"content": {"application/x-www-form-urlencoded": {"schema": {"type": "object"}}}}})
async def search_by_form(kind: str, request: Request, desk: TheDesk, person: AnyPerson) -> Response:
    """The same search, its parameters out of sight of logs and proxies."""
    async with request.form(max_files=0, max_fields=100) as form:
        pairs = [*request.query_params.multi_items(), *((name, str(value)) for name, value in form.multi_items())]
    return await to_thread.run_sync(searched, kind, pairs, request, desk, person)


def searched(kind: str, pairs: list[tuple[str, str]], request: Request, desk: TheDesk, person: AnyPerson) -> Response:
    known_kind(kind)
    try:
        query = read_query(kind, pairs)
    except InputError as error:
        raise HttpError(400, error) from None
    found, total = desk.fhir_search(kind, query)
    desk.store.audit(person.name, "search", kind, "")
    if request.query_params.get("_summary") == "count":
        found = []
    return fhir(bundle(kind, found, total, query, base_of(request), pairs))


@router.get("/{kind}/{id}")
def read(kind: str, id: str, request: Request, desk: TheDesk, person: AnyPerson) -> Response:
    """One resource."""
    known_kind(kind)
    found = desk.fhir_read(kind, check_id(id))
    desk.store.audit(person.name, "look", kind, id)
    headers = {"ETag": f'W/"{found.get("meta", {}).get("versionId", "")}"'}
    if found.get("meta", {}).get("versionId") and request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    return fhir(found)


@router.post("/ServiceRequest", status_code=201, openapi_extra=BODY)
async def create(request: Request, desk: TheDesk, person: AnyPerson) -> Response:
    """Take an order; 201 for a new one, 200 for one that was known by its identifier. Kept durably before it is answered."""
    order, system = read_request(await body_of(request))
    id, new = await to_thread.run_sync(desk.take_request, order, system, person.name)
    found = await to_thread.run_sync(desk.fhir_read, "ServiceRequest", id)
    location = f"{base_of(request)}/fhir/ServiceRequest/{id}"
    return fhir(found, 201 if new else 200, {"Location": location, "Content-Location": location})


@router.put("/ServiceRequest/{id}", openapi_extra=BODY)
async def update(id: str, request: Request, desk: TheDesk, person: AnyPerson) -> Response:
    """Change or cancel (status revoked) an order; as in HL7 v2, an element left out leaves what is known."""
    order, system = read_request(await body_of(request), check_id(id))
    try:
        await to_thread.run_sync(desk.change_request, id, order, system, version_of(request), person.name)
    except StateError as error:
        raise HttpError(412, error) from None
    return fhir(await to_thread.run_sync(desk.fhir_read, "ServiceRequest", id))


def version_of(request: Request) -> int | None:
    given = request.headers.get("if-match")
    if given is None:
        return None
    found = re.fullmatch(r'(?:W/)?"(\d{1,9})"', given.strip())
    if not found:
        raise HttpError(400, InputError('If-Match is no version; send the ETag of a read, W/"3"'))
    return int(found[1])


async def body_of(request: Request) -> Any:
    if not re.match(r"application/(fhir\+)?json\b", request.headers.get("content-type", "")):
        raise HttpError(415, InputError("Content-Type is not application/fhir+json; send JSON"))
    raw = await request.body()
    try:
        return await to_thread.run_sync(read_json, raw)
    except InputError as error:
        raise HttpError(400, error) from None


def known_kind(kind: str) -> None:
    if kind not in KINDS:
        raise NotFound(f"there is no such resource type here; GET /fhir/metadata lists {', '.join(KINDS)}")
