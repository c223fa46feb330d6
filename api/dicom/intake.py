"""One way in for every DICOM instance: bytes durable in a file, then its row, then the answer."""
import contextlib
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from api.store import disk_error, sync_folder
from api.workflow import Desk
from data.dicom import instance_header
from data.errors import ImageError, StoreError

MAX_BYTES = 512 * 2**20
DURABLE: set[Path] = set()     # folders whose own names this process has synced
REQUIRED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "TransferSyntaxUID")


@dataclass(frozen=True)
class Kept:
    study_uid: str
    series_uid: str
    sop_uid: str
    sop_class_uid: str
    sha256: str
    new: bool               # False for a second copy of the same bytes


def keep_instance(desk: Desk, data: bytes, source: str, prior: bool = False) -> Kept:
    """Keep one instance durably under HOME/dicom and record it; `source` says who sent it, `prior` that we fetched it to compare with.

    Raises: ImageError for what is no usable DICOM (its bytes are kept under HOME/refused), StoreError when nothing can be written.
    """
    digest = hashlib.sha256(data).hexdigest()
    if len(data) > MAX_BYTES:
        raise ImageError(f"the instance has {len(data)} bytes, at most {MAX_BYTES} are taken; send multi-frame objects in parts")
    try:
        header = instance_header(data)
        missing = [name for name in REQUIRED if not header.get(name)]
        if missing:
            raise ImageError(f"{', '.join(missing)} is empty; send an instance with all five UIDs")
    except ImageError:
        write_durably(desk.settings.home, Path("refused") / f"{digest}.dcm", data)
        raise
    path = Path("dicom") / digest[:2] / f"{digest}.dcm"
    try:
        write_durably(desk.settings.home, path, data)
    except StoreError:
        desk.store.doubt()
        raise
    new = desk.instance_kept({**header, "sha256": digest, "path": str(path), "source": source, "prior": prior})
    return Kept(header["StudyInstanceUID"], header["SeriesInstanceUID"], header["SOPInstanceUID"], header["SOPClassUID"], digest, new)


def write_durably(home: Path, path: Path, data: bytes) -> None:
    """Write HOME/path so that it outlives a power cut: the file, its name in the folder, and new folders in theirs.

    The file gets its name before both are synced, so that a journal writes both at once. A name may so outlive a power cut that its bytes did not:
    what is there already is compared, and written again.
    """
    whole = home / path
    partial = whole.with_name(f"{whole.name}.{os.getpid()}.{os.urandom(4).hex()}.part")
    try:
        whole.parent.mkdir(parents=True, exist_ok=True)
        if whole.exists() and whole.read_bytes() == data:       # perhaps by another thread a moment ago, and not synced yet
            with whole.open("rb") as file:
                os.fsync(file.fileno())
        else:
            with partial.open("wb") as file:
                file.write(data)
                file.flush()
                os.replace(partial, whole)
                os.fsync(file.fileno())
        sync_folder(whole.parent)
        if whole.parent not in DURABLE:     # another thread may have made it a moment ago
            for folder in (whole.parent.parent, *whole.parent.parent.parents):
                sync_folder(folder)
                if folder == home:
                    break
            DURABLE.add(whole.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise disk_error(whole.parent, error) from None
