"""Studies: listed, looked at, sent by upload or STOW-RS, completed; their images for the viewer."""
import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from api.errors import HttpError
from api.security import AnyPerson, Person, TheDesk
from api.workflow import Desk
from data.dicom import instance_header
from data.errors import InputError, StoreError, WetreadError

router = APIRouter(prefix="/v1/studies", tags=["studies"])
dicomweb = APIRouter(prefix="/dicomweb", tags=["dicomweb"])

FILES_MAX = 5000
INSTANCE_MAX_BYTES = 512 << 20
PART_HEADERS_MAX_BYTES = 8192
# PS3.18 Table 10.5.1-1 and PS3.4 Annex GG.4.2: why an instance was not kept
CANNOT_UNDERSTAND, OUT_OF_RESOURCES = 0xC000, 0xA700


@router.get("")
def studies(desk: TheDesk, person: AnyPerson, limit: Annotated[int, Query(ge=1, le=1000)] = 200) -> list[dict[str, Any]]:
    """The reading list: most urgent first, signed ones last."""
    rows = desk.studies(limit)
    desk.store.audit(person.name, "list", "studies", "")
    return rows


@router.get("/{id}")
def study(id: str, desk: TheDesk, person: AnyPerson) -> dict[str, Any]:
    """One study with its series, drafts and order."""
    found = desk.study(id)
    desk.store.audit(person.name, "look", "study", id)
    return found


@router.post("", status_code=201, openapi_extra={"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": {
    "type": "object", "properties": {"files": {"type": "array", "items": {"type": "string", "format": "binary"}}}}}}}})
async def upload(request: Request, desk: TheDesk, person: AnyPerson) -> Response:
    """Take DICOM files by form upload; 201 means that every file named under `kept` is stored durably."""
    rows: list[dict[str, Any]] = []
    async for number, data in parts(request, b"multipart/form-data"):
        rows.append(await keep(desk, data, f"file {number}", person))
    if not rows:
        raise InputError("the form holds no file; send DICOM files as parts of the form")
    kept = [row for row in rows if "error" not in row]
    body = {"kept": kept, "failed": [row for row in rows if "error" in row], "studies": sorted({row["study"] for row in kept})}
    return JSONResponse(body, 201 if kept else worst(rows))


@dicomweb.post("/studies", openapi_extra={"requestBody": {"required": True, "content": {
    "multipart/related; type=\"application/dicom\"": {"schema": {"type": "string", "format": "binary"}}}}})
@dicomweb.post("/studies/{study_id}", include_in_schema=False)
async def stow(request: Request, desk: TheDesk, person: AnyPerson, study_id: str = "") -> Response:
    """STOW-RS. Source: PS3.18 10.5; 200 all kept, 202 some, 409 none (503 when the store cannot be written)."""
    rows = []
    async for number, data in parts(request, b"multipart/related"):
        rows.append(await keep(desk, data, f"part {number}", person, study_id))
    if not rows:
        raise HttpError(400, InputError("the body holds no part; send instances as parts of type application/dicom"))
    kept = [row for row in rows if "error" not in row]
    status = 200 if len(kept) == len(rows) else 202 if kept else 503 if worst(rows) == 503 else 409
    return JSONResponse(stow_answer(rows), status, media_type="application/dicom+json")


@router.post("/{id}/complete")
def complete(id: str, desk: TheDesk, person: AnyPerson) -> dict[str, Any]:
    """Say that all images are there, instead of waiting for the quiet period."""
    desk.complete_study(id, person.name)
    return desk.study(id)


@router.get("/{id}/series/{n}")
def series(id: str, n: int, request: Request, desk: TheDesk, person: AnyPerson) -> dict[str, Any]:
    """Shape, spacing, sides and units of the nth series that can be shown, counted from 0."""
    return request.app.state.images.series(desk.store.home, desk.study(id), n)[0]


@router.get("/{id}/series/{n}/pixels", response_class=Response)
def series_pixels(id: str, n: int, request: Request, desk: TheDesk, person: AnyPerson) -> Response:
    """The whole volume: int16 little endian, slices, rows, columns; GET …/series/{n} says how to read it."""
    _, body = request.app.state.images.series(desk.store.home, desk.study(id), n)
    desk.store.audit(person.name, "look", "images", id)
    return Response(body, media_type="application/octet-stream")


async def keep(desk: Desk, data: bytes, name: str, person: Person, study_id: str = "") -> dict[str, Any]:
    """Keep one instance durably, off the event loop; a coded error becomes a row that says so."""
    try:
        return await to_thread.run_sync(keep_one, desk, data, name, person, study_id)
    except WetreadError as error:
        return failed(name, error)


