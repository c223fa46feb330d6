"""The findings model as shipped, on heads it has not seen, and its refusals."""
import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data.dicom import UNEVEN_GAPS
from data.errors import ModelError, StudyRefused
from data.images import open_study
from data.records import Study, Volume
from data.simulate.true_regions import region_shares
from data.simulator import simulate_head_ct
from vision.evaluate_findings import region_verdict
from vision.findings import PEAK_OF_MANY, PIXEL_MM, FindingModel, choose_volume, give_fragments, measure, outline_bias, peak, run, whole_study
from vision.train_findings import OUTLINES, SLICE_CODES, Slices
from vision.transforms import SIZE, grid_for, volume_channels

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


def test_blood_is_given_the_region_that_it_began_in_where_the_head_can_be_laid_on_the_atlas(model):
    made = simulate_head_ct(9005, "intraparenchymal")

    def seen(**change):
        volume = replace(made.volume, **change)
        return {f.code: f for f in model.find(replace(made.study, volumes=(volume,))).findings}["intraparenchymal_haemorrhage"]

    found = seen()
    assert found.region == "cerebellum" and region_verdict(found.region, region_shares(made, "", "intraparenchymal")) == "right"
    assert seen(affine=None).region == seen(notes=(UNEVEN_GAPS,)).region == ""


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
    return FindingModel(model.net, stubborn, model.skull_net, model.settings)


def test_one_reader_outvotes_neither_bleeding_nor_absence_alone(model, bleeding):
    assert (parent(model, bleeding[0].study).present, parent(model, bleeding[0].study).band) == (True, "state")
    denied = parent(that_always_says(model, -30.0), bleeding[0].study)
    assert not denied.present
    normal = simulate_head_ct(9100, "none").study
    assert not parent(model, normal).present and parent(that_always_says(model, 30.0), normal).present


def test_what_is_only_possible_is_given_its_likeliest_kind_and_side_and_where_it_lies_and_no_volume(model, bleeding):
    made, truth = bleeding
    undecided = np.array(that_always_says(model, 0.0).find(made.study).slice_probability)
    needed = 2 * (PEAK_OF_MANY + 0.6 - peak(np.log(undecided / (1 - undecided))))       # a probability of 0.65
    answer = that_always_says(model, float(needed)).find(made.study)
    graph = {f.code: f for f in answer.findings if f.present and f.code not in ("skull_fracture", "midline_shift") and f.band != "omit"}
    assert graph["intracranial_haemorrhage"].probability == pytest.approx(0.65, abs=0.02)
    # not mass effect: how much there is of what is only possible is not known
    assert {code: f.band for code, f in graph.items()} == {"intracranial_haemorrhage": "hedge", "intraparenchymal_haemorrhage": "hedge"}
    kind = graph["intraparenchymal_haemorrhage"]
    assert (kind.side, kind.volume_ml) == (truth.side, None) and kind.evidence[0].mask == kind.code
    assert made.masks["intraparenchymal"][kind.evidence[0].slice].any()


def test_a_slice_and_its_mirror_image_are_read_alike(model, bleeding):
    volume = bleeding[0].volume
    images = volume_channels(volume, grid_for(volume))[12:18]
    plain, mirrored = run(model.net, images), run(model.net, images.flip(-1))
    np.testing.assert_allclose(plain.outlines, mirrored.outlines[..., ::-1], atol=1e-4)
    np.testing.assert_allclose(plain.halves, mirrored.halves[:, [0, 2, 1], :, ::-1], atol=1e-4)
    np.testing.assert_allclose(plain.logits, mirrored.logits, atol=1e-3)


@pytest.fixture(scope="module")
def broken():
    """A long simulated fracture on one side."""
    for seed in range(9200, 9240):
        made = simulate_head_ct(seed, "fracture", slice_mm=3.0)
        truth = {f.code: f for f in made.findings}["skull_fracture"]
        if truth.present and truth.side in ("left", "right") and made.masks["fracture"].sum() > 150:
            return made, truth
    raise AssertionError("no such seed")


def fracture(model, study):
    answer = model.find(study)
    return next(f for f in answer.findings if f.code == "skull_fracture"), answer.masks.get("skull_fracture")


