"""A draft as DICOM: masks as SEG, measurements as SR (TID 1500), key images as a note; the text report is in api/dicom/sr.py."""
from dataclasses import dataclass
from typing import Any

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from api.dicom.sr import DEVICE_UID, FINAL, Identity, moment, observer_name
from data.records import Volume

SCHEME = "99WETREAD"
MILLILITRE = hd.sr.CodedConcept("mL", "UCUM", "milliliter")
CERTAINTY, POSSIBLE = hd.sr.CodedConcept("certainty", SCHEME, "Certainty"), hd.sr.CodedConcept("possible", SCHEME, "possible")
MAKER, MODEL = "Wetread", "Wetread"
KINDS = {"SR": 9901, "SEG": 9902, "MEASUREMENTS": 9903, "KO": 9904}     # kind -> series number
# finding -> what SNOMED CT calls its tissue; where pydicom's dictionary has no code, ours stands alone
TISSUES = {code: codes.SCT.Hemorrhage for code in (
    "epidural_haemorrhage", "subdural_haemorrhage", "subarachnoid_haemorrhage", "intraparenchymal_haemorrhage", "intraventricular_haemorrhage")}
# region as data/atlas.py names it -> where SNOMED CT has it; the others have our code alone
SITES = {"frontal": codes.SCT.FrontalLobe, "parietal": codes.SCT.ParietalLobe, "temporal": codes.SCT.TemporalLobe,
         "occipital": codes.SCT.OccipitalLobe, "thalamus": codes.SCT.Thalamus, "cerebellum": codes.SCT.Cerebellum, "brainstem": codes.SCT.BrainStem}
COLOURS = ((66.0, 60.0, 40.0), (75.0, -40.0, 50.0), (60.0, 20.0, -60.0), (85.0, 0.0, 70.0), (70.0, 50.0, -30.0), (80.0, -45.0, -10.0))     # CIELab


@dataclass(frozen=True)
class Report:
    """The parts of a stored draft that results are made of."""

    id: str
    version: int
    status: str
    findings: list[dict[str, Any]]
    software: str
    signed_by: str = ""
    written: str = ""           # ISO time of this version

    def identity(self, kind: str) -> Identity:
        """UIDs that follow from the draft, so that a second go after a crash makes the same objects."""
        return Identity(self.uid(kind, self.version), self.uid(kind, 0), self.version, self.signed_by, self.written)

    def uid(self, kind: str, version: int) -> str:
        """The SOP Instance UID of one version; version 0 is the series."""
        return generate_uid(entropy_srcs=["wetread result", self.id, kind, str(version)])


def concept(finding: dict[str, Any]) -> hd.sr.CodedConcept:
    return hd.sr.CodedConcept(finding["code"], SCHEME, finding["label"][:64])


def segmentation(report: Report, volume: Volume, masks: dict[str, NDArray[np.uint8]], images: list[Dataset]) -> hd.seg.Segmentation:
    """The masks of a volume as one binary SEG in the volume's own geometry, a segment a finding.

    `masks`: finding id -> (slices, rows, columns); `images`: headers of the volume's series. An AI's outline is marked AUTOMATIC.
    """
    assert volume.affine is not None and masks
    identity = report.identity("SEG")
    named = {finding["id"]: finding for finding in report.findings}
    algorithm = hd.AlgorithmIdentificationSequence(name=MODEL, family=codes.DCM.ArtificialIntelligence, version=report.software)
    descriptions = [
        hd.seg.SegmentDescription(
            segment_number=number, segment_label=label(named[id]), segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
            segmented_property_type=TISSUES.get(named[id]["code"]) or concept(named[id]), algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm, tracking_id=f"{report.id}:{id}", tracking_uid=report.uid(f"track:{id}", 0),
            display_color=hd.color.CIELabColor(*COLOURS[(number - 1) % len(COLOURS)]))
        for number, id in enumerate(masks, 1)]
    pixels = np.stack([masks[id] > 0 for id in masks], axis=-1).astype(np.uint8)
    space = hd.Volume(pixels, volume.affine[:, [2, 1, 0, 3]], coordinate_system="PATIENT",
                      frame_of_reference_uid=str(images[0].FrameOfReferenceUID), channels={"SegmentNumber": list(range(1, len(masks) + 1))})
    made = hd.seg.Segmentation(
        source_images=images, pixel_array=space, segmentation_type=hd.seg.SegmentationTypeValues.BINARY, segment_descriptions=descriptions,
        series_instance_uid=identity.series_uid, series_number=KINDS["SEG"], sop_instance_uid=identity.sop_uid, instance_number=report.version,
        manufacturer=MAKER, manufacturer_model_name=MODEL, software_versions=report.software, device_serial_number="1",
        content_label="WETREAD", content_description="AI outlines" + ("" if report.status in FINAL else ", draft, not signed"),
        series_description=described(report, "outlines"))
    dated(made, report, images[0])
    return made


