"""Simulated cases as files: NIfTI or DICOM, masks, truth.json and an order."""

import datetime
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.errors import SimulatorError
from data.records import as_json
from data.simulate.case import STRUCTURES, SimulatedCase
from data.simulate.recipes import RECIPES
from data.simulator import SimulatedStudy

FORMATS = ("nifti", "dicom")
CT_CHANNELS = ("CT", "LOW_DOSE", "FULL_DOSE", "NOISELESS")
# stored value = value / slope: MR and maps are kept to four digits
SLOPES = {"ADC": 1.0, "MD": 1.0, "CBF": 0.01, "CBV": 0.001, "MTT": 0.001, "TMAX": 0.001}
ORDERS = {
    "ct_haemorrhage": "Fall, found on floor, GCS 13. ?intracranial haemorrhage",
    "ct_oedema": "Known ICH, follow-up CT for oedema",
    "ct_classes": "Memory loss and unsteady gait for months. ?cause",
    "low_dose_ct": "Follow-up CT head, low dose protocol",
    "tumour_type": "New seizures. ?mass",
    "tumour_segmentation": "Known intracranial mass, planning before surgery. MRI brain with and without contrast",
    "flair_lesions": "First seizure. ?low grade glioma",
    "ms_plaques": "Optic neuritis, paraesthesia. ?demyelination",
    "white_matter_disease": "Vascular risk factors, cognitive slowing",
    "dwi_infarct": "Sudden weakness. ?acute stroke",
    "final_infarct": "Acute large vessel occlusion, thrombectomy candidate. DWI and perfusion",
    "microbleeds": "On anticoagulation, cognitive decline. ?microbleeds",
    "ad_classes": "Progressive memory loss. ?Alzheimer's disease",
    "huntington_pattern": "Family history of Huntington's disease, chorea",
    "schizophrenia_pattern": "First episode of psychosis, exclude organic cause",
    "hydrocephalus": "Gait disturbance, incontinence. ?NPH",
    "mr_to_pet": "Dementia work-up, MRI and FDG-PET",
}


def modality_of(channel: str) -> str:
    return "CT" if channel in CT_CHANNELS else "PT" if channel == "PET" else "MR"


