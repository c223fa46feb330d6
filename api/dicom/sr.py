"""A draft as DICOM Basic Text SR (PS3.3 A.35.1), content as TID 2000 Basic Diagnostic Imaging Report."""
import re
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.sequence import Sequence
from pydicom.uid import BasicTextSRStorage, ExplicitVRLittleEndian, generate_uid

from data.errors import ImageError, InputError
from data.records import Draft

# section -> (code, scheme, meaning) of its container and of its text, from CID 7001 and CID 7002
HEADINGS = {
    "exam": ("121111", "DCM", "Summary"), "indication": ("121060", "DCM", "History"),
    "technique": ("121064", "DCM", "Current Procedure Descriptions"),
    "comparison": ("121068", "DCM", "Previous Findings"), "findings": ("121070", "DCM", "Findings"), "impression": ("121072", "DCM", "Impressions"),
}
TEXTS = {
    "exam": ("121111", "DCM", "Summary"), "indication": ("121060", "DCM", "History"), "technique": ("121065", "DCM", "Procedure Description"),
    "comparison": ("121069", "DCM", "Previous Finding"), "findings": ("121071", "DCM", "Finding"), "impression": ("121073", "DCM", "Impression"),
}
TYPE_2 = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime",
          "StudyID", "AccessionNumber", "ReferringPhysicianName")
FINAL = ("final", "amended")
DEVICE_UID = generate_uid(entropy_srcs=["wetread", "device observer"])
COPIED = ("SpecificCharacterSet", "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate",
          "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName")


def write_report(draft: Draft, study_path: Path, out: Path) -> None:
    """Write the draft beside the study it was made from; raises InputError for a draft without sentences or a study that is no DICOM."""
    if draft.refused or not draft.sections:
        raise InputError("the draft was refused and has no sentences; a DICOM SR needs a report")
    files = [study_path] if study_path.is_file() else sorted(path for path in study_path.rglob("*") if path.is_file())
    images = []
    for path in files:
        try:
            images.append(dcmread(path, stop_before_pixels=True))
        except InvalidDicomError:
            continue
    images = [image for image in images if image.get("SOPInstanceUID") and image.get("StudyInstanceUID") == draft.study]
    if not images:
        raise ImageError(f"{study_path} has no DICOM instance of study {draft.study}; a DICOM SR is written for DICOM studies only")
    grounds = Grounds([asdict(sentence) for sentence in draft.sentences], {finding.id: asdict(finding) for finding in draft.findings})
    identity = Identity(generate_uid(), generate_uid(), 1, written=datetime.now(UTC).isoformat())
    report = report_text(draft.status, draft.sections, images, identity, grounds)
    report.save_as(out, enforce_file_format=True)


def with_type_2(image: FileDataset) -> FileDataset:
    """Empty what must be there but may be empty (PS3.3 C.7.1.1, C.7.2.1) and some senders leave out; highdicom takes none for granted."""
    for name in TYPE_2:
        if name not in image:
            setattr(image, name, None)
    return image


@dataclass(frozen=True)
class Identity:
    """What one result is known by; `signed_by` is set for a report a person signed, `written` is its ISO time, `before` names the one it replaces."""

    sop_uid: str
    series_uid: str
    number: int
    signed_by: str = ""
    written: str = ""           # ISO time of this version
    before: tuple[str, str] | None = None       # (series UID, SOP UID)


@dataclass(frozen=True)
class Grounds:
    """What sentences rest on: their findings with the slices they are seen on, and the segment of each in `outlines` (SEG) when there is one."""

    sentences: list[dict[str, Any]]
    findings: dict[str, dict[str, Any]]
    outlines: Dataset | None = None
    segments: dict[str, int] = field(default_factory=dict)      # finding id -> number in outlines
    uids: dict[str, str] = field(default_factory=dict)          # finding id -> its tracking UID in the measurements