def test_a_fracture_is_called_possible_on_its_side_and_shown_where_it_runs(model, broken):
    made, truth = broken
    found, mask = fracture(model, made.study)
    assert (found.present, found.band, found.side) == (True, "hedge", truth.side)
    assert (mask & made.masks["fracture"]).sum() > 0.3 * made.masks["fracture"].sum() and mask.sum() < 20 * made.masks["fracture"].sum()
    assert mask[found.evidence[0].slice].any() and found.evidence[0].mask == "skull_fracture"
    mirrored = replace(made.volume, pixels=made.volume.pixels[:, :, ::-1].copy())
    assert {fracture(model, replace(made.study, volumes=(mirrored,)))[0].side, truth.side} == {"left", "right"}


@pytest.mark.parametrize(("strength", "changes", "present", "band"), [
    (9.0, {}, True, "hedge"), (9.0, {"fracture_said": False}, True, "omit"), (-9.0, {}, False, "omit")])
def test_a_fracture_is_never_stated_never_denied_and_not_said_where_the_net_is_not_good_enough(
        model, bleeding, monkeypatch, strength, changes, present, band):
    monkeypatch.setattr("vision.findings.fracture_logits", lambda net, grey, device: np.full((len(grey), 512), strength, np.float32))
    changed = FindingModel(model.net, model.picture_net, model.skull_net, model.settings | {"calibration": model.calibration | changes})
    found, mask = fracture(changed, bleeding[0].study)
    assert (found.present, found.band, mask is not None) == (present, band, present)


def test_where_slices_were_resampled_from_uneven_gaps_no_fracture_is_looked_for_and_the_draft_says_so(model, broken):
    """A slice between two others shows the skull of both: of a real head whose gaps differ every line was taken for a fracture."""
    made, _ = broken
    uneven = replace(made.volume, notes=(f"{UNEVEN_GAPS} (1.1 to 7.0 mm) resampled to 4.00 mm",))
    answer = model.find(replace(made.study, volumes=(uneven,)))
    found = next(f for f in answer.findings if f.code == "skull_fracture")
    assert (found.present, found.band) == (False, "omit") and "skull_fracture" in answer.not_assessed
    assert "slices lie unevenly: no fracture looked for" in answer.notes


def test_a_whole_skull_has_no_fracture(model):
    for seed in (9100, 9101):
        assert fracture(model, simulate_head_ct(seed, "none").study)[0].band == "omit"


def test_thin_slices_show_the_fracture_in_each_slice_that_was_averaged(model, broken):
    made, _ = broken
    thin = replace(made.volume, pixels=np.repeat(made.volume.pixels, 3, 0), spacing_mm=(1.0, *made.volume.spacing_mm[1:]),
                   instance_uids=tuple(f"{uid}.{i}" for uid in made.volume.instance_uids for i in range(3)))
    found, mask = fracture(model, replace(made.study, volumes=(thin,)))
    assert found.present and mask.shape == thin.pixels.shape and mask[found.evidence[0].slice].any()


def test_a_picture_of_a_bleeding_slice_is_stated_without_a_volume_and_a_turned_one_without_a_side(model, bleeding):
    made, truth = bleeding
    at = int(made.masks["intraparenchymal"].sum((1, 2)).argmax())
    grey = np.clip(made.volume.pixels[at:at + 1] / 80, 0, 1)
    for pixels, side in ((grey, truth.side), (np.rot90(grey, axes=(1, 2)).copy(), None)):
        found = {f.code: f for f in model.find(Study("1", (Volume(pixels, None, None, units="1"),))).findings}
        assert found["intracranial_haemorrhage"].present
        assert {(f.side, f.volume_ml) for f in found.values() if f.present and f.code.endswith("l_haemorrhage") and f.side} <= {(side, None)}


