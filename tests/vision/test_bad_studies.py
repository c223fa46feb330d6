"""What is no head study that can be read ends with a reason code, never with a report: from files to draft."""
import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    MRImageStorage,
    RLELossless,
    SecondaryCaptureImageStorage,
    VLPhotographicImageStorage,
    generate_uid,
)

from data.errors import REASONS, StudyRefused, WetreadError
from data.images import open_study
from data.simulator import simulate_head_ct, write_dicom
from vision.reporter import Reporter

AXIAL, SAGITTAL = [1, 0, 0, 0, 1, 0], [0, 1, 0, 0, 0, -1]


@pytest.fixture(scope="module")
def reporter():
    return Reporter.load()


def series(folder, slices=24, size=48, modality="CT", values=None, storage=None, plane=AXIAL, series_uid="1.2.3.4", change=lambda image, i: None,
           extent_mm=230.0, step_mm=5.0, number=1):
    """A series of a bright disc in air; `change` edits each header before it is written."""
    folder.mkdir(parents=True, exist_ok=True)
    rows, columns = np.mgrid[:size, :size] - (size - 1) / 2
    disc = np.where((rows / 0.4) ** 2 + (columns / 0.33) ** 2 < size**2, 40, -1000 if modality == "CT" else 0)
    noise = np.random.default_rng(0).normal(0, 5, (slices, size, size))
    normal = np.cross(plane[:3], plane[3:])
    for i in range(slices):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = storage or (CTImageStorage if modality == "CT" else MRImageStorage)
        meta.MediaStorageSOPInstanceUID, meta.TransferSyntaxUID = generate_uid(), ExplicitVRLittleEndian
        path = folder / f"{number}-{i:04d}.dcm"
        image = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
        image.SOPClassUID, image.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        image.StudyInstanceUID, image.SeriesInstanceUID, image.SeriesNumber, image.InstanceNumber = "1.2.3", series_uid, number, i + 1
        image.PatientID, image.PatientName, image.Modality, image.BodyPartExamined = "T1", "Test^Bad", modality, "HEAD"
        image.ImageType, image.SeriesDescription = ["ORIGINAL", "PRIMARY", "AXIAL"], "head" if modality == "CT" else "t2 flair"
        image.ImageOrientationPatient, image.ImagePositionPatient = plane, [float(v) for v in normal * step_mm * i]
        image.PixelSpacing, image.SliceThickness, image.Rows, image.Columns = [extent_mm / size] * 2, step_mm, size, size
        image.SamplesPerPixel, image.PhotometricInterpretation, image.PixelRepresentation = 1, "MONOCHROME2", 1
        image.BitsAllocated = image.BitsStored = 16
        image.HighBit, image.RescaleSlope, image.RescaleIntercept = 15, 1, 0
        image.PixelData = (disc + noise[i] if values is None else values(disc, i)).astype(np.int16).tobytes()
        change(image, i)
        image.save_as(path, enforce_file_format=True)


def coloured(image, i):
    image.SamplesPerPixel, image.PhotometricInterpretation, image.PlanarConfiguration = 3, "RGB", 0
    image.BitsAllocated = image.BitsStored = 8
    image.HighBit, image.PixelRepresentation = 7, 0
    image.PixelData = bytes(3 * image.Rows * image.Columns)


def unscaled(image, i):
    del image.RescaleSlope, image.RescaleIntercept


def with_letters(disc, i):
    disc = disc + np.random.default_rng(i).normal(0, 5, disc.shape)
    disc[2:9, 3:12:2] = 3000
    return disc


def setting(**values):
    def change(image, i):
        for name, value in values.items():
            setattr(image, name, value)
    return change