def report_text(status: str, sections: dict[str, str], images: list[Dataset], identity: Identity, grounds: Grounds | None = None) -> FileDataset:
    """The report as a data set; `images` are the headers of the instances that were read. With `grounds` each sentence names its images."""
    report = header(images[0], status, identity)
    outlines = [grounds.outlines] if grounds and grounds.outlines is not None else []
    report.CurrentRequestedProcedureEvidenceSequence = Sequence([evidence([*images, *outlines])])
    if identity.before:
        reference = Dataset()
        reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = BasicTextSRStorage, identity.before[1]
        report.PredecessorDocumentsSequence = Sequence([referenced(images[0].StudyInstanceUID, {identity.before[0]: [reference]})])
    report.ContentSequence = Sequence([*context(identity.signed_by),
                                       *(container(name, text, images, grounds) for name, text in sections.items() if text.strip())])
    return report


def header(image: Dataset, status: str, identity: Identity) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = BasicTextSRStorage, identity.sop_uid
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    report = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)  # type: ignore[arg-type]
    for name in COPIED:
        setattr(report, name, image.get(name, ""))
    report.SpecificCharacterSet = "ISO_IR 192"
    report.SOPClassUID, report.SOPInstanceUID = BasicTextSRStorage, identity.sop_uid
    report.SeriesInstanceUID, report.SeriesNumber, report.InstanceNumber = identity.series_uid, 9901, identity.number
    report.Modality, report.Manufacturer = "SR", "Wetread"
    report.SeriesDescription = "Wetread draft report" if status not in FINAL else "Report"
    # of a draft without a time the study's own
    study_time = image.get("StudyDate", "") or "19000101", image.get("StudyTime", "") or "000000"
    report.ContentDate, report.ContentTime = moment(identity.written) or study_time
    report.ReferencedPerformedProcedureStepSequence = Sequence()
    report.PerformedProcedureCodeSequence = Sequence()
    report.CompletionFlag = "COMPLETE" if status in FINAL else "PARTIAL"
    report.VerificationFlag = "UNVERIFIED"          # VERIFIED needs the name of a verifying observer
    report.PreliminaryFlag = "FINAL" if status in FINAL else "PRELIMINARY"
    if status in FINAL and identity.signed_by:
        observer = Dataset()
        observer.VerifyingObserverName, observer.VerifyingOrganization = observer_name(identity.signed_by), "Department of radiology"
        observer.VerificationDateTime = "".join(moment(identity.written) or ("19000101", "000000"))
        observer.VerifyingObserverIdentificationCodeSequence = Sequence()
        report.VerificationFlag, report.VerifyingObserverSequence = "VERIFIED", Sequence([observer])
    report.ValueType, report.ContinuityOfContent = "CONTAINER", "SEPARATE"
    report.ConceptNameCodeSequence = coded("18748-4", "LN", "Diagnostic imaging report")
    template = Dataset()
    template.MappingResource, template.TemplateIdentifier = "DCMR", "2000"
    report.ContentTemplateSequence = Sequence([template])
    return report


def context(signed_by: str) -> list[Dataset]:
    """The language (TID 1204) and who observed (TID 1001): the person who signed, else the device."""
    language = item("HAS CONCEPT MOD", "CODE", ("121049", "DCM", "Language of Content Item and Descendants"))
    language.ConceptCodeSequence = coded("en", "RFC5646", "English")
    kind = item("HAS OBS CONTEXT", "CODE", ("121005", "DCM", "Observer Type"))
    if signed_by:
        kind.ConceptCodeSequence = coded("121006", "DCM", "Person")
        name = item("HAS OBS CONTEXT", "PNAME", ("121008", "DCM", "Person Observer Name"))
        name.PersonName = observer_name(signed_by)
        return [language, kind, name]
    kind.ConceptCodeSequence = coded("121007", "DCM", "Device")
    uid = item("HAS OBS CONTEXT", "UIDREF", ("121012", "DCM", "Device Observer UID"))
    uid.UID = DEVICE_UID
    name = item("HAS OBS CONTEXT", "TEXT", ("121013", "DCM", "Device Observer Name"))
    name.TextValue = "Wetread"
    return [language, kind, uid, name]


