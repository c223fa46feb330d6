"""DICOMweb for viewers: QIDO-RS searches, WADO-RS fetches; STOW-RS is in api/routes/studies.py. Source: PS3.18 chapter 10."""
import re
import secrets
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataset import Dataset

from api.dicom import archive, frames
from api.errors import HttpError
from api.security import AnyPerson, TheDesk
from api.workflow import Desk
from data.errors import ImageError, InputError, NotFound, StoreError

router = APIRouter(prefix="/dicomweb", tags=["dicomweb"])

LIMIT, LIMIT_MAX = 100, 1000
CONTROLS = ("includefield", "limit", "offset", "fuzzymatching")
JSON_TYPE = "application/dicom+json"
STUDY = "/studies/{study}"
SERIES = STUDY + "/series/{series}"
INSTANCE = SERIES + "/instances/{instance}"
Limit = Annotated[int, Query(ge=1)]
Offset = Annotated[int, Query(ge=0)]

# -- QIDO-RS ---------------------------------------------------------------------------------------------------------


@router.get("/studies")
def search_studies(request: Request, desk: TheDesk, person: AnyPerson, limit: Limit = LIMIT, offset: Offset = 0) -> Response:
    """QIDO-RS: studies by any attribute, ?PatientName=Mus*&StudyDate=20261101-&limit=20."""
    return found(request, desk, person.name, "STUDY", limit, offset)


@router.get("/series")
@router.get(STUDY + "/series", include_in_schema=False)
def search_series(request: Request, desk: TheDesk, person: AnyPerson, study: str = "", limit: Limit = LIMIT, offset: Offset = 0) -> Response:
    """QIDO-RS: series, of all studies or of one."""
    return found(request, desk, person.name, "SERIES", limit, offset, StudyInstanceUID=study)


@router.get("/instances")
@router.get(STUDY + "/instances", include_in_schema=False)
@router.get(SERIES + "/instances", include_in_schema=False)
def search_instances(request: Request, desk: TheDesk, person: AnyPerson, study: str = "", series: str = "", limit: Limit = LIMIT_MAX,
                     offset: Offset = 0) -> Response:
    """QIDO-RS: instances, of all studies, of one, or of one series."""
    return found(request, desk, person.name, "IMAGE", limit, offset, StudyInstanceUID=study, SeriesInstanceUID=series)


def found(request: Request, desk: Desk, user: str, level: str, limit: int, offset: int, **fixed: str) -> Response:
    query = Dataset()
    for name, value in [*request.query_params.multi_items(), *((name, value) for name, value in fixed.items() if value)]:
        if name not in CONTROLS:
            keyword, vr = attribute(name)
            query.add_new(keyword, vr, value.replace(",", "\\").split("\\") if vr == "UI" else value)
    limit = min(limit, LIMIT_MAX)
    rows = [as_json(item, request, level) for item in islice(archive.find(desk.store, level, query), offset, offset + limit)]
    desk.store.audit(user, "search", level.lower(), "")
    return JSONResponse(rows, media_type=JSON_TYPE)


def attribute(name: str) -> tuple[int, str]:
    """Tag and VR of a query parameter, a keyword or eight hex digits."""
    tag = int(name, 16) if re.fullmatch(r"[0-9A-Fa-f]{8}", name) else tag_for_keyword(name)
    if tag is None or not keyword_for_tag(tag):
        raise InputError(f"'{name[:40]}' is no DICOM attribute; write a keyword or eight hex digits")
    return tag, dictionary_VR(tag).split()[0]


def as_json(item: Dataset, request: Request, level: str) -> dict[str, Any]:
    address = f"{base(request)}/studies/{item.StudyInstanceUID}"
    if level != "STUDY":
        address += f"/series/{item.SeriesInstanceUID}"
    if level == "IMAGE":
        address += f"/instances/{item.SOPInstanceUID}"
    item.RetrieveURL = address
    row: dict[str, Any] = item.to_json_dict(suppress_invalid_tags=True)
    return row


def base(request: Request) -> str:
    return str(request.base_url).rstrip("/") + "/dicomweb"


# -- WADO-RS ---------------------------------------------------------------------------------------------------------


@router.get(STUDY)
@router.get(SERIES, include_in_schema=False)
@router.get(INSTANCE, include_in_schema=False)
def instances(request: Request, desk: TheDesk, person: AnyPerson, study: str, series: str = "", instance: str = "") -> Response:
    """WADO-RS: the instances of a study, of a series, or one, as multipart/related of application/dicom."""
    rows = wanted(desk, person.name, study, series, instance)
    syntax = asked_syntax(request)
    paths = [desk.store.home / row["path"] for row in rows]
    said = request.headers.get("accept", "")
    if instance and "application/dicom" in said and "multipart/related" not in said:
        return Response(frames.whole(paths[0], syntax), media_type="application/dicom")
    if not accepts(request, "application/dicom"):
        raise HttpError(406, InputError("Accept must allow multipart/related; type=\"application/dicom\""))
    return multipart("application/dicom", (("application/dicom", read(path, syntax)) for path in paths))