@pytest.mark.skipif(not REAL.exists(), reason="the real head CT lies in /work/shared, which is not here")
def test_a_real_head_without_haemorrhage_is_never_called_bleeding_and_its_sutures_are_no_fracture(model):
    found = {f.code: f for f in model.find(open_study(REAL)).findings}
    assert not (found["intracranial_haemorrhage"].present and found["intracranial_haemorrhage"].band == "state")
    assert found["skull_fracture"].band == "omit"


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
            return {"segment": segment, "classify": torch.zeros(len(images), len(SLICE_CODES)), "midline": half}, half

    hu, labels = np.full((4, SIZE, SIZE), 30, np.int16), np.zeros((4, SIZE, SIZE), np.uint8)
    hu[:, 40:60, 40:60], labels[:, 40:60, 40:60] = 75, 1 + OUTLINES.index("subdural")
    held = Slices(hu, labels, np.array([2, 2]), np.zeros(2), np.full(2, 5.0))
    lifted = outline_bias(Timid(), held)
    assert [value > 0 for value in lifted] == [name == "subdural" for name in OUTLINES]
    raised = run(Timid(), whole_study(held, 0)[1], bias=lifted).outlines[:, OUTLINES.index("subdural")]
    assert (raised[:, 45:55, 45:55] > 0.5).all() and (raised[:, :30] < 0.5).all()


