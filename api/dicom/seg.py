"""Masks as DICOM Segmentation (PS3.3 A.51), on the geometry of the volume they were made of."""
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from pydicom.uid import generate_uid

from api.dicom.sr import with_type_2
from data.errors import InputError
from data.records import Volume


def write_segmentation(volume: Volume, masks: Mapping[str, NDArray[np.uint8]], study_path: Path, out: Path, algorithm: str, version: str) -> None:
    """One segment a mask that holds anything; raises InputError where the study is no DICOM or all masks are empty."""
    import highdicom
    from highdicom.sr.coding import CodedConcept

    held = {name: mask for name, mask in masks.items() if mask.any()}
    if not held:
        raise InputError("all masks are empty; a DICOM SEG needs at least one point")
    if volume.affine is None or volume.spacing_mm is None:
        raise InputError(f"{study_path.name} has no geometry; a DICOM SEG needs it")
    sources = source_images(study_path, volume.series_uid)
    how = highdicom.AlgorithmIdentificationSequence(algorithm, CodedConcept("123109", "DCM", "Artificial Intelligence"), version)
    anatomy, lesion = CodedConcept("49755003", "SCT", "Morphologically Abnormal Structure"), CodedConcept("85756007", "SCT", "Tissue")
    segments = [highdicom.seg.SegmentDescription(k, name, lesion if algorithm == "structures" else anatomy, CodedConcept("52988006", "SCT", "Lesion")
                                                 if algorithm != "structures" else CodedConcept("12738006", "SCT", "Brain"),
                                                 highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC, how, tracking_id=f"{algorithm} {name}",
                                                 tracking_uid=generate_uid()) for k, name in enumerate(held, 1)]
    stack = np.stack(list(held.values()), -1).astype(np.uint8)
    segmentation = highdicom.seg.Segmentation(
        sources, stack, highdicom.seg.SegmentationTypeValues.BINARY, segments, generate_uid(), 9902, generate_uid(), 1, "Wetread", "wetread head",
        version, "0", series_description=f"Wetread {algorithm}, not verified", **geometry(volume))
    segmentation.save_as(out)


def geometry(volume: Volume) -> dict[str, Any]:
    """Planes of the volume as read, which may have been turned or straightened since it was sent."""
    import highdicom

    assert volume.affine is not None and volume.spacing_mm is not None
    column, row = (volume.affine[:3, k] / np.linalg.norm(volume.affine[:3, k]) for k in (0, 1))
    places = [volume.affine[:3] @ (0, 0, k, 1) for k in range(len(volume.pixels))]
    return {"pixel_measures": highdicom.PixelMeasuresSequence([float(v) for v in volume.spacing_mm[1:]], float(volume.spacing_mm[0]),
                                                              float(volume.spacing_mm[0])),
            "plane_orientation": highdicom.PlaneOrientationSequence(highdicom.CoordinateSystemNames.PATIENT, [*column.tolist(), *row.tolist()]),
            "plane_positions": [highdicom.PlanePositionSequence(highdicom.CoordinateSystemNames.PATIENT, p.tolist()) for p in places]}


def source_images(study_path: Path, series_uid: str) -> list[Any]:
    files = [study_path] if study_path.is_file() else sorted(p for p in study_path.rglob("*") if p.is_file())
    found = []
    for path in files:
        try:
            image = dcmread(path)
        except InvalidDicomError:
            continue
        if image.get("SeriesInstanceUID") == series_uid:
            found.append(with_type_2(image))
    if not found:
        raise InputError(f"{study_path.name} is no DICOM series; a DICOM SEG is written for DICOM only")
    return found
