"""De-identification by the Basic Application Level Confidentiality Profile, without options. Source: PS3.15 2026c annex E, table E.1-1."""
import hashlib
import hmac
import os
import secrets
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pydicom
from pydicom.datadict import dictionary_has_tag
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence

from data.errors import ImageError, InputError

SECRET_BYTES = 32
# what replaces a value the profile wants replaced (action D), by VR; a sequence is emptied
DUMMIES = {"DA": "19000101", "TM": "000000", "DT": "19000101000000", "PN": "REMOVED^", "AS": "000Y", "IS": "0", "DS": "0", "CS": "REMOVED",
           "US": 0, "SS": 0, "UL": 0, "SL": 0, "FL": 0.0, "FD": 0.0, "OB": b"\0\0", "OW": b"\0\0", "UN": b"\0\0"}
STANDARD = "1.2.840.10008."         # UIDs of DICOM itself: SOP classes, transfer syntaxes, coding schemes
# words in a header for pictures whose pixels may carry a name: not known to be free of it, so left out
SCREENS = ("SECONDARY CAPTURE", "SCREEN SAVE", "ENCAPSULATED", "VIDEO ", "ULTRASOUND")
DOCUMENTS = ("SR", "KO", "PR", "DOC", "PLAN", "RTRECORD", "SEG")        # free text or graphics at their core: cleaning them needs a person


class Deidentifier:
    """Same secret, same UIDs and pseudonyms: files of a study stay together, also from one run to the next."""

    def __init__(self, secret: bytes) -> None:
        self.secret = secret

    def pseudonym(self, kind: str, value: str) -> str:
        return hmac.new(self.secret, f"{kind}:{value}".encode(), hashlib.sha256).hexdigest()

    def uid(self, value: str) -> str:
        """A UID of DICOM's own stays; any other becomes one under 2.25 (PS3.5 B.2) that cannot be turned back without the secret."""
        if not value or value.startswith(STANDARD):
            return value
        return f"2.25.{int(self.pseudonym('uid', value)[:32], 16)}"

    def apply(self, image: FileDataset) -> FileDataset:
        """A new data set without what identifies; raises ImageError for an instance whose pixels or text may name the patient."""
        if reason := why_not(image):
            raise ImageError(reason)
        patient = str(image.get("PatientID", ""))
        cleaned = self.clean(image)
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = cleaned.SOPClassUID, cleaned.SOPInstanceUID
        meta.TransferSyntaxUID = image.file_meta.TransferSyntaxUID
        done = FileDataset("", cleaned, preamble=b"\0" * 128, file_meta=meta)
        done.PatientID = "W" + self.pseudonym("patient", patient)[:12].upper() if patient else ""
        done.PatientName = f"{done.PatientID}^"
        done.PatientIdentityRemoved, done.BurnedInAnnotation = "YES", "NO"
        done.DeidentificationMethod = "Wetread, PS3.15 2026c Basic Profile"
        done.LongitudinalTemporalInformationModified = "REMOVED"
        method = Dataset()
        method.CodeValue, method.CodingSchemeDesignator = "113100", "DCM"
        method.CodeMeaning = "Basic Application Confidentiality Profile"
        done.DeidentificationMethodCodeSequence = Sequence([method])
        return done

    def clean(self, dataset: Dataset) -> Dataset:
        kept = Dataset()
        for element in dataset:
            done = self.element(element)
            if done is not None:
                kept.add(done)
        return kept

    def element(self, element: DataElement) -> DataElement | None:
        tag = element.tag
        # what is private, of an older curve or overlay, or not in the dictionary may hold anything
        if tag.is_private or tag.group == 0 or 0x5000 <= tag.group <= 0x50FF or not dictionary_has_tag(tag):
            return None
        if 0x6000 <= tag.group <= 0x60FF:
            return None
        action = actions().get((tag.group, tag.element), "K")
        if action == "X":
            return None
        if element.VR == "SQ":
            items = [] if action in ("Z", "D") else [self.clean(item) for item in element.value]
            return DataElement(tag, "SQ", Sequence(items))
        if element.VR == "UI":
            value = element.value
            many = type(value).__name__ == "MultiValue"
            return DataElement(tag, "UI", [self.uid(str(one)) for one in value] if many else self.uid(str(value or "")))
        if action == "Z":
            return DataElement(tag, element.VR, None)
        if action == "D":
            return DataElement(tag, element.VR, DUMMIES.get(element.VR, "REMOVED"))
        return element