def item(relationship: str, value_type: str, concept: tuple[str, str, str]) -> Dataset:
    found = Dataset()
    found.RelationshipType, found.ValueType, found.ConceptNameCodeSequence = relationship, value_type, coded(*concept)
    return found


def observer_name(user: str) -> str:
    return re.sub(r"[\\^=]", " ", user)[:62] + "^"      # a name of one component is taken for a family name


def moment(time: str) -> tuple[str, str] | None:
    """An ISO time of the store as DICOM date and time of this place."""
    if not time:
        return None
    at = datetime.fromisoformat(time).astimezone()
    return f"{at:%Y%m%d}", f"{at:%H%M%S}"


def evidence(images: list[Dataset]) -> Dataset:
    """The instances that were read, by series (PS3.3 table C.17-2)."""
    series: dict[str, list[Dataset]] = {}
    for image in images:
        reference = Dataset()
        reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
        series.setdefault(str(image.SeriesInstanceUID), []).append(reference)
    return referenced(images[0].StudyInstanceUID, series)


def referenced(study_uid: str, series: dict[str, list[Dataset]]) -> Dataset:
    study, rows = Dataset(), []
    study.StudyInstanceUID = study_uid
    for uid, references in series.items():
        row = Dataset()
        row.SeriesInstanceUID, row.ReferencedSOPSequence = uid, Sequence(references)
        rows.append(row)
    study.ReferencedSeriesSequence = Sequence(rows)
    return study


def container(name: str, text: str, images: list[Dataset], grounds: Grounds | None) -> Dataset:
    """A section: a text for each sentence, with what it was inferred from; one text where the sentences are not the section's words."""
    section = item("CONTAINS", "CONTAINER", HEADINGS[name])
    section.ContinuityOfContent = "SEPARATE"
    own = [sentence for sentence in grounds.sentences if sentence["section"] == name] if grounds else []
    if not grounds or "".join("".join(s["text"] for s in own).split()) != "".join(text.split()) or not any(s["findings"] for s in own):
        section.ContentSequence = Sequence([words(name, text)])
        return section
    parts = []
    for sentence in own:
        part = words(name, sentence["text"])
        if places := inferred_from(sentence, images, grounds):
            part.ContentSequence = Sequence(places)
        if len(sentence["findings"]) == 1 and (uid := grounds.uids.get(sentence["findings"][0])):
            part.ObservationUID = uid
        parts.append(part)
    section.ContentSequence = Sequence(parts)
    return section


def words(name: str, text: str) -> Dataset:
    found = item("CONTAINS", "TEXT", TEXTS[name])
    found.TextValue = text
    return found


def inferred_from(sentence: dict[str, Any], images: list[Dataset], grounds: Grounds) -> list[Dataset]:
    """The slices its findings are seen on, and their segments. Source: PS3.3 table A.35.1-2 (TEXT INFERRED FROM IMAGE), C.18.4."""
    by_uid = {str(image.SOPInstanceUID): image for image in images}
    slices, segments = [], []
    for finding in (grounds.findings[id] for id in sentence["findings"] if id in grounds.findings):
        slices += [by_uid[seen["instance_uid"]] for seen in finding["evidence"] if seen["instance_uid"] in by_uid]
        segments += [grounds.segments[finding["id"]]] if finding["id"] in grounds.segments else []
    found = [reference_to(image) for image in {str(image.SOPInstanceUID): image for image in slices}.values()]
    if segments:
        assert grounds.outlines is not None
        found.append(reference_to(grounds.outlines))
        found[-1].ReferencedSOPSequence[0].ReferencedSegmentNumber = segments
    return found


def reference_to(image: Dataset) -> Dataset:
    found, reference = Dataset(), Dataset()
    found.RelationshipType, found.ValueType = "INFERRED FROM", "IMAGE"
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    found.ReferencedSOPSequence = Sequence([reference])
    return found


def coded(value: str, scheme: str, meaning: str) -> Sequence:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, meaning
    return Sequence([code])
