"""A draft as DICOM Basic Text SR (PS3.3 A.35.1), content as TID 2000 Basic Diagnostic Imaging Report."""
from pathlib import Path

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
FINAL = ("final", "amended")
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
    report = header(images[0], draft)
    report.CurrentRequestedProcedureEvidenceSequence = Sequence([evidence(images)])
    report.ContentSequence = Sequence(container(name, text) for name, text in draft.sections.items() if text)
    report.save_as(out, enforce_file_format=True)


def header(image: Dataset, draft: Draft) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = BasicTextSRStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    report = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)  # type: ignore[arg-type]
    for name in COPIED:
        setattr(report, name, image.get(name, ""))
    report.SpecificCharacterSet = "ISO_IR 192"
    report.SOPClassUID, report.SOPInstanceUID = BasicTextSRStorage, meta.MediaStorageSOPInstanceUID
    report.SeriesInstanceUID, report.SeriesNumber, report.InstanceNumber = generate_uid(), 9901, 1
    report.Modality, report.Manufacturer = "SR", "Wetread"
    report.SeriesDescription = "Wetread draft report" if draft.status not in FINAL else "Report"
    # the study's own date: the writer of a file has no say in when the patient was examined
    report.ContentDate, report.ContentTime = image.get("StudyDate", "") or "19000101", image.get("StudyTime", "") or "000000"
    report.ReferencedPerformedProcedureStepSequence = Sequence()
    report.PerformedProcedureCodeSequence = Sequence()
    report.CompletionFlag = "COMPLETE" if draft.status in FINAL else "PARTIAL"
    report.VerificationFlag = "UNVERIFIED"          # VERIFIED needs the name of a verifying observer; the RIS adds that
    report.PreliminaryFlag = "FINAL" if draft.status in FINAL else "PRELIMINARY"
    report.ValueType, report.ContinuityOfContent = "CONTAINER", "SEPARATE"
    report.ConceptNameCodeSequence = coded("18748-4", "LN", "Diagnostic imaging report")
    template = Dataset()
    template.MappingResource, template.TemplateIdentifier = "DCMR", "2000"
    report.ContentTemplateSequence = Sequence([template])
    return report


def evidence(images: list[Dataset]) -> Dataset:
    """The instances that were read, by series (PS3.3 table C.17-2)."""
    study = Dataset()
    study.StudyInstanceUID = images[0].StudyInstanceUID
    series: dict[str, list[Dataset]] = {}
    for image in images:
        reference = Dataset()
        reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
        series.setdefault(str(image.SeriesInstanceUID), []).append(reference)
    rows = []
    for uid, references in series.items():
        row = Dataset()
        row.SeriesInstanceUID, row.ReferencedSOPSequence = uid, Sequence(references)
        rows.append(row)
    study.ReferencedSeriesSequence = Sequence(rows)
    return study


def container(name: str, text: str) -> Dataset:
    section, words = Dataset(), Dataset()
    section.RelationshipType, section.ValueType, section.ContinuityOfContent = "CONTAINS", "CONTAINER", "SEPARATE"
    section.ConceptNameCodeSequence = coded(*HEADINGS[name])
    words.RelationshipType, words.ValueType, words.TextValue = "CONTAINS", "TEXT", text
    words.ConceptNameCodeSequence = coded(*TEXTS[name])
    section.ContentSequence = Sequence([words])
    return section


def coded(value: str, scheme: str, meaning: str) -> Sequence:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, meaning
    return Sequence([code])