@cache
def actions() -> dict[tuple[int, int], str]:
    """(group, element) -> X remove, Z empty, D dummy, U new UID; where the table gives a choice, the one that keeps the object whole."""
    from dicomanonymizer.dicom_anonymization_databases import dicomfields_2026c as table

    found = {}
    for tags, action in ((table.X_TAGS, "X"), (table.Z_TAGS, "Z"), (table.D_TAGS, "D"), (table.U_TAGS, "U"), (table.Z_D_TAGS, "D"),
                         (table.X_Z_TAGS, "Z"), (table.X_D_TAGS, "D"), (table.X_Z_D_TAGS, "D"), (table.X_Z_U_STAR_TAGS, "U")):
        found |= {tuple(tag): action for tag in tags if len(tag) == 2}      # the others are curves and overlays, removed whole
    return found


def why_not(image: FileDataset) -> str:
    """Why an instance is left out, "" when it is not: what stands in pixels, documents or video no table of attributes can clean."""
    kind = f"{getattr(image.get('SOPClassUID'), 'name', '')} {' '.join(map(str, image.get('ImageType') or []))}".upper()
    said = str(image.get("BurnedInAnnotation", "")).upper()
    if said == "YES":
        return "BurnedInAnnotation is YES, so the pixels name somebody; mask them and send the picture again"
    if str(image.get("Modality", "")).upper() in DOCUMENTS or "ENCAPSULATED" in kind:
        return "a document, not an acquired image; its text needs a person to clean it"
    if said != "NO" and any(word in kind for word in SCREENS):
        return "burned-in annotation is likely (a capture or an ultrasound) and BurnedInAnnotation does not say NO; look at it first"
    if not image.get("SOPInstanceUID") or not image.get("SOPClassUID"):
        return "SOPInstanceUID or SOPClassUID is missing; send an instance with both"
    return ""


def deidentify_files(source: Path, out: Path, secret: bytes) -> Iterator[dict[str, Any]]:
    """Each file of `source` cleaned into OUT/study/series/instance.dcm; a row {file, ok, out, text} each."""
    tool = Deidentifier(secret)
    for path in files_of(source):
        try:
            try:
                image = pydicom.dcmread(path)
                done = tool.apply(image)
            except ImageError:
                raise
            except Exception as error:      # pydicom raises many kinds on hostile bytes
                raise ImageError(f"no readable DICOM file ({type(error).__name__}); it was left out, send it again from its source") from None
            target = out / str(done.get("StudyInstanceUID", "none")) / str(done.get("SeriesInstanceUID", "none")) / f"{done.SOPInstanceUID}.dcm"
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_suffix(".part")
            done.save_as(partial, enforce_file_format=True)
            os.replace(partial, target)
            yield {"file": str(path), "ok": True, "out": str(target), "text": ""}
        except ImageError as error:
            yield {"file": str(path), "ok": False, "out": "", "text": str(error)}


def files_of(source: Path) -> Iterable[Path]:
    if not source.exists():
        raise InputError(f"{source} does not exist; give a DICOM file or folder")
    return [source] if source.is_file() else sorted(path for path in source.rglob("*") if path.is_file() and path.name != "DICOMDIR")


def read_secret(path: Path | None) -> bytes:
    """The secret of a file, made there when absent; without a file one that is forgotten after the run."""
    if path is None:
        return secrets.token_bytes(SECRET_BYTES)
    if path.exists():
        secret = path.read_bytes()
        if len(secret) < SECRET_BYTES:
            raise InputError(f"{path} has {len(secret)} bytes, a secret needs {SECRET_BYTES}; name a file that is not there yet to have one made")
        return secret
    secret = secrets.token_bytes(SECRET_BYTES)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(secret)
    return secret
