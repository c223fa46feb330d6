"""Simulated cases as files, and the comparison with real pictures."""
import json

import numpy as np
import pytest
from PIL import Image

from data.errors import InputError, SimulatorError
from data.images import open_study
from data.simulate.compare import compare, fitted, real_pictures, two_sample_test
from data.simulate.files import write_case
from data.simulate.recipes import simulate

GRID = {"size": (5, 40, 40), "spacing_mm": (9.0, 5.4, 5.4)}


def test_nifti_comes_back_with_pixels_and_geometry(tmp_path):
    case = simulate("dwi_infarct", 6, **GRID)
    write_case(case, tmp_path)
    volume = open_study(tmp_path / "DWI.nii.gz").volumes[0]
    np.testing.assert_allclose(volume.pixels, case.channels["DWI"], rtol=1e-5)
    np.testing.assert_allclose(volume.affine, case.affine, atol=1e-4)
    truth = json.loads((tmp_path / "truth.json").read_text())
    assert truth["simulated"] and truth["findings"][0]["code"] == "acute_infarct" and truth["category"] in ("none", "infarct")
    assert "SIMULATED" in (tmp_path / "order.jsonl").read_text()


def test_dicom_comes_back_with_pixels_and_geometry(tmp_path):
    case = simulate("mr_to_ct", 6, **GRID)
    write_case(case, tmp_path, "dicom")
    for name, modality in (("CT", "CT"), ("T1", "MR")):
        study = open_study(tmp_path / name)
        volume = study.volumes[0]
        assert volume.modality == modality and study.patient.name.startswith("SIMULATED")
        np.testing.assert_allclose(volume.pixels, case.channels[name], atol=0.51 if name == "CT" else 6e-4)
        np.testing.assert_allclose(volume.affine, case.affine, atol=1e-3)


def test_raw_data_and_series_are_kept(tmp_path):
    case = simulate("dti_few_directions", 2, **GRID)
    write_case(case, tmp_path)
    with np.load(tmp_path / "raw.npz") as raw:
        np.testing.assert_array_equal(raw["gradients"], case.truth["gradients"])
    assert (tmp_path / "DIFFUSION.nii.gz").exists()


def test_an_unknown_format_is_named(tmp_path):
    with pytest.raises(SimulatorError, match=r"format is 'mhd'.*nifti"):
        write_case(simulate("t1_to_t2", 1, **GRID), tmp_path, "mhd")


def blobs(rng, grain):
    y, x = np.mgrid[:96, :96] - 48
    picture = (np.hypot(x, y * rng.uniform(0.9, 1.1)) < 40) * (0.6 + rng.normal(0, grain, (96, 96)))
    return fitted(np.clip(picture, 0, 1))


def test_the_two_sample_test_finds_a_difference_and_only_where_there_is_one():
    rng = np.random.default_rng(0)
    same = two_sample_test([blobs(rng, 0.05) for _ in range(14)], [blobs(rng, 0.05) for _ in range(14)], [str(i) for i in range(14)])
    other = two_sample_test([blobs(rng, 0.05) for _ in range(14)], [blobs(rng, 0.15) for _ in range(14)], [str(i) for i in range(14)])
    assert other["auc_pictures"] > 0.95 and 0.2 < same["auc_pictures"] < 0.8


def test_what_gives_a_simulation_away_is_named():
    rng = np.random.default_rng(2)
    ours, darker = [blobs(rng, 0.05) for _ in range(14)], [0.7 * blobs(rng, 0.05) for _ in range(14)]
    found = two_sample_test(ours, darker, [str(i) for i in range(14)])["rests_on"]
    assert found["grey"] > 0.95 and set(found) == {"grey", "edges", "spectrum", "layout"}


def test_pictures_of_a_patient_are_known_by_the_table_beside_them(tmp_path):
    rng = np.random.default_rng(3)
    (tmp_path / "img").mkdir()
    (tmp_path / "index.csv").write_text("row,case\n" + "".join(f"{i},patient {i // 4}\n" for i in range(12)))
    for i in range(12):
        Image.fromarray((blobs(rng, 0.1) * 200).astype(np.uint8)).save(tmp_path / f"img/{i:04d}.png")
    _, patients = real_pictures(tmp_path / "img", 12, 0)
    assert sorted(patients) == sorted(f"patient {i // 4}" for i in range(12))


def test_comparison_writes_its_figure_and_page(tmp_path):
    rng = np.random.default_rng(1)
    for i in range(12):
        Image.fromarray((blobs(rng, 0.1) * 200).astype(np.uint8)).save(tmp_path / f"p{i}.png")
    answer = compare("t1_to_t2", "T1", tmp_path, tmp_path / "out", 10, 1)
    assert answer["auc_patches"] > 0.6 and answer["real"] == 10 and answer["blur_px"] == 0
    assert compare("t1_to_t2", "T1", tmp_path, tmp_path / "blurred", 10, 1, blur_px=2.0)["blur_px"] == 2
    assert json.loads((tmp_path / "out/comparison.json").read_text()) == answer and (tmp_path / "out/comparison.png").exists()
    with pytest.raises(InputError, match="does not exist"):
        compare("t1_to_t2", "T1", tmp_path / "none", tmp_path / "out", 10)
    with pytest.raises(SimulatorError, match="no channel 'T9'"):
        compare("t1_to_t2", "T9", tmp_path, tmp_path / "out", 10)