def write_case(case: SimulatedCase, folder: Path, format: str = "nifti") -> list[Path]:
    """Write one case into a folder; masks and series of volumes are always NIfTI, raw data goes into raw.npz.

    Raises: SimulatorError for an unknown format.
    """
    if format not in FORMATS:
        raise SimulatorError(f"format is '{format}', expected one of {', '.join(FORMATS)}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for i, (name, pixels) in enumerate(case.channels.items()):
        if format == "dicom" and pixels.ndim == 3:
            written += write_series(case, name, folder / name, i + 1)
        else:
            written.append(write_nifti(pixels, case.affine, folder / f"{name}.nii.gz"))
    for name, mask in case.masks.items():
        written.append(write_nifti(mask, case.affine, folder / f"mask_{name}.nii.gz"))
    if case.structures.any():
        written.append(write_nifti(case.structures, case.affine, folder / "structures.nii.gz"))
    arrays = {key: value for key, value in case.truth.items() if isinstance(value, np.ndarray)}
    if arrays:
        np.savez_compressed(folder / "raw.npz", **arrays)
        written.append(folder / "raw.npz")
    row = RECIPES[case.recipe]
    truth = {
        "simulated": True,
        "recipe": case.recipe,
        "seed": case.seed,
        "anatomy": case.anatomy,
        "held_out": case.held_out,
        "category": None if case.category is None else row.categories[case.category],
        "findings": [as_json(f) for f in case.findings],
        "masks_ml": {name: round(float(mask.sum()) * float(np.prod(case.spacing_mm)) / 1000, 3) for name, mask in case.masks.items()},
        "structures": {str(i): name for i, name in enumerate(STRUCTURES)},
        "truth": {key: plain(value) for key, value in case.truth.items() if not isinstance(value, np.ndarray)},
    }
    (folder / "truth.json").write_text(json.dumps(truth, indent=1) + "\n")
    return [*written, folder / "truth.json", write_order(case.recipe, case.seed, folder)]


def write_order(recipe: str, seed: int, folder: Path) -> Path:
    order = {
        "id": f"SIM{seed:06d}",
        "order_text": f"SIMULATED. {ORDERS.get(recipe, 'Research sequence')}",
        "ordered_exam": "CT head without contrast" if RECIPES[recipe].modality == "CT" else "MRI brain",
    }
    (folder / "order.jsonl").write_text(json.dumps(order) + "\n")
    return folder / "order.jsonl"


def write_beside(study: SimulatedStudy, folder: Path) -> list[Path]:
    """Masks (NIfTI, empty where there is nothing) and the order of a head CT, into the folder of its DICOM files."""
    volume, recipe = study.volume, "ct_haemorrhage"
    assert volume.affine is not None
    nothing = np.zeros(volume.pixels.shape, np.uint8)
    masks = [write_nifti(study.masks.get(name, nothing), volume.affine, folder / f"mask_{name}.nii.gz") for name in RECIPES[recipe].masks]
    return [*masks, write_order(recipe, study.seed, folder)]


def plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def write_nifti(pixels: NDArray[Any], affine: NDArray[np.float64], path: Path) -> Path:
    """(slices, rows, columns) or a series of them; the affine is turned from LPS to NIfTI's RAS."""
    import nibabel

    image = nibabel.Nifti1Image(
        np.ascontiguousarray(np.moveaxis(pixels, 0, -1).transpose(2, 1, 0, 3) if pixels.ndim == 4 else pixels.transpose(2, 1, 0)),
        np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine,
    )  # type: ignore[attr-defined]
    image.header["descrip"] = b"SIMULATED, not a patient"
    nibabel.save(image, path)  # type: ignore[attr-defined]
    return path


def write_series(case: SimulatedCase, channel: str, folder: Path, number: int) -> list[Path]:
    """One channel as a DICOM series, a file a slice; name, ID and comment say SIMULATED; UIDs follow from recipe and seed."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, PositronEmissionTomographyImageStorage, generate_uid

    folder.mkdir(parents=True, exist_ok=True)
    modality = modality_of(channel)
    storage = {"CT": CTImageStorage, "MR": MRImageStorage, "PT": PositronEmissionTomographyImageStorage}[modality]
    entropy = [case.recipe, str(case.seed), str(case.held_out), case.anatomy]
    study, frame, series = (generate_uid(entropy_srcs=[*entropy, part]) for part in ("study", "frame", channel))
    when = datetime.datetime(2026, 1, 1) + datetime.timedelta(minutes=case.seed % 100_000)
    slope = 1.0 if modality == "CT" else SLOPES.get(channel, 0.001)
    along = case.affine[:3, 0] / np.linalg.norm(case.affine[:3, 0])
    down = case.affine[:3, 1] / np.linalg.norm(case.affine[:3, 1])
    written = []
    for i, plane in enumerate(case.channels[channel]):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = storage, generate_uid(entropy_srcs=[*entropy, channel, str(i)])
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image = Dataset()
        image.file_meta = meta
        image.SOPClassUID, image.SOPInstanceUID = storage, meta.MediaStorageSOPInstanceUID
        image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = study, series, frame
        image.PatientName, image.PatientID, image.PatientBirthDate, image.PatientSex = (
            f"SIMULATED^{case.recipe[:40].upper()}",
            f"SIM{case.seed:06d}",
            "",
            "O",
        )
        image.AccessionNumber, image.StudyID, image.ReferringPhysicianName = "", str(case.seed % 10**8), ""
        image.StudyDate = image.SeriesDate = image.ContentDate = when.strftime("%Y%m%d")
        image.StudyTime = image.SeriesTime = image.ContentTime = when.strftime("%H%M%S")
        image.Modality, image.Manufacturer, image.ManufacturerModelName = modality, "Wetread", "data.simulate"
        image.StudyDescription, image.SeriesDescription = f"SIMULATED {case.recipe}", f"SIMULATED {channel}"
        image.BodyPartExamined, image.PatientPosition = "HEAD", "HFS"
        image.ImageType = ["DERIVED", "SECONDARY", "AXIAL" if modality == "CT" else "OTHER"]
        image.SeriesNumber, image.InstanceNumber, image.AcquisitionNumber = str(number), str(i + 1), "1"
        image.ImagePositionPatient = [f"{v:.4f}" for v in case.affine[:3, 3] + case.affine[:3, 2] * i]
        image.ImageOrientationPatient = [f"{v:.6f}" for v in (*along, *down)]
        image.SliceThickness = image.SpacingBetweenSlices = f"{case.spacing_mm[0]:.4f}"
        image.PixelSpacing = [f"{case.spacing_mm[1]:.6f}", f"{case.spacing_mm[2]:.6f}"]
        image.PositionReferenceIndicator, image.SamplesPerPixel, image.PhotometricInterpretation = "", 1, "MONOCHROME2"
        image.Rows, image.Columns = plane.shape
        image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 1
        image.RescaleIntercept, image.RescaleSlope, image.RescaleType = "0", f"{slope:g}", "HU" if modality == "CT" else "US"
        if modality == "CT":
            image.KVP, image.ConvolutionKernel, image.WindowCenter, image.WindowWidth = "120", "STANDARD", "40", "80"
        elif modality == "MR":
            image.ScanningSequence, image.SequenceVariant, image.ScanOptions, image.MRAcquisitionType = "RM", "NONE", "", "2D"
        image.ImageComments = "SIMULATED IMAGE, NOT A PATIENT"
        image.PixelData = np.clip(np.rint(plane / slope), -32768, 32767).astype("<i2").tobytes()
        path = folder / f"{i + 1:04d}.dcm"
        image.save_as(path, enforce_file_format=True)
        written.append(path)
    return written