def keep_one(desk: Desk, data: bytes, name: str, person: Person, study_id: str) -> dict[str, Any]:
    from api.dicom.intake import keep_instance

    head = instance_header(data)
    row = {"name": name, "study": head["StudyInstanceUID"], "instance": head["SOPInstanceUID"], "sop_class": head["SOPClassUID"]}
    if study_id and study_id != row["study"]:
        return {**row, **failed(name, InputError("StudyInstanceUID is not the one of the address; send it there or to /dicomweb/studies"))}
    try:
        keep_instance(desk, data, f"http:{person.name}")
    except WetreadError as error:
        return {**row, **failed(name, error)}
    desk.store.audit(person.name, "upload", "study", row["study"])
    return row


def failed(name: str, error: WetreadError) -> dict[str, Any]:
    return {"name": name, "code": error.code, "error": str(error), "status": 503 if isinstance(error, StoreError) else 422}


def worst(rows: list[dict[str, Any]]) -> int:
    return max(row["status"] for row in rows)


def stow_answer(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Store Instances Response Module. Source: PS3.18 Table I.1-1."""
    kept, lost = [], []
    for row in rows:
        item: dict[str, Any] = {"00081150": {"vr": "UI", "Value": [row.get("sop_class", "")]},
                                "00081155": {"vr": "UI", "Value": [row.get("instance", "")]}}
        if "error" in row:
            reason = OUT_OF_RESOURCES if row["status"] == 503 else CANNOT_UNDERSTAND
            lost.append({**item, "00081197": {"vr": "US", "Value": [reason]}, "00000902": {"vr": "LO", "Value": [row["error"][:64]]}})
        else:
            kept.append(item)
    answer = {}
    if kept:
        answer["00081199"] = {"vr": "SQ", "Value": kept}
    if lost:
        answer["00081198"] = {"vr": "SQ", "Value": lost}
    return answer


async def parts(request: Request, expected: bytes) -> AsyncIterator[tuple[int, bytes]]:
    """The parts of a multipart body that are instances, one at a time: memory holds one, however many are sent."""
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind != expected or not options.get(b"boundary"):
        raise HttpError(415, InputError(f"the body is no {expected.decode()} with a boundary; send DICOM files as its parts"))
    if expected == b"multipart/related" and options.get(b"type", b"application/dicom").lower() != b"application/dicom":
        raise HttpError(415, InputError("type of the body is not application/dicom; send DICOM Part 10 instances"))
    done: list[bytes] = []
    now = bytearray()
    head = bytearray()
    begun = 0

    def begin() -> None:
        nonlocal begun
        begun += 1
        if begun > FILES_MAX:
            raise HttpError(413, InputError(f"more than {FILES_MAX} parts; send fewer at a time"))
        now.clear()
        head.clear()

    def header_bytes(data: bytes, start: int, end: int) -> None:
        if len(head) + end - start > PART_HEADERS_MAX_BYTES:
            raise HttpError(400, InputError(f"a part's header is longer than {PART_HEADERS_MAX_BYTES} bytes; "
                                             "send Content-Type and Content-Disposition alone"))
        head.extend(memoryview(data)[start:end])

    def end_part() -> None:
        # the other fields of a form are none of ours
        if expected == b"multipart/related" or b"filename" in head.lower():
            done.append(bytes(now))
        now.clear()

    def body_bytes(data: bytes, start: int, end: int) -> None:
        if len(now) + end - start > INSTANCE_MAX_BYTES:
            raise HttpError(413, InputError(f"an instance is larger than {INSTANCE_MAX_BYTES} bytes; send smaller instances"))
        now.extend(memoryview(data)[start:end])

    number, ended = 0, False

    def finish() -> None:
        nonlocal ended
        ended = True

    try:
        parser = MultipartParser(options[b"boundary"], {
            "on_part_begin": begin, "on_header_field": header_bytes, "on_header_value": header_bytes, "on_part_data": body_bytes,
            "on_part_end": end_part, "on_end": finish})
        async for chunk in request.stream():
            parser.write(chunk)
            for data in done:
                number += 1
                yield number, data
            done.clear()
            await asyncio.sleep(0)
    except FormParserError:
        raise HttpError(400, InputError("the multipart body is malformed; check its boundary lines")) from None
    if not ended:
        raise HttpError(400, InputError("the multipart body ends early; send its closing boundary"))