def bent(slices, bend_mm):
    """Halves on the net's grid whose border is an arc of `bend_mm` towards the last column."""
    y, x = np.mgrid[:SIZE // 2, :SIZE // 2] * 2 * PIXEL_MM - SIZE * PIXEL_MM / 2
    inside = (x / 65) ** 2 + (y / 82) ** 2 < 1
    first = inside & (x < bend_mm * np.clip(1 - (y / 82) ** 2, 0, 1))
    return np.repeat(np.stack([~inside, first, inside & ~first])[None], slices, 0).astype(np.float32)


def sure_from(mm):
    """A calibration by which a shift of `mm` is as likely there as not."""
    return [2.0, 0.0, -2.0 * mm]


@pytest.mark.parametrize(("bend_mm", "changes", "present", "band", "side"), [
    (14.0, {}, True, "state", "left"), (-14.0, {}, True, "state", "right"), (0.0, {}, False, "state", None),
    (0.0, {"shift_denied": False}, False, "omit", None), (14.0, {"shift_said": False}, False, "omit", None),
    (14.0, {"shift": [0.0, 0.0, 0.0]}, True, "hedge", "left"), (14.0, {"shift": [0.0, 0.0, -1.0]}, False, "omit", None),
    (None, {}, False, "omit", None)])
def test_a_shift_is_stated_or_denied_by_how_far_the_border_of_the_halves_is_bent(model, bleeding, monkeypatch, bend_mm, changes, present, band, side):
    def measure_bent(answers, slice_mm):
        answers.halves = bent(len(answers.halves), bend_mm or 0.0)
        if bend_mm is None:             # the head lies on its side: its front is not in the first rows
            answers.halves = answers.halves.swapaxes(2, 3)
        return measure(answers, slice_mm)

    monkeypatch.setattr("vision.findings.measure", measure_bent)
    sure = {"shift": sure_from(3.0), "shift_slope": 1.0, "shift_said": True, "shift_denied": True}
    settings = model.settings | {"calibration": model.calibration | sure | changes}
    changed = FindingModel(model.net, model.picture_net, model.skull_net, settings)
    shift = {f.code: f for f in changed.find(bleeding[0].study).findings}["midline_shift"]
    assert (shift.present, shift.band, shift.side) == (present, band, side)
    if present:
        assert 0.5 * abs(bend_mm) < shift.size_mm < 1.3 * abs(bend_mm) and shift.evidence[0].series_uid == bleeding[0].volume.series_uid


def test_a_large_shift_of_a_simulated_head_is_stated_to_its_side_with_its_size(model):
    made = next(study for study in (simulate_head_ct(s, "epidural", slice_mm=5.0, size=1.0) for s in range(200, 240)) if study.shift_mm > 6)
    truth, found = ({f.code: f for f in findings}["midline_shift"] for findings in (made.findings, model.find(made.study).findings))
    assert (found.present, found.band, found.side) == (True, "state", truth.side)
    assert found.size_mm == pytest.approx(truth.size_mm, abs=3.0)
    normal = {f.code: f for f in model.find(simulate_head_ct(9100, "none").study).findings}["midline_shift"]
    assert not normal.present


def chances(**areas):
    """Outline probabilities of eight slices: a box of (slices, rows, columns) for each kind named."""
    made = np.zeros((8, len(OUTLINES), SIZE, SIZE), np.float32)
    for name, (slices, rows, columns) in areas.items():
        made[slices, OUTLINES.index(name), rows, columns] = 0.9
    return made


SUBDURAL_BLOOD = (slice(2, 6), slice(20, 90), slice(20, 32))


@pytest.mark.parametrize(("other", "place", "kept"), [
    ("intraparenchymal", (slice(3, 5), slice(40, 50), slice(32, 36)), False),       # a rim of the subdural under another name
    ("intraparenchymal", (slice(2, 6), slice(20, 90), slice(32, 44)), True),        # as large: blood of its own
    ("intraparenchymal", (slice(3, 5), slice(40, 60), slice(32, 36)), True),        # small beside it, and more than a fragment
    ("intraparenchymal", (slice(3, 5), slice(40, 50), slice(90, 94)), True),        # elsewhere
    ("subarachnoid", (slice(3, 5), slice(40, 50), slice(32, 36)), True)])           # blood of sulci lies beside other blood
def test_a_fragment_at_the_rim_of_larger_blood_takes_its_name(other, place, kept):
    made = chances(subdural=SUBDURAL_BLOOD, **{other: place})
    before = made.max(1).copy()
    give_fragments(made, 120)
    assert bool((made[:, OUTLINES.index(other)] > 0.5).any()) == kept
    np.testing.assert_array_equal(made.max(1), before)                              # no blood is lost or made


def test_a_kind_of_blood_that_cannot_be_outlined_is_not_given(model, bleeding, monkeypatch):
    """However sure the net of its slices is: a finding of a head is shown where it lies."""
    def run_sure(*args, **more):
        answers = run(*args, **more)
        answers.logits[:, SLICE_CODES.index("subarachnoid")] = 10.0
        answers.outlines[:, OUTLINES.index("subarachnoid")] = 0.0
        return answers

    monkeypatch.setattr("vision.findings.run", run_sure)
    found = {f.code: f for f in model.find(bleeding[0].study).findings}
    assert found["intraparenchymal_haemorrhage"].present and not found["subarachnoid_haemorrhage"].present


def test_a_volume_whose_columns_run_to_the_patients_right_has_its_shift_to_the_other_side(model, bleeding, monkeypatch):
    def measure_bent(answers, slice_mm):
        answers.halves = bent(len(answers.halves), 14.0)
        return measure(answers, slice_mm)

    monkeypatch.setattr("vision.findings.measure", measure_bent)
    calibration = model.calibration | {"shift": sure_from(3.0), "shift_said": True}
    sure = FindingModel(model.net, model.picture_net, model.skull_net, model.settings | {"calibration": calibration})
    turned = bleeding[0].volume.affine.copy()
    turned[0, 0] *= -1
    study = replace(bleeding[0].study, volumes=(replace(bleeding[0].volume, affine=turned),))
    assert {f.code: f for f in sure.find(study).findings}["midline_shift"].side == "right"


def test_a_volume_whose_head_lies_turned_has_no_side_and_no_shift(model, bleeding):
    """Real heads stored lying on their side had shifts stated that were the net's guess at a midline."""
    made = bleeding[0]
    volume = made.volume
    turned = replace(volume, pixels=np.rot90(volume.pixels, axes=(1, 2)).copy())
    answer = model.find(replace(made.study, volumes=(turned,)))
    found = {f.code: f for f in answer.findings}
    assert found["intracranial_haemorrhage"].present and not any(f.side for f in answer.findings)
    assert found["midline_shift"].band == "omit" and not found["midline_shift"].present
    assert any("lies turned" in note for note in answer.notes)


def test_mass_effect_is_shown_where_it_was_read_from(model):
    found = model.find(next(study for study in (simulate_head_ct(s, "epidural", slice_mm=5.0, size=1.0) for s in range(200, 240))
                            if study.shift_mm > 6).study)
    by_code = {f.code: f for f in found.findings}
    effect, bleed = by_code["mass_effect"], by_code["epidural_haemorrhage"]
    assert effect.present and bleed.present and effect.evidence == bleed.evidence and effect.evidence[0].mask in found.masks
