"""`wetread simulate studies --recipe`: files and truth, and what is refused."""
import json

import numpy as np
import pytest
from typer.testing import CliRunner

from api.cli import app
from api.dicom.client import send_dicom
from data.atlas import REGIONS
from data.errors import SimulatorError, StoreError
from data.images import open_study, read_nifti
from data.simulate.recipes import RECIPES
from data.simulate.true_regions import true_region
from data.simulator import simulate_head_ct


def run(*words):
    return CliRunner().invoke(app, ["simulate", *map(str, words)])


def test_studies_of_a_recipe_are_written_with_their_truth(tmp_path):
    done = run("studies", "--recipe", "tumour_type", "--count", 2, "--seed", 5, "--out", tmp_path)
    assert done.exit_code == 0, done.output
    for seed in (5, 6):
        folder = tmp_path / f"tumour_type_{seed:04d}"
        assert {"MR.nii.gz", "mask_tumour.nii.gz", "truth.json", "order.jsonl"} <= {p.name for p in folder.iterdir()}
        assert json.loads((folder / "truth.json").read_text())["category"] in ("glioma", "meningioma", "none", "pituitary")


def test_dicom_is_written_a_folder_a_channel(tmp_path):
    done = run("studies", "--recipe", "tumour_type", "-n", 1, "--format", "dicom", "--out", tmp_path)
    assert done.exit_code == 0 and len(list((tmp_path / "tumour_type_0001/MR").glob("*.dcm"))) == 1


def test_a_head_ct_without_a_recipe_has_masks_on_its_own_grid_and_an_order(tmp_path):
    assert run("studies", "-n", 1, "--seed", 1, "--out", tmp_path).exit_code == 0
    folder = tmp_path / "study_0001"
    [volume] = open_study(folder).volumes
    present = {row["code"]: row for row in json.loads((folder / "truth.json").read_text()) if row["present"]}
    masks = {name: read_nifti(folder / f"mask_{name}.nii.gz").volumes[0] for name in RECIPES["ct_haemorrhage"].masks}
    for name, mask in masks.items():
        np.testing.assert_allclose(mask.affine, volume.affine, atol=1e-3)
        found = present.get("skull_fracture" if name == "fracture" else f"{name}_haemorrhage")
        assert mask.pixels.shape == volume.pixels.shape and mask.pixels.any() == (found is not None)
        if found and found["volume_ml"]:
            assert mask.pixels.sum() * np.prod(volume.spacing_mm) / 1000 == pytest.approx(found["volume_ml"], abs=0.1)
    order = json.loads((folder / "order.jsonl").read_text())
    assert order["order_text"].startswith("SIMULATED") and order["ordered_exam"] == "CT head without contrast"


def test_what_lies_beside_the_images_is_not_sent(tmp_path):
    assert run("studies", "--recipe", "tumour_type", "-n", 1, "--format", "dicom", "--out", tmp_path).exit_code == 0
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(StoreError, match="no DICOM storage"):      # nobody listens: what is no image is told before
        rows = []
        for row in send_dicom("127.0.0.1", 1, [tmp_path]):
            rows.append(row)
    assert [row["file"].split("/")[-1] for row in rows] == ["notes.txt"]


def test_the_truth_of_a_simulated_head_ct_says_where_each_finding_is_seen(tmp_path):
    assert run("studies", "-n", 1, "--seed", 1, "--out", tmp_path).exit_code == 0
    truth = json.loads((tmp_path / "study_0001/truth.json").read_text())
    files = len(list((tmp_path / "study_0001").glob("*.dcm")))
    present = [row for row in truth if row["present"]]
    assert present and all(0 <= seen["slice"] < files and seen["instance_uid"] for row in present for seen in row["evidence"])
    assert all(row["evidence"][0]["box"] and row["evidence"][0]["slices"] for row in present if row["code"].endswith("_haemorrhage"))

    blood = {row["code"]: row["region"] for row in present if row["code"].endswith("_haemorrhage")}
    assert blood and all(name in (*REGIONS, "posterior fossa") for region in blood.values() for name in region.split(", ") if region)
    assert any(blood.values()) and not any(row["region"] for row in truth if row["code"] not in blood)


def test_the_true_region_is_where_the_blood_began_and_none_in_the_ventricles():
    made = simulate_head_ct(9005, "intraparenchymal")
    assert true_region(made, "", "intraparenchymal") == "cerebellum" and true_region(made, "", "subdural") == ""
    assert true_region(simulate_head_ct(9006, "intraventricular"), "", "intraventricular") == ""


@pytest.mark.parametrize(("words", "says"), [
    (("--recipe", "tumor"), "recipe is 'tumor'"),
    (("--recipe", "tumour_type", "--format", "mhd"), "format is 'mhd'"),
    (("--recipe", "tumour_type", "--anatomy", "/nowhere"), "does not exist"),
])
def test_what_cannot_be_simulated_is_a_coded_error(tmp_path, words, says):
    done = run("studies", *words, "-n", 1, "--out", tmp_path)
    assert isinstance(done.exception, SimulatorError) and says in str(done.exception)


@pytest.mark.parametrize(("words", "says"), [
    (("--format", "nifti"), "--format is 'nifti'"), (("--format", "mhd"), "--format is 'mhd'"), (("--format", "DICOM"), "--format is 'DICOM'"),
    (("--held-out",), "--held-out"), (("--anatomy", "heads"), "--anatomy"),
])
def test_what_head_ct_without_a_recipe_cannot_do_is_said_and_not_passed_over(tmp_path, words, says):
    done = run("studies", *words, "-n", 1, "--out", tmp_path / "x")
    assert done.exit_code == 2 and "[E109]" in done.output and says in done.output and "--recipe" in done.output and not (tmp_path / "x").exists()


def test_head_ct_asked_for_as_dicom_is_written_so(tmp_path):
    assert run("studies", "--format", "dicom", "-n", 1, "--out", tmp_path).exit_code == 0
    assert list((tmp_path / "study_0001").glob("*.dcm"))


@pytest.mark.parametrize("words", [("heads",), ("comparison", "--recipe", "t1_to_t2"), ("studies", "-n", 0)])
def test_wrong_use_exits_with_two(tmp_path, words):
    assert run(*words, "--out", tmp_path / "x").exit_code == 2
