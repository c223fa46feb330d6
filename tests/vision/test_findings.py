"""The findings model as shipped, on heads it has not seen, and its refusals."""
import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data.errors import ModelError, StudyRefused
from data.images import open_study
from data.records import Study, Volume
from data.simulator import simulate_head_ct
from vision.findings import PEAK_OF_MANY, FindingModel, choose_volume, outline_bias, peak, run, whole_study
from vision.train_findings import OUTLINES, Slices
from vision.transforms import SIZE

REAL = Path("/work/shared/imaging/head_ct_dicom")


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


def parent(model, study):
    return next(f for f in model.find(study).findings if f.code == "intracranial_haemorrhage")


def that_always_says(model, logit):
    """The same model, its reader of pictures replaced by one that has made up its mind."""
    stubborn = copy.deepcopy(model.picture_net)
    torch.nn.init.zeros_(stubborn.answer.weight)
    torch.nn.init.constant_(stubborn.answer.bias, logit)
    return FindingModel(model.net, stubborn, model.settings)


def test_one_reader_outvotes_neither_bleeding_nor_absence_alone(model, bleeding):
    assert (parent(model, bleeding[0].study).present, parent(model, bleeding[0].study).band) == (True, "state")
    denied = parent(that_always_says(model, -30.0), bleeding[0].study)
    assert not denied.present
    normal = simulate_head_ct(9100, "none").study
    assert not parent(model, normal).present and parent(that_always_says(model, 30.0), normal).present


def test_what_is_only_possible_has_no_kind_no_side_and_no_volume(model, bleeding):
    undecided = np.array(that_always_says(model, 0.0).find(bleeding[0].study).slice_probability)
    needed = 2 * (PEAK_OF_MANY - peak(np.log(undecided / (1 - undecided))))
    graph = that_always_says(model, float(needed)).find(bleeding[0].study).findings
    assert [(f.code, f.band) for f in graph if f.present and f.band != "omit"] == [("intracranial_haemorrhage", "hedge")]


def test_a_picture_of_a_bleeding_slice_is_stated_without_a_volume_and_a_turned_one_without_a_side(model, bleeding):
    made, truth = bleeding
    at = int(made.masks["intraparenchymal"].sum((1, 2)).argmax())
    grey = np.clip(made.volume.pixels[at:at + 1] / 80, 0, 1)
    for pixels, side in ((grey, truth.side), (np.rot90(grey, axes=(1, 2)).copy(), None)):
        found = {f.code: f for f in model.find(Study("1", (Volume(pixels, None, None, units="1"),))).findings}
        assert found["intracranial_haemorrhage"].present
        assert {(f.side, f.volume_ml) for f in found.values() if f.present and f.code.endswith("l_haemorrhage") and f.side} <= {(side, None)}


@pytest.mark.skipif(not REAL.exists(), reason="the real head CT lies in /work/shared, which is not here")
def test_a_real_head_without_haemorrhage_is_never_called_bleeding(model):
    found = parent(model, open_study(REAL))
    assert not (found.present and found.band == "state")


def test_a_missing_model_is_a_coded_error(tmp_path):
    with pytest.raises(ModelError):
        FindingModel.load(tmp_path / "none")


def test_outlines_that_lie_too_low_are_lifted_by_what_the_held_out_studies_show():
    class Timid(torch.nn.Module):
        """Sees every outline where the picture is bright, but is never surer of it than one in four."""

        def forward(self, images):
            bright = (images[:, :1] > 0.5).float()
            segment = (bright * 3.0 - 4.1).expand(-1, len(OUTLINES), -1, -1)
            half = torch.zeros(len(images), 3, SIZE // 2, SIZE // 2)
            return {"segment": segment, "classify": torch.zeros(len(images), 7), "midline": half}, half

    hu, labels = np.full((4, SIZE, SIZE), 30, np.int16), np.zeros((4, SIZE, SIZE), np.uint8)
    hu[:, 40:60, 40:60], labels[:, 40:60, 40:60] = 75, 1 + OUTLINES.index("subdural")
    held = Slices(hu, labels, np.array([2, 2]), np.zeros(2), np.full(2, 5.0))
    lifted = outline_bias(Timid(), held)
    assert [value > 0 for value in lifted] == [name == "subdural" for name in OUTLINES]
    raised = run(Timid(), whole_study(held, 0)[1], bias=lifted).outlines[:, OUTLINES.index("subdural")]
    assert (raised[:, 45:55, 45:55] > 0.5).all() and (raised[:, :30] < 0.5).all()
