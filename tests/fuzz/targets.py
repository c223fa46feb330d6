"""What outside bytes meet first, each as a function of bytes: it may refuse with a coded error and may do nothing else wrong."""
import asyncio
import contextlib
import json
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from api.cds.services import SERVICES, check_call, known_of, missing, queries, requests_of, subject_agrees
from api.dicom import frames
from api.dicom.intake import REQUIRED
from api.errors import HttpError
from api.fhir.intake import read_request
from api.fhir.orders import order_from
from api.hl7.acknowledge import glance, read, receive
from api.hl7.messages import HANDLERS
from api.hl7.mllp import Framer
from api.hl7.reader import escape_text, read_message, unescape
from api.json_body import read_json
from api.routes.studies import parts
from data.dicom import instance_header, read_study
from data.errors import WetreadError

NOW = "20261126120000"
FOLDER = Path(tempfile.mkdtemp(prefix="wetread-fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))


def hl7(data: bytes) -> None:
    """Any frame gets an answer that can be read; the quick look agrees with the full reading; text survives being sent on."""
    answer = receive(data, NOW).answer
    if answer is not None:
        assert read_message(answer).get("MSA-1") in ("AA", "AE", "AR", "CA", "CE", "CR")
    quick = glance(data, NOW)
    assert quick is None or quick == read(data, NOW)
    try:
        message = read_message(data)
    except WetreadError:
        return
    handler = HANDLERS.get(message.kind)
    if handler is not None:
        try:
            handler(message)
        except WetreadError:
            return
    said = message.text("OBR-31").replace("\r\n", "\n").replace("\r", "\n")
    escaped = escape_text(said)
    assert unescape(escaped, "|^~\\&") == said and not set(escaped) & set("|^~&\r\n\x0b\x1c")


def mllp(data: bytes) -> None:
    """However a stream is cut, its frames are the same; the first byte says how."""
    step, data = max(data[:1], b"\x01")[0], data[1:]
    whole, cut = Framer(), Framer()
    expected = whole.feed(data)
    assert [frame for at in range(0, len(data), step) for frame in cut.feed(data[at:at + step])] == expected
    assert cut.pending == whole.pending


def dicom(data: bytes) -> None:
    """A file is kept or refused; what is kept can be looked at or is refused then."""
    header = instance_header(data)
    if not all(header[name] for name in REQUIRED):
        return
    path = FOLDER / "one.dcm"
    path.write_bytes(data)
    for look in (lambda: json.dumps(frames.metadata(path, ""), allow_nan=False), lambda: frames.whole(path, ""), lambda: frames.frames(path, [1], ""),
                 lambda: frames.rendered(path, 1, "image/png", None), lambda: read_study([path])):
        try:
            look()
        except WetreadError:
            continue


class Body:
    """A request as `parts` sees it."""

    def __init__(self, head: bytes, data: bytes, step: int) -> None:
        self.headers = {"content-type": head.decode("latin-1")}
        self.data, self.step = data, step

    async def stream(self) -> AsyncIterator[bytes]:
        for at in range(0, len(self.data), self.step):
            yield self.data[at:at + self.step]


def multipart(data: bytes) -> None:
    """First line: the Content-Type; its first letter says how the rest is cut. Every part comes out once, whole, however the body is cut."""
    head, _, body = data.partition(b"\n")

    async def take(step: int) -> list[bytes]:
        return [part async for _, part in parts(Body(head, body, step), kind)]  # type: ignore[arg-type]  # what of a Request it uses

    async def take_all(step: int) -> list[bytes] | str:
        try:
            return await take(step)
        except HttpError as error:
            return error.error.code

    kind = b"multipart/related" if b"related" in head else b"multipart/form-data"
    assert asyncio.run(take_all(1 + head[-1] % 97 if head else 1)) == asyncio.run(take_all(1 << 20))


def fhir(data: bytes) -> None:
    """A ServiceRequest becomes an order or is refused; a CDS Hooks call gets its orders read."""
    body = read_json(data)
    with contextlib.suppress(WetreadError):
        read_request(body)
    for id in SERVICES:
        try:
            check_call(id, body)
        except WetreadError:
            continue
        queries(body, missing(body))
        known = known_of(body, {})
        for row in requests_of(body):
            if subject_agrees(row, body):
                order_from(row, known)


TARGETS: dict[str, Callable[[bytes], None]] = {"hl7": hl7, "mllp": mllp, "dicom": dicom, "multipart": multipart, "fhir": fhir}
INSTRUMENTED = ["api.hl7", "api.fhir", "api.cds", "api.json_body", "api.routes.studies", "api.dicom.frames", "data.dicom", "data.dicom_limits",
                "pydicom.filereader", "pydicom.values", "python_multipart"]


def one(name: str, data: bytes) -> None:
    """One input to one target; whatever comes out of here is a mistake of ours."""
    with contextlib.suppress(WetreadError, HttpError):
        TARGETS[name](data)