def measurements(report: Report, images: list[Dataset], segments: dict[str, int], outlines: Dataset | None) -> hd.sr.Comprehensive3DSR | None:
    """The findings that the report still states, each with its volume or size, as a measurement report (TID 1500); None when there is none.

    `segments`: finding id -> number in `outlines`, the SEG.
    """
    groups: list[Any] = []
    by_uid = {str(image.SOPInstanceUID): image for image in images}
    algorithm = hd.sr.AlgorithmIdentification(name=MODEL, version=report.software, family=codes.DCM.ArtificialIntelligence)
    for finding in report.findings:
        values = [hd.sr.Measurement(codes.SCT.Volume, finding["volume_ml"], MILLILITRE)] if finding["volume_ml"] is not None else []
        if finding["size_mm"] is not None:
            values.append(hd.sr.Measurement(codes.SCT.Length, finding["size_mm"], codes.UCUM.Millimeter))
        track = hd.sr.TrackingIdentifier(uid=report.uid(f"track:{finding['id']}", 0), identifier=f"{report.id}:{finding['id']}")
        shared: dict[str, Any] = {"tracking_identifier": track, "finding_type": concept(finding), "measurements": values, "algorithm_id": algorithm,
                                  "finding_sites": sites(finding) or None, "qualitative_evaluations": evaluations(finding)}
        if finding["id"] in segments and outlines is not None and values:
            source = outlines.ReferencedSeriesSequence[0].SeriesInstanceUID
            segment = hd.sr.ReferencedSegment(outlines.SOPClassUID, outlines.SOPInstanceUID, segments[finding["id"]],
                                              source_series=hd.sr.SourceSeriesForSegmentation(source))
            groups.append(hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(**shared, referenced_segment=segment))
            continue
        seen = [by_uid[one["instance_uid"]] for one in finding["evidence"] if one["instance_uid"] in by_uid]
        groups.append(hd.sr.MeasurementsAndQualitativeEvaluations(
            **shared, source_images=[hd.sr.SourceImageForMeasurementGroup.from_source_image(image) for image in seen] or None))
    if not groups:
        return None
    identity, final = report.identity("MEASUREMENTS"), report.status in FINAL
    content = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(
            observer_person_context=person(report.signed_by) if report.signed_by else None, observer_device_context=device()),
        procedure_reported=codes.LN.CTHeadReport, imaging_measurements=groups, title=codes.DCM.ImagingMeasurementReport)
    verified = {"verifying_observer_name": observer_name(report.signed_by), "verifying_organization": "Department of radiology"} \
        if final and report.signed_by else {}
    made = hd.sr.Comprehensive3DSR(
        evidence=[*images, *([outlines] if outlines is not None else [])], content=content, series_instance_uid=identity.series_uid,
        series_number=KINDS["MEASUREMENTS"], sop_instance_uid=identity.sop_uid, instance_number=report.version, manufacturer=MAKER,
        is_complete=final, is_final=final, is_verified=bool(verified), series_description=described(report, "measurements"), **verified)
    dated(made, report, images[0])
    return made