def photograph(folder):
    folder.mkdir(parents=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(folder / "photo.png")


def grey_photograph(folder):
    folder.mkdir(parents=True)
    rows, columns = np.mgrid[:128, :128]
    Image.fromarray((rows + columns).astype(np.uint8)).save(folder / "photo.png")


def nifti(values):
    def make(folder):
        folder.mkdir(parents=True)
        nibabel.save(nibabel.Nifti1Image(values.astype(np.float32), np.diag([4.0, 4.0, 5.0, 1.0])), folder / "FLAIR.nii.gz")
    return make


def two_orientations(folder):
    series(folder, 12)
    series(folder, 12, plane=SAGITTAL, number=2)


def two_patients(folder):
    series(folder, 12)
    series(folder, 12, number=2, series_uid="1.2.3.5", change=setting(PatientID="T2"))


def broken(folder):
    series(folder, 3)
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes()[:700])


NOISE = np.random.default_rng(1).uniform(0, 100, (60, 60, 30))
# what is given -> how it is made, and how it must end: a reason of a refusal, or the code of an error
BAD = {
    "an empty folder": (lambda f: f.mkdir(parents=True), "E106"),
    "files cut off": (broken, "E106"),
    "one slice": (lambda f: series(f, 1), "coverage"),
    "too few slices": (lambda f: series(f, 6), "coverage"),
    "a slab of the head": (lambda f: series(f, 24, step_mm=1.0), "coverage"),
    "two thousand slices": (lambda f: series(f, 2000, size=16, step_mm=0.2), "too-many-slices"),
    "a photograph": (photograph, "pixels"),
    "a grey photograph": (grey_photograph, "not-a-head"),
    "a photograph in DICOM": (lambda f: series(f, 2, storage=VLPhotographicImageStorage, change=coloured), "E106"),
    "colour": (lambda f: series(f, 24, change=coloured), "E106"),
    "a localiser": (lambda f: series(f, 3, change=setting(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])), "E107"),
    "a localiser not called one": (lambda f: series(f, 1, plane=SAGITTAL), "plane"),
    "secondary captures": (lambda f: series(f, 24, storage=SecondaryCaptureImageStorage), "E106"),
    "text burnt in, said by the header": (lambda f: series(f, change=setting(BurnedInAnnotation="YES")), "burnt-in"),
    "text burnt in": (lambda f: series(f, values=with_letters), "burnt-in"),
    "constant pixels": (lambda f: series(f, values=lambda disc, i: 0 * disc - 900), "pixels"),
    "NaN": (nifti(np.where(NOISE > 50, np.nan, NOISE)), "E106"),
    "a rescale that is no number": (lambda f: series(f, change=lambda image, i: image.add_new(0x00281053, "DS", "1e400")), "E107"),
    "rescale missing": (lambda f: series(f, values=lambda disc, i: disc + 1024, change=unscaled), "rescale"),
    "planes mixed in one series": (two_orientations, "E107"),
    "two patients in one study": (two_patients, "E107"),
    "another part of the body": (lambda f: series(f, change=setting(BodyPartExamined="ABDOMEN")), "not-a-head"),
    "a phantom": (lambda f: series(f), "not-a-head"),
    "another modality": (lambda f: series(f, modality="PT"), "modality"),
    "sagittal CT": (lambda f: series(f, plane=SAGITTAL), "plane"),
    "contrast on CT": (lambda f: series(f, change=setting(ContrastBolusAgent="Iomeprol")), "contrast"),
    "one slice of MR": (lambda f: series(f, 1, modality="MR"), "coverage"),
    "sagittal MR of thick slices": (lambda f: series(f, modality="MR", plane=SAGITTAL), "plane"),
    "MR of a knee": (lambda f: series(f, modality="MR", change=setting(BodyPartExamined="KNEE")), "not-a-head"),
    "MR of something small": (lambda f: series(f, modality="MR", extent_mm=90.0), "not-a-head"),
    "MR of a phantom": (lambda f: series(f, modality="MR"), "out-of-distribution"),
    "MR with text burnt in": (lambda f: series(f, modality="MR", values=with_letters), "burnt-in"),
    "MR of constant pixels": (lambda f: series(f, modality="MR", values=lambda disc, i: 0 * disc + 7), "pixels"),
    "MR of two thousand slices": (lambda f: series(f, 2000, size=16, step_mm=0.2, modality="MR"), "too-many-slices"),
    "MR whose sequences are not known": (lambda f: series(f, modality="MR", change=setting(SeriesDescription="x")), "sequences"),
    "MR perfusion only": (lambda f: series(f, modality="MR", change=setting(SeriesDescription="ep2d perf DSC")), "sequences"),
    "noise": (nifti(NOISE), "not-a-head"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_study_ends_with_its_reason_code(name, tmp_path, reporter):
    make, wanted = BAD[name]
    make(tmp_path / "study")
    with pytest.raises(WetreadError) as caught:
        files = [p for p in (tmp_path / "study").iterdir() if p.suffix == ".png"]
        reporter.draft(open_study(files[0] if files else tmp_path / "study"))
    error = caught.value
    assert (error.reason if isinstance(error, StudyRefused) else error.code) == wanted, error
    assert len(str(error)) > 30 and "Test^Bad" not in str(error) and "Traceback" not in str(error)


def test_every_reason_stands_in_the_reference():
    from pathlib import Path

    reference = (Path(__file__).parents[2] / "docs" / "reference.md").read_text()
    assert [reason for reason in REASONS if f"| {reason} |" not in reference] == []


def test_the_reference_says_of_colour_and_nan_how_they_end_as_files():
    """Held against BAD, which is tried above: DICOM in colour and NaN are errors, a picture in colour is a refusal."""
    from pathlib import Path

    reference = (Path(__file__).parents[2] / "docs" / "reference.md").read_text()
    [unread] = [line for line in reference.splitlines() if "is E106 or E107 on the command line" in line]
    [pixels] = [line for line in reference.splitlines() if line.startswith("| pixels | ") and "colour" in line]
    assert (BAD["colour"][1], BAD["a photograph in DICOM"][1], BAD["NaN"][1], BAD["a photograph"][1]) == ("E106", "E106", "E106", "pixels")
    assert "DICOM in colour" in unread and "NaN" in unread and "PNG or JPEG in colour" in pixels and "NaN" not in pixels


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless])
def test_compressed_pixels_are_read_as_the_same_volume(tmp_path, syntax):
    series(tmp_path / "plain", 12)
    series(tmp_path / "packed", 12)
    for path in (tmp_path / "packed").iterdir():
        image = pydicom.dcmread(path)
        image.compress(syntax, generate_instance_uid=False)
        image.save_as(path, enforce_file_format=True)
    plain, packed = (open_study(tmp_path / name).volumes[0] for name in ("plain", "packed"))
    assert np.array_equal(plain.pixels, packed.pixels) and plain.spacing_mm == packed.spacing_mm


def test_a_whole_study_beside_captures_and_localisers_is_drafted_and_says_what_was_left_out(tmp_path, reporter):
    simulated = simulate_head_ct(9001, "subdural")
    write_dicom(simulated, tmp_path / "head")
    first = pydicom.dcmread(next(iter(sorted((tmp_path / "head").glob("*.dcm")))))
    same = setting(StudyInstanceUID=first.StudyInstanceUID, PatientID=first.PatientID)
    series(tmp_path / "head" / "more", 3, storage=SecondaryCaptureImageStorage, series_uid="1.2.3.9", change=same)
    study = open_study(tmp_path / "head")
    draft, _ = reporter.draft(study)
    assert draft.refused is None and any(f.code == "subdural_haemorrhage" and f.present for f in draft.findings)
    assert sum("secondary capture" in line for line in study.skipped) == 3
    assert draft.sections["technique"].endswith("Nothing else was looked for.") and "herniation" in draft.model["not_assessed"]
