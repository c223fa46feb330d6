"""DICOM series become volumes in physical units; what cannot is said."""
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from data.dicom import read_study
from data.errors import WetreadError


def write_slice(path, z, value, series="1.2.3.4", orientation=(1, 0, 0, 0, 1, 0), uid=None):
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, uid or generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    slice_ = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    slice_.SOPClassUID, slice_.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    slice_.StudyInstanceUID, slice_.SeriesInstanceUID, slice_.Modality = "1.2.3", series, "CT"
    slice_.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    slice_.ImagePositionPatient, slice_.ImageOrientationPatient = [-8, -8, z], list(orientation)
    slice_.PixelSpacing, slice_.SliceThickness, slice_.Rows, slice_.Columns = [1, 1], 5, 16, 16
    slice_.SamplesPerPixel, slice_.PhotometricInterpretation, slice_.PixelRepresentation = 1, "MONOCHROME2", 1
    slice_.BitsAllocated = slice_.BitsStored = 16
    slice_.HighBit, slice_.RescaleSlope, slice_.RescaleIntercept = 15, 2, -1000
    slice_.PixelData = np.full((16, 16), value, np.int16).tobytes()
    slice_.save_as(path, enforce_file_format=True)


def test_slices_are_sorted_by_position_and_in_hounsfield_units(tmp_path):
    for name, z in (("a", 10), ("b", 0), ("c", 5)):
        write_slice(tmp_path / name, z, 500 + z)
    volume = read_study(tmp_path).volumes[0]
    assert volume.units == "HU" and volume.spacing_mm == pytest.approx((5, 1, 1))
    assert volume.pixels[:, 8, 8].tolist() == [0, 10, 20]


def test_the_same_position_twice_is_one_slice(tmp_path):
    for name, z in (("a", 0), ("b", 5), ("c", 5), ("d", 10)):
        write_slice(tmp_path / name, z, 500)
    assert read_study(tmp_path).volumes[0].pixels.shape[0] == 3


def test_bytes_that_are_no_dicom_are_a_coded_error(tmp_path):
    (tmp_path / "x.dcm").write_bytes(b"nothing of the kind")
    with pytest.raises(WetreadError, match=r"\[E1"):
        read_study(tmp_path)


@pytest.mark.parametrize("share", [0.2, 0.6, 0.95])
def test_a_file_that_was_cut_off_is_said_to_be_so_with_its_cure(tmp_path, share):
    for i in range(3):
        path = tmp_path / f"{i}.dcm"
        write_slice(path, i * 5.0, 30)
        path.write_bytes(path.read_bytes()[:int(share * path.stat().st_size)])
    with pytest.raises(WetreadError, match=r"0\.dcm: the file ends early, after \d+ bytes, .*; copy or send it again") as caught:
        read_study(tmp_path)
    assert caught.value.code == "E106" and "decoded" not in str(caught.value) and "missing" not in str(caught.value)


def test_an_empty_file_beside_whole_ones_is_named_with_its_cure(tmp_path):
    for i in range(3):
        write_slice(tmp_path / f"{i}.dcm", i * 5.0, 30)
    (tmp_path / "3.dcm").write_bytes(b"")
    [reason] = read_study(tmp_path).skipped
    assert reason.startswith("3.dcm: the file ends early, after 0 bytes") and "again" in reason


def test_a_real_head_ct_with_tilt_and_uneven_gaps_becomes_one_volume():
    folder = Path(__file__).parents[3] / "shared/imaging/head_ct_dicom"
    if not folder.exists():
        pytest.skip(f"{folder} is not there")
    volume = read_study(folder).volumes[0]
    notes = " ".join(volume.notes)
    assert "tilt" in notes and "uneven gaps" in notes and volume.orientation == "axial"
    assert len(list(folder.glob("*.dcm"))) == 28 and pydicom.dcmread(next(folder.glob("*.dcm"))).Modality == volume.modality


def test_timing_of_a_sequence_and_b_value_are_kept_and_two_patients_are_never_one_study(tmp_path):
    for name, z, patient in (("a", 0, "A"), ("b", 5, "A"), ("c", 10, "A")):
        write_slice(tmp_path / name, z, 500)
        image = pydicom.dcmread(tmp_path / name)
        image.PatientID, image.EchoTime, image.RepetitionTime, image.InversionTime, image.DiffusionBValue = patient, 90, 9000, 2500, 1000.0
        image.save_as(tmp_path / name)
    tags = read_study(tmp_path).volumes[0].tags
    assert (float(tags["EchoTime"]), float(tags["InversionTime"]), float(tags["DiffusionBValue"])) == (90, 2500, 1000)
    image.PatientID = "B"
    image.save_as(tmp_path / "c")
    with pytest.raises(WetreadError, match="2 PatientIDs"):
        read_study(tmp_path)
