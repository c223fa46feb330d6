import nibabel
import numpy as np
import pytest
from PIL import Image

from data.errors import ImageError, WetreadError
from data.images import open_study
from data.simulator import simulate_head_ct, write_dicom


@pytest.mark.parametrize("codes", [("R", "A", "S"), ("L", "P", "S"), ("P", "I", "R")])
def test_a_nifti_of_any_axis_order_gives_the_same_volume_in_radiological_order(tmp_path, codes):
    values = np.full((6, 7, 8), -1000, np.int16)
    values[0, 1, 2] = 70                                        # (right, front, up) counted from left, back, feet
    canonical = nibabel.Nifti1Image(values, np.array([[2, 0, 0, -5], [0, 3, 0, -9], [0, 0, 5, 4], [0, 0, 0, 1.0]]))
    start = nibabel.orientations.io_orientation(canonical.affine)
    image = canonical.as_reoriented(nibabel.orientations.ornt_transform(start, nibabel.orientations.axcodes2ornt(codes)))
    nibabel.save(image, tmp_path / "head.nii.gz")
    [volume] = open_study(tmp_path / "head.nii.gz").volumes
    assert volume.pixels.shape == (8, 7, 6) and volume.spacing_mm == (5, 3, 2) and volume.modality == "CT" and volume.units == "HU"
    slice_, row, column = (int(i) for i in np.argwhere(volume.pixels == 70)[0])
    assert (slice_, row, column) == (2, 5, 5)                   # far right side of the patient is x=0 there, the last column is his left
    assert np.allclose((volume.affine @ [column, row, slice_, 1])[:3], [5, 6, 14])      # LPS: minus RAS x and y


def test_a_picture_is_grey_from_0_to_1_and_has_no_spacing(tmp_path):
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).convert("RGB").save(tmp_path / "ct.png")
    [volume] = open_study(tmp_path / "ct.png").volumes
    assert volume.pixels.shape == (1, 16, 16) and volume.spacing_mm is None
    assert volume.pixels.min() == 0 and volume.pixels.max() == 1


def test_a_folder_of_dicom_is_read_by_its_own_reader(tmp_path):
    write_dicom(simulate_head_ct(3, kind="none", rows=64, slice_mm=10.0), tmp_path / "ct")
    [volume] = open_study(tmp_path / "ct").volumes
    assert volume.modality == "CT" and volume.spacing_mm[0] == pytest.approx(10)


def test_wrong_truncated_missing_and_huge_files_are_coded_errors(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\nhello")
    (tmp_path / "b.nii").write_bytes(b"hello")
    (tmp_path / "c.nii.gz").write_bytes(b"hello")
    (tmp_path / "d.jpg").write_bytes(b"")
    (tmp_path / "e.txt").write_text("hello")
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4, 3), np.float32), np.eye(4)), tmp_path / "f.nii")
    for name in ("a.png", "b.nii", "c.nii.gz", "d.jpg", "e.txt", "f.nii", "none.png"):
        with pytest.raises(WetreadError):
            open_study(tmp_path / name)
    Image.new("L", (300, 300)).save(tmp_path / "big.png")
    monkeypatch.setattr("data.images.PIXELS_MAX", 1000)
    with pytest.raises(ImageError, match="300x300"):
        open_study(tmp_path / "big.png")


def test_a_picture_in_colour_says_so(tmp_path):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (32, 32, 3), np.uint8)).save(tmp_path / "colour.png")
    Image.fromarray(np.repeat(rng.integers(0, 255, (32, 32, 1), np.uint8), 3, 2)).save(tmp_path / "grey.png")
    shares = [float(open_study(tmp_path / name).volumes[0].tags["coloured_share"]) for name in ("colour.png", "grey.png")]
    assert shares[0] > 0.5 and shares[1] == 0


def test_a_folder_of_nifti_files_is_one_study_of_series_named_as_their_files_and_label_maps_are_left_out(tmp_path):
    rng = np.random.default_rng(0)
    pictures = {"FLAIR": rng.uniform(0, 100, (8, 8, 4)), "T1_post": rng.uniform(0, 100, (8, 8, 4)), "mask": np.eye(8)[..., None] * np.ones(4)}
    for name, values in pictures.items():
        nibabel.save(nibabel.Nifti1Image(values.astype(np.float32), np.diag([2, 2, 5, 1])), tmp_path / f"{name}.nii.gz")
    study = open_study(tmp_path)
    assert [v.sequence for v in study.volumes] == ["FLAIR", "T1_post"] and "mask.nii.gz: a label map" in study.skipped[0]