def sites(finding: dict[str, Any]) -> list[hd.sr.FindingSite]:
    """The regions that a finding lies in, or over."""
    return [hd.sr.FindingSite(SITES.get(name) or hd.sr.CodedConcept(name[:16], SCHEME, name[:64])) for name in finding["region"].split(", ") if name]


def evaluations(finding: dict[str, Any]) -> list[hd.sr.QualitativeEvaluation]:
    """Side and, of what the draft calls possible, that it is no more than that: in a code of ours, as the finding's is, for want of a standard."""
    side = {"left": codes.SCT.Left, "right": codes.SCT.Right, "bilateral": codes.SCT.RightAndLeft, "midline": codes.SCT.Midline}.get(finding["side"])
    found = [hd.sr.QualitativeEvaluation(codes.SCT.Laterality, side)] if side is not None else []
    return [*found, hd.sr.QualitativeEvaluation(CERTAINTY, POSSIBLE)] if finding["band"] == "hedge" else found


def key_images(report: Report, images: list[Dataset]) -> hd.ko.KeyObjectSelectionDocument | None:
    """The slices on which the findings are seen best; None when there are none."""
    seen = [(one["instance_uid"], f"{'possible ' if finding['band'] == 'hedge' else ''}{finding['label']}")
            for finding in report.findings for one in finding["evidence"]]
    chosen = [image for image in images if str(image.SOPInstanceUID) in {uid for uid, _ in seen}]
    if not chosen:
        return None
    identity = report.identity("KO")
    words = ", ".join(dict.fromkeys(finding for uid, finding in seen if uid)) + ("" if report.status in FINAL else " (AI draft, not signed)")
    made = hd.ko.KeyObjectSelectionDocument(
        evidence=chosen, content=hd.ko.KeyObjectSelection(codes.DCM.OfInterest, chosen, description=words,
                                                          observer_device_context=hd.sr.ObserverContext(codes.DCM.Device, device_attributes())),
        series_instance_uid=identity.series_uid, series_number=KINDS["KO"], sop_instance_uid=identity.sop_uid, instance_number=report.version,
        manufacturer=MAKER, series_description=described(report, "key images"))
    dated(made, report, images[0])
    return made


def label(finding: dict[str, Any]) -> str:
    words = ("possible" if finding["band"] == "hedge" else "", finding["side"] if finding["side"] != "midline" else "", finding["label"])
    return " ".join(word for word in words if word)[:64]


def described(report: Report, what: str) -> str:
    return f"Wetread {what}" + ("" if report.status in FINAL else ", draft")


def device_attributes() -> hd.sr.DeviceObserverIdentifyingAttributes:
    return hd.sr.DeviceObserverIdentifyingAttributes(uid=DEVICE_UID, name=MODEL, manufacturer_name=MAKER, model_name=MODEL)


def device() -> hd.sr.ObserverContext:
    return hd.sr.ObserverContext(observer_type=codes.DCM.Device, observer_identifying_attributes=device_attributes())


def person(user: str) -> hd.sr.ObserverContext:
    return hd.sr.ObserverContext(observer_type=codes.DCM.Person,
                                 observer_identifying_attributes=hd.sr.PersonObserverIdentifyingAttributes(name=observer_name(user)))


def dated(made: Dataset, report: Report, image: Dataset) -> None:
    """Times of the version or the study, not of this run. Text in any script is UTF-8."""
    date, time = moment(report.written) or (image.get("StudyDate", "") or "19000101", image.get("StudyTime", "") or "000000")
    for name in ("ContentDate", "SeriesDate", "InstanceCreationDate"):
        if name in made:
            setattr(made, name, date)
    for name in ("ContentTime", "SeriesTime", "InstanceCreationTime"):
        if name in made:
            setattr(made, name, time)
    for observer in made.get("VerifyingObserverSequence", []):
        observer.VerificationDateTime = date + time
    made.SpecificCharacterSet = "ISO_IR 192"