@router.get(STUDY + "/metadata")
@router.get(SERIES + "/metadata", include_in_schema=False)
@router.get(INSTANCE + "/metadata", include_in_schema=False)
def instances_metadata(request: Request, desk: TheDesk, person: AnyPerson, study: str, series: str = "", instance: str = "") -> Response:
    """WADO-RS: all attributes as DICOM JSON; pixels and other long values by reference."""
    rows = wanted(desk, person.name, study, series, instance)
    if not accepts(request, JSON_TYPE, "application/json"):
        raise HttpError(406, InputError(f"Accept allows no {JSON_TYPE}, the one type of this answer; allow it, or leave Accept out"))
    return JSONResponse([frames.metadata(desk.store.home / row["path"], address(request, row)) for row in rows], media_type=JSON_TYPE)


@router.get(INSTANCE + "/frames/{numbers}")
def instance_frames(request: Request, desk: TheDesk, person: AnyPerson, study: str, series: str, instance: str, numbers: str) -> Response:
    """WADO-RS: frames, counted from 1, ?frames/1,2; as stored with transfer-syntax=*, else raw little endian."""
    if not re.fullmatch(r"\d{1,6}(,\d{1,6}){0,1999}", numbers):
        raise HttpError(400, InputError("frames are no numbers with commas between, counted from 1; ask for frames/1,2"))
    [row] = wanted(desk, person.name, study, series, instance)
    parts = frames.frames(desk.store.home / row["path"], [int(number) for number in numbers.split(",")], asked_syntax(request))
    return multipart(parts[0][0].split(";")[0], parts)


@router.get(INSTANCE + "/bulkdata/{tag}", include_in_schema=False)
def instance_bulk_data(desk: TheDesk, person: AnyPerson, study: str, series: str, instance: str, tag: str) -> Response:
    [row] = wanted(desk, person.name, study, series, instance)
    return multipart("application/octet-stream", [("application/octet-stream", frames.bulk_data(desk.store.home / row["path"], tag))])


@router.get(INSTANCE + "/rendered")
@router.get(INSTANCE + "/frames/{number}/rendered", include_in_schema=False)
@router.get(INSTANCE + "/thumbnail", include_in_schema=False)
def instance_rendered(request: Request, desk: TheDesk, person: AnyPerson, study: str, series: str, instance: str, number: int = 1,
                      window: str = "") -> Response:
    """WADO-RS: a frame as PNG or JPEG; ?window=CENTRE,WIDTH,linear."""
    kind = "image/png" if accepts(request, "image/png") and "image/jpeg" not in request.headers.get("accept", "") else "image/jpeg"
    if not accepts(request, "image/png", "image/jpeg"):
        raise HttpError(406, InputError("Accept allows neither image/jpeg nor image/png; allow one of them, or leave Accept out"))
    shown = re.fullmatch(r"(-?\d+(?:\.\d+)?),(\d+(?:\.\d+)?)(,linear)?", window)
    if window and not shown:
        raise HttpError(400, InputError("window is not of the form CENTRE,WIDTH or CENTRE,WIDTH,linear; a brain window is 40,80"))
    [row] = wanted(desk, person.name, study, series, instance)
    body = frames.rendered(desk.store.home / row["path"], number, kind, (float(shown[1]), float(shown[2])) if shown else None,
                           128 if request.url.path.endswith("/thumbnail") else frames.PICTURE_MAX)
    return Response(body, media_type=kind)


def wanted(desk: Desk, user: str, study: str, series: str, instance: str) -> list[dict[str, Any]]:
    """The rows of what the address names; a look at them is audited."""
    rows = archive.kept(desk.store, study, series, instance)
    if not rows:
        raise NotFound("nothing is kept under that address; GET /dicomweb/studies lists what is")
    desk.store.audit(user, "look", "images", study)
    return rows[-1:] if instance else rows


def address(request: Request, row: dict[str, Any]) -> str:
    return f"{base(request)}/studies/{row['study_id']}/series/{row['series_uid']}/instances/{row['sop_uid']}"


def read(path: Path, syntax: str) -> bytes:
    try:
        return frames.whole(path, syntax)
    except ImageError:
        return path.read_bytes()        # what cannot be decoded comes as it is stored, with its transfer syntax in its header
    except OSError:
        raise StoreError("an instance's file cannot be read; see wetread doctor") from None


def accepts(request: Request, *kinds: str) -> bool:
    """Whether Accept allows one of the media types, also as the type of a multipart."""
    said = request.headers.get("accept", "*/*").lower()
    wide = any(word in said for word in ("*/*", *(f"{kind.split('/')[0]}/*" for kind in kinds)))
    return wide or any(kind in said for kind in kinds) or ("multipart/related" in said and "type=" not in said)


def asked_syntax(request: Request) -> str:
    named = re.search(r"transfer-syntax=\"?([0-9.]+|\*)", request.headers.get("accept", ""))
    return named[1] if named else ""


def multipart(kind: str, parts: Iterable[tuple[str, bytes]]) -> StreamingResponse:
    """multipart/related, one part at a time: memory holds one instance, however many are fetched."""
    boundary = secrets.token_hex(16)

    def body() -> Iterator[bytes]:
        for media, data in parts:
            yield f"--{boundary}\r\nContent-Type: {media}\r\nContent-Length: {len(data)}\r\n\r\n".encode()
            yield data
            yield b"\r\n"
        yield f"--{boundary}--\r\n".encode()

    return StreamingResponse(body(), media_type=f'multipart/related; type="{kind}"; boundary={boundary}')
