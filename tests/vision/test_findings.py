"""The findings model as shipped, on heads it has not seen, and its refusals."""
from dataclasses import replace

import numpy as np
import pytest

from data.errors import ModelError, StudyRefused
from data.simulator import simulate_head_ct
from vision.findings import FindingModel, choose_volume


@pytest.fixture(scope="module")
def model():
    return FindingModel.load()


@pytest.fixture(scope="module")
def bleeding():
    """A large simulated bleed with a side."""
    for seed in range(9000, 9040):
        made = simulate_head_ct(seed, "intraparenchymal")
        truth = {f.code: f for f in made.findings}["intraparenchymal_haemorrhage"]
        if (truth.volume_ml or 0) > 25 and truth.side in ("left", "right"):
            return made, truth
    raise AssertionError("no such seed")


def test_a_large_bleed_is_found_on_its_side_with_its_volume_and_a_mask_that_lies_on_it(model, bleeding):
    made, truth = bleeding
    found = model.find(made.study)
    seen = {f.code: f for f in found.findings}["intraparenchymal_haemorrhage"]
    assert seen.present and seen.side == truth.side
    assert seen.volume_ml == pytest.approx(truth.volume_ml, rel=0.5)
    mask = found.masks["intraparenchymal_haemorrhage"]
    assert mask.shape == made.volume.pixels.shape and mask.dtype == np.uint8
    assert round(float(mask.sum()) * float(np.prod(made.volume.spacing_mm)) / 1000, 1) == seen.volume_ml
    both = (mask > 0) & (made.masks["intraparenchymal"] > 0)
    assert 2 * both.sum() / (mask.sum() + (made.masks["intraparenchymal"] > 0).sum()) > 0.5


def test_the_mirrored_head_bleeds_on_the_other_side(model, bleeding):
    made, truth = bleeding
    mirrored = replace(made.volume, pixels=made.volume.pixels[:, :, ::-1].copy())
    seen = {f.code: f for f in model.find(replace(made.study, volumes=(mirrored,))).findings}["intraparenchymal_haemorrhage"]
    assert {seen.side, truth.side} == {"left", "right"}


def test_the_same_study_gives_the_same_graph(model, bleeding):
    made, _ = bleeding
    assert model.find(made.study).findings == model.find(made.study).findings


@pytest.mark.parametrize(("change", "reason"), [
    ({"modality": "MR"}, "modality"), ({"orientation": "coronal"}, "plane"), ({"tags": {"ContrastBolusAgent": "IOHEXOL"}}, "contrast"),
    ({"tags": {"BodyPartExamined": "ABDOMEN"}}, "not-a-head"), ({"pixels": np.zeros((60, 64, 64), np.float32)}, "pixels"),
    ({"pixels": np.zeros((2, 64, 64), np.float32)}, "coverage")])
def test_what_is_no_whole_axial_head_without_contrast_is_refused_with_its_reason(bleeding, change, reason):
    with pytest.raises(StudyRefused) as refused:
        choose_volume(replace(bleeding[0].study, volumes=(replace(bleeding[0].volume, **change),)))
    assert refused.value.reason == reason


def test_a_missing_model_is_a_coded_error(tmp_path):
    with pytest.raises(ModelError):
        FindingModel.load(tmp_path / "none")
