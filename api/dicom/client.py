"""A small DICOM storage SCU: files and folders to one SCP, one row an instance."""
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from pynetdicom import AE

from data.errors import StoreError

CONTEXTS_MAX = 128          # PS3.8 section 9.3.2: presentation context IDs are odd, 1 to 255
BESIDE = ("truth.json", "order.jsonl", "raw.npz", "structures.nii.gz", "mask_*.nii.gz")      # what `wetread simulate studies` lays beside DICOM


def send_dicom(host: str, port: int, paths: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """Store every file; a row {file, status, ok, text} each. Raises StoreError when nobody answers there."""
    kinds: dict[tuple[str, str], list[Path]] = {}
    files = [path for given in paths for path in (sorted(given.rglob("*")) if given.is_dir() else [given])]
    for folder in paths:
        if folder.is_dir() and not any(path.is_file() and folder in path.parents for path in files):
            yield {"file": str(folder), "status": "", "ok": False, "text": "[E109] the folder holds no file; give one with DICOM files"}
    for path in files:
        if path.is_dir() or any(fnmatch(path.name, name) for name in BESIDE):
            continue
        try:
            header = dcmread(path, stop_before_pixels=True, specific_tags=["SOPClassUID"])
            kinds.setdefault((str(header.SOPClassUID), str(header.file_meta.TransferSyntaxUID)), []).append(path)
        except (InvalidDicomError, AttributeError, OSError):
            yield {"file": str(path), "status": "", "ok": False, "text": "[E106] no DICOM file with a SOP class and a transfer syntax"}
    contexts = list(kinds)
    for start in range(0, len(contexts), CONTEXTS_MAX):
        group = contexts[start:start + CONTEXTS_MAX]
        ae = AE(ae_title="WETREAD_SEND")
        for sop_class, syntax in group:
            ae.add_requested_context(sop_class, syntax)
        association = ae.associate(host, port)
        if not association.is_established:
            raise StoreError(f"no DICOM storage at {host}:{port} took the association; start one there, or check its allow-list of peers")
        try:
            for kind in group:
                for path in kinds[kind]:
                    yield one(association, path)
        finally:
            association.release()


def one(association: Any, path: Path) -> dict[str, Any]:
    try:
        answer = association.send_c_store(path)
    except (ValueError, RuntimeError, AttributeError) as error:
        return {"file": str(path), "status": "", "ok": False, "text": f"not sent: {type(error).__name__}"}
    code = getattr(answer, "Status", None)
    return {"file": str(path), "status": "" if code is None else f"0x{code:04X}", "ok": code == 0,
            "text": str(getattr(answer, "ErrorComment", "")) if code is not None else "no answer"}
