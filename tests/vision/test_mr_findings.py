"""Head MR: which series is which, where a finding lies, what its head's figures let the draft say, and what is never said."""
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from data.atlas import CENTRE, REGIONS, skull_mm
from data.dicom import UNEVEN_GAPS
from data.errors import InputError, ModelError, StudyRefused
from data.findings import FINDINGS
from data.images import open_study
from data.records import Finding, Patient, Prior, PriorStudy, Study, Volume
from data.simulate.files import write_case
from data.simulate.recipes import simulate
from nlp.assertions import read_all, read_report
from nlp.sentences import NO_FINDING
from vision.apply_head import HeadAnswer, HeadModel
from vision.evaluate_mr_findings import regions
from vision.findings import not_assessed
from vision.heads import HEADS
from vision.heads.tasks import TASKS
from vision.mr_findings import SCREENS, MrFindingModel, Seen, fazekas, look, one_story, restricted, told_of_each_other
from vision.mr_measure import evans_index, frame_of, longest_mm
from vision.mr_series import back_from_axial, choose, onto, role_of, to_axial, together, why_not
from vision.priors import not_told_again, with_priors
from vision.reporter import Reporter, comparison, modality_of
from vision.train_mr_findings import fitted, regions_of, truths

AFFINE = np.diag([2.0, 2.0, 5.0, 1.0])
OLD_INFARCTS = (2, 9, 15)       # seeds of the embedded head: none, a tumour, one of 67 mL
FLAIR = {"EchoTime": "120", "RepetitionTime": "9000", "InversionTime": "2500"}


def head(bright_at=(12, 60, 75), radius_mm=12.0, shape=(24, 110, 100), spacing=(5.0, 2.0, 2.0), affine=AFFINE, sequence="ax t2 flair", tags=None):
    """An egg-shaped head with a bright ball in it; columns run to the patient's left where the affine says so."""
    z, y, x = np.meshgrid(*(np.arange(n) * s for n, s in zip(shape, spacing, strict=True)), indexing="ij")
    middle = [(n - 1) * s / 2 for n, s in zip(shape, spacing, strict=True)]
    away = ((z - middle[0]) / 75) ** 2 + ((y - middle[1]) / 92) ** 2 + ((x - middle[2]) / 72) ** 2
    rng = np.random.default_rng(0)
    pixels = (away < 1) * (100 + 40 * np.sin(y / 9) * np.cos((x - middle[2]) / 8) + rng.normal(0, 2, shape))
    at = [i * s for i, s in zip(bright_at, spacing, strict=True)]
    pixels[(z - at[0]) ** 2 + (y - at[1]) ** 2 + (x - at[2]) ** 2 < radius_mm**2] = 260
    return Volume(pixels.astype(np.float32), spacing, affine, modality="MR", sequence=sequence, series_uid="s1", tags=tags or {})


def reader(name="flair_lesions", threshold=2.0):
    """A head that outlines what is brighter than `threshold` times the median: its answer is known."""
    made = HeadModel(HEADS[name], TASKS[HEADS[name].task].build(HEADS[name]).eval(), {"version": "x-1", "spacing_mm": [5.0, 2.0, 2.0]})

    class Bright(torch.nn.Module):
        config = made.net.config

        def forward(self, image):
            return (image[:, 1:2] - threshold) * 50
    made.net = Bright()
    return made


def fit(**changes):
    """Certain of what is outlined; a volume of nothing is absent."""
    return {"weights": [0.0, 6.0, *[0.0] * 4], "bias": 3.0, "mean": [0] * 6, "spread": [1] * 6, "state_from": 0.8, "hedge_from": 0.4,
            "states": True, "hedges": True, "excludes": True, "measures": True, "sides": ["left", "right", "bilateral", "midline"], **changes}


def model(**changes):
    return MrFindingModel({"flair_lesions": reader()}, {"version": "t", "findings": {"flair_lesion": fit(**changes)}})


@pytest.mark.parametrize(("name", "tags", "role"), [
    ("AX T2 FLAIR", FLAIR, "FLAIR"), ("t2_tirm_tra_dark-fluid", {}, "FLAIR"), ("series 5", FLAIR, "FLAIR"),
    ("AX FLAIR", {**FLAIR, "InversionTime": "0"}, ""),
    ("AX T1 FLAIR", {"EchoTime": "10", "RepetitionTime": "2000", "InversionTime": "800"}, "T1"), ("t1_mprage_sag", {"InversionTime": "900"}, "T1"),
    ("t1_mprage_sag POST GAD", {}, "T1CE"), ("AX T1 +C", {}, "T1CE"), ("T1CE", {}, "T1CE"), ("AX T1", {"ContrastBolusAgent": "Gadovist"}, "T1CE"),
    ("AX T1 PRE", {"ContrastBolusAgent": "Gadovist"}, "T1"), ("t2_tse_tra", {"EchoTime": "100", "RepetitionTime": "5000"}, "T2"),
    ("AX T2*", {}, ""), ("ax swi", {}, "SWI"), ("SWI_mIP", {}, ""), ("swi pha", {}, ""), ("SWI", {"ImageType": "ORIGINAL\\PRIMARY\\P\\ND"}, ""),
    ("ep2d_diff_trace", {"DiffusionBValue": "1000.0"}, "DWI"), ("ep2d_diff", {"DiffusionBValue": "0"}, ""), ("ADC (10^-6 mm2/s)", {}, "ADC"),
    ("ep2d_diff", {"ImageType": "DERIVED\\PRIMARY\\DIFFUSION\\ADC"}, "ADC"), ("perf DSC", {}, ""), ("MRA TOF", {}, ""), ("T2 TSE spine", {}, ""),
    ("", {"EchoTime": "12", "RepetitionTime": "500"}, "T1"), ("", {}, ""), ("T2 axial", {"EchoTime": "10", "RepetitionTime": "500"}, "")])
def test_a_series_is_told_by_name_and_timing_and_by_neither_where_they_contradict(name, tags, role):
    assert role_of(Volume(np.zeros((1, 1, 1), np.float32), (1.0, 1.0, 1.0), AFFINE, modality="MR", sequence=name, tags=tags)) == role


def test_ct_has_no_role_and_makes_a_study_ct():
    ct = replace(head(), modality="CT", units="HU", sequence="FLAIR")
    assert role_of(ct) == ""
    assert modality_of(Study("1", (ct,))) == "CT" and modality_of(Study("1", (head(),))) == "MR"


@pytest.mark.parametrize(("column", "leftward", "side"), [(75, True, "left"), (25, True, "right"), (75, False, "right"), (50, True, "midline")])
def test_the_side_of_a_lesion_is_the_patients_in_either_direction_of_the_columns(column, leftward, side):
    volume = head((12, 60, column), affine=AFFINE if leftward else np.diag([-2.0, 2.0, 5.0, 1.0]))
    assert frame_of(volume).side(volume.pixels > 200) == side


def test_a_ball_is_as_long_as_it_is():
    volume = head(radius_mm=12.0)
    assert longest_mm(volume.pixels > 200, volume.spacing_mm) == pytest.approx(24, abs=3)


SHAPE = (36, 80, 80)


def head_of_the_atlas(middle=(30.0, 45.0, 15.0), radius_mm=14.0, notes=(), placed=True):
    """A head that lies as the atlas does, with a bright ball there (mm to the right, front and top); brain and fluid alone are seen."""
    affine = np.diag([2.0, 2.875, 5.0, 1.0])
    affine[:3, 3] = -79.0, -94.0, -75.0
    point = (np.argwhere(np.ones(SHAPE, bool))[:, ::-1] @ affine[:3, :3].T + affine[:3, 3]) * (-1, -1, 1)
    inside = np.linalg.norm(point - CENTRE, axis=1) < skull_mm(point - CENTRE)
    waves = 100 + 40 * np.sin(point[:, 1] / 9) * np.cos(point[:, 0] / 8)
    pixels = np.where(np.linalg.norm(point - middle, axis=1) < radius_mm, 260, np.where(inside, waves, 0)).reshape(SHAPE)
    return Volume(pixels.astype(np.float32), (5.0, 2.875, 2.0), affine if placed else None, modality="MR", sequence="flair", series_uid="s1",
                  notes=notes)


def sagittal_of(axial):
    """The same head in sagittal slices to the left, rows to the feet."""
    a, last = axial.affine, len(axial.pixels) - 1
    affine = np.stack([a[:, 1], -a[:, 2], a[:, 0], a[:, 3] + last * a[:, 2]], 1)
    return replace(axial, pixels=axial.pixels.transpose(2, 0, 1)[:, ::-1], affine=affine, spacing_mm=(2.0, 5.0, 2.875), orientation="sagittal")


def region_in(volume, outlined=lambda pixels: (pixels > 0) & (np.abs(pixels - 120) > 5), **changes):
    """The region of the lesion; `structures` is a head that outlines what it is told to, here with holes."""
    def outline(channels):
        if outlined is None:
            raise InputError("unlike all that it was taught")
        return HeadAnswer(masks={"white matter": outlined(channels["IMAGE"].pixels).astype(np.uint8)})
    made = model(**changes)
    made.heads["structures"] = SimpleNamespace(apply=outline, head=HEADS["structures"], config={})
    [finding] = made.find(Study("1", (volume,))).findings
    assert finding.present and finding.volume_ml
    return finding.region


@pytest.fixture
def placed(monkeypatch):
    """The head whose answer is known reads FLAIR alone, and FLAIR lesions are given no region."""
    for name in ("vision.regions", "vision.mr_findings"):
        monkeypatch.setattr(f"{name}.PLACED", ("flair_lesion",))


@pytest.mark.usefixtures("placed")
@pytest.mark.parametrize(("middle", "said"), [((30, 45, 15), "frontal"), ((-24, -62, -36), "cerebellum"), ((46, -16, 50), "")])
def test_a_lesion_is_given_the_region_that_holds_it_in_the_patients_own_axes_where_one_clearly_does(middle, said):
    axial = head_of_the_atlas(middle)
    assert region_in(axial) == region_in(sagittal_of(axial)) == said
    turned = replace(axial, pixels=axial.pixels[:, ::-1], affine=axial.affine @ np.diag([1.0, -1, 1, 1]) + np.outer((0, 227.125, 0, 0), (0, 0, 0, 1)))
    assert region_in(turned) == said, "rows that run to the front"


@pytest.mark.usefixtures("placed")
def test_a_lesion_is_given_no_region_where_the_head_cannot_be_laid_on_the_atlas():
    assert region_in(head_of_the_atlas(placed=False)) == region_in(head_of_the_atlas(notes=(UNEVEN_GAPS,))) == ""
    assert region_in(head_of_the_atlas(), outlined=None) == region_in(head_of_the_atlas(), outlined=lambda pixels: pixels > 1e3) == ""


@pytest.mark.usefixtures("placed")
def test_a_lesion_that_is_left_out_is_given_no_region():
    assert region_in(head_of_the_atlas(), states=False) and not region_in(head_of_the_atlas(), states=False, hedges=False)


@pytest.mark.parametrize(("seed", "truth"), [(900024, "cerebellum"), (900009, "occipital")])
def test_an_evaluation_takes_the_true_region_from_where_the_simulated_lesion_lies(seed, truth):
    case = simulate("dwi_infarct", seed, size=(24, 64, 64), spacing_mm=(5.0, 3.6, 3.6), held_out=True)
    one = Seen("acute_infarct", 0, case.masks["infarct"] > 0, (), 12.0, 12.0, 30.0, 1, "left")
    named = SimpleNamespace(region=lambda *_: "cerebellum")
    row = {"regions": regions_of(named, case, None, [one], {0: case.volume("DWI")}, truths(case))}
    assert REGIONS[int(np.argmax(row["regions"]["acute_infarct"]["shares"]))] == truth
    assert not regions_of(named, case, None, [replace(one, mask=~one.mask & one.mask)], {}, truths(case)), "nothing was outlined"
    said = Finding("f1", "acute_infarct", "", True, 0.9)
    right = truth == "cerebellum"
    assert regions([[said], [replace(said, band="omit")], [replace(said, present=False)], [said]], [row, row, row, {}]) == {
        "acute_infarct": {"right": int(right), "wrong": int(not right), "none named": 0}}


def test_a_lesion_is_stated_with_side_volume_slice_box_and_mask():
    found = model().find(Study("1", (head(),)))
    [finding] = found.findings
    assert (finding.code, finding.present, finding.band, finding.side) == ("flair_lesion", True, "state", "left")
    assert finding.volume_ml == pytest.approx(4 / 3 * np.pi * 12**3 / 1000, rel=0.25)
    [seen] = finding.evidence
    assert seen.slice == 12 and seen.slices[0] <= 11 and seen.slices[1] >= 13 and seen.series_uid == "s1"
    assert seen.box[0] <= 60 < seen.box[2] and seen.box[1] <= 75 < seen.box[3] and found.masks[seen.mask].shape == (24, 110, 100)


@pytest.mark.parametrize(("changes", "band"), [
    ({"states": False}, "hedge"), ({"states": False, "hedges": False}, "omit"), ({"hedges": False}, "state")])
def test_a_head_that_is_often_wrong_hedges_or_is_left_out_and_listed(changes, band):
    found = model(**changes).find(Study("1", (head(),)))
    assert found.findings[0].present and found.findings[0].band == band
    assert ("flair_lesion" in found.not_assessed) == (band == "omit")


@pytest.mark.parametrize(("excludes", "said"), [
    (True, "No FLAIR-hyperintense lesion."), (False, "No statement: the evidence is not enough. Read the images.")])
def test_absence_is_said_only_by_a_head_that_hardly_misses_and_nothing_else_is_called_normal(excludes, said):
    reporter = Reporter(None, None, mr=model(excludes=excludes))
    draft, _ = reporter.draft(Study("1", (head(radius_mm=0.0),)))
    assert draft.sections["impression"] == said and "normal" not in draft.sections["impression"].lower()
    assert ("FLAIR-hyperintense lesion" in draft.sections["technique"]) != excludes
    assert (draft.sections["findings"] == NO_FINDING) != excludes and draft.model["sentences"] == int(excludes)
    assert "normal" not in NO_FINDING and not read_all(NO_FINDING).assertions and not read_all(f"FINDINGS: {NO_FINDING}").assertions
    for code in ("acute_infarct", "mass", "hydrocephalus", "intracranial_haemorrhage"):
        assert code in draft.model["not_assessed"]
    assert draft.sections["technique"].endswith("Nothing else was looked for.")


def test_measures_and_sides_are_told_only_where_they_were_right():
    [finding] = model(measures=False, sides=["bilateral", "midline"]).find(Study("1", (head(),))).findings
    assert finding.volume_ml is None and finding.side is None and finding.evidence
    [finding] = model(sides=["left", "right"]).find(Study("1", (head(),))).findings
    assert finding.side == "left"


def test_nothing_is_assessed_without_its_sequences_and_a_kind_of_a_stated_parent_is_not_listed():
    present = Finding("f1", "mass", "intracranial mass", True, 0.9)
    listed = not_assessed([present], "MR")
    assert "mass" not in listed and "glioma" in listed and "skull_fracture" not in listed and "acute_infarct" in listed
    assert "subdural_haemorrhage" not in not_assessed([Finding("f1", "intracranial_haemorrhage", "h", False, 0.01)], "CT")


def test_series_of_another_grid_are_laid_on_the_first_by_the_patients_positions_and_other_frames_are_not():
    first = head(tags={"FrameOfReferenceUID": "1"})
    other = head((24, 48, 60), shape=(48, 88, 80), spacing=(2.5, 2.5, 2.5), affine=np.diag([2.5, 2.5, 2.5, 1.0]), tags={"FrameOfReferenceUID": "1"})
    moved, share = onto(other, first)
    middle = [np.argwhere(v.pixels > 200).mean(0) for v in (first, moved)]
    assert share > 0.9 and np.allclose(*middle, atol=1.0)
    assert together({"FLAIR": first, "T1": other}) is not None
    assert together({"FLAIR": first, "T1": replace(other, tags={"FrameOfReferenceUID": "2"})}) is None


def test_a_sagittal_volume_scan_is_read_as_axial_slices_and_its_mask_lies_on_it():
    axial = head(shape=(120, 110, 100), spacing=(1.0, 2.0, 2.0), bright_at=(60, 60, 75), affine=np.diag([2.0, 2.0, 1.0, 1.0]))
    pixels = axial.pixels.transpose(2, 0, 1)[:, ::-1]       # slices to the left, rows to the feet, columns to the back
    affine = np.array([[0, 0, 2.0, 0], [2.0, 0, 0, 0], [0, -1.0, 0, 119.0], [0, 0, 0, 1]])
    sagittal = Volume(pixels, (2.0, 1.0, 2.0), affine, modality="MR", sequence="flair", orientation="sagittal", series_uid="s1")
    turned = to_axial(sagittal)
    assert np.array_equal(turned.pixels, axial.pixels) and np.allclose(turned.affine, axial.affine) and turned.spacing_mm == axial.spacing_mm
    mask = (turned.pixels > 200).astype(np.uint8)
    assert np.array_equal(back_from_axial(mask, "sagittal"), (pixels > 200).astype(np.uint8)) and why_not(sagittal) is None


def test_the_axial_series_is_chosen_and_what_is_turned_down_says_why():
    chosen, turned_down = choose([head(tags={"BodyPartExamined": "KNEE"}), head(), head(sequence="DWI", shape=(4, 110, 100))])
    assert chosen == {"FLAIR": 1} and [reason for reason, _ in turned_down] == ["not-a-head", "coverage"]


def test_a_head_unlike_those_calibrated_on_is_refused():
    strange = MrFindingModel({"flair_lesions": reader()}, {"findings": {}, "likeness": {"spread": [5.0, 6.0]}})
    with pytest.raises(StudyRefused) as refused:
        strange.find(Study("1", (head(),)))
    assert refused.value.reason == "out-of-distribution"


def test_a_mass_is_not_told_twice_and_oedema_without_one_is_left_out():
    def found(code, present=True, band="state"):
        return Finding("", code, code, present, 0.9, band=band)

    assert [f.code for f in one_story([found("mass"), found("flair_lesion"), found("oedema")])] == ["mass", "oedema"]
    assert [(f.code, f.band) for f in one_story([found("mass", False), found("oedema")])] == [("mass", "state"), ("oedema", "omit")]


def test_wide_fluid_spaces_are_not_told_as_hydrocephalus_and_as_atrophy():
    def found(code, present=True, band="state"):
        return Finding("", code, code, present, 0.9, band=band)

    def bands(*findings):
        return {f.code: f.band for f in one_story(list(findings))}

    assert bands(found("hydrocephalus"), found("atrophy")) == {"hydrocephalus": "state", "atrophy": "omit"}
    assert bands(found("hydrocephalus", band="omit"), found("atrophy"))["atrophy"] == "state"
    assert bands(found("hydrocephalus", False), found("atrophy"))["atrophy"] == "state"


def test_atrophy_is_read_off_the_fluid_beside_the_brain_and_told_from_wide_ventricles():
    """Fluid of a third of the brain: around it, or in the ventricles."""
    volume = head()
    screen, frame = next(s for s in SCREENS if s.code == "atrophy"), frame_of(volume)

    def seen(outer, inner):
        structures = np.zeros(volume.pixels.shape, np.uint8)
        structures[:, :, 10:40], structures[:, :, 40:40 + outer], structures[:, :, 70:70 + inner] = 1, 2, 3
        masks = {name: (structures == k).astype(np.uint8) for k, name in ((1, "grey matter"), (2, "CSF"), (3, "ventricles"))}
        masks |= {name: np.zeros_like(structures) for name in ("white matter", "deep nuclei", "hippocampus")}
        return look(screen, 0, HeadAnswer(masks, probability={"CSF": masks["CSF"].astype(np.float32)}), {"T1": volume}, frame)

    around, within, small = seen(8, 2), seen(2, 8), seen(3, 1)
    assert around.evidence[0] == pytest.approx(np.log(1 / 3), abs=1e-3) == within.evidence[0] > small.evidence[0] + 0.5
    assert within.evidence[1] - around.evidence[1] == pytest.approx(np.log(4), abs=1e-3) and around.mask.sum() == within.mask.sum()


def test_a_reader_of_flair_tells_one_place_from_many_and_a_hollow_from_what_is_bright():
    volume = head(radius_mm=0.0)
    frame = frame_of(volume)
    one, many, hole = (np.zeros(volume.pixels.shape, np.uint8) for _ in range(3))
    one[12, 40:60, 40:44], hole[12, 40:60, 60:64] = 1, 1
    many[12, 40:60:5, 40:60:5] = 1
    dark = replace(volume, pixels=np.where(hole > 0, np.float32(10), volume.pixels))

    def seen(code, mask):
        name, screen = ("infarct" if code == "chronic_infarct" else "lesion"), next(s for s in SCREENS if s.code == code)
        answer = HeadAnswer({name: mask}, probability={name: mask.astype(np.float32)})
        return look(replace(screen, least_ml=0.0), 0, answer, {"FLAIR": dark}, frame).evidence

    assert seen("flair_lesion", one)[2:] == pytest.approx((np.log(1.6 + 0.05), np.log(2)), abs=1e-3)
    assert seen("white_matter_disease", many)[2:] == pytest.approx((np.log(0.02 + 0.05), np.log(17)), abs=1e-3)
    assert seen("chronic_infarct", hole)[4] == 1.0 and seen("chronic_infarct", one)[4] < 0.2 and seen("chronic_infarct", one * 0)[4] == 0.0


def test_each_reader_of_flair_is_told_how_much_the_others_outline():
    def seen(code, ml):
        return Seen(code, 0, np.zeros(0, bool), (1.0,), ml, 0.0, 0.0, 1, None)

    told = told_of_each_other([seen("flair_lesion", 20.0), seen("mass", 9.0), seen("chronic_infarct", 4.0)])
    none, four, twenty = (float(np.log(ml + 0.05)) for ml in (0.0, 4.0, 20.0))
    assert [one.evidence for one in told] == [(1.0, none, four), (1.0,), (1.0, twenty, none)]


def test_an_old_infarct_is_told_with_its_side_where_it_lies_and_none_where_there_is_none():
    shipped, said = MrFindingModel.load(), {}
    for seed in OLD_INFARCTS:
        case = simulate("chronic_infarct", seed)
        truth = case.findings[1]
        found = shipped.find(case.study)
        [finding] = [f for f in found.findings if f.code == "chronic_infarct"]
        said[seed] = truth.present, finding.present and finding.band != "omit"
        if all(said[seed]):
            mask = found.masks["chronic_infarct"] > 0
            truth_mask = case.masks["infarct"] > 0
            assert finding.side in (truth.side, None) and 2 * (mask & truth_mask).sum() / (mask.sum() + truth_mask.sum()) > 0.6
    assert said == {2: (False, False), 9: (False, False), 15: (True, True)}


def test_the_fazekas_grade_follows_from_the_two_borders():
    seen = Seen("white_matter_disease", 0, np.zeros(0, bool), (), 0.0, 0.0, 0.0, 1, None)
    assert [fazekas(replace(seen, volume_ml=ml), (5.0, 20.0)) for ml in (1.0, 5.0, 19.9, 20.0)] == ["1", "2", "2", "3"]


def test_a_screen_may_state_what_is_mostly_true_and_deny_what_it_hardly_misses_and_neither_by_chance():
    def pairs(right, n=160, seen_on="left"):
        rng = np.random.default_rng(0)
        rows = []
        for _ in range(n):
            there = bool(rng.uniform() < 0.5)
            says = there if rng.uniform() < right else not there
            seen = Seen("mass", 0, np.zeros(0, bool), (4.0 if says else -4.0, float(rng.normal())), 10.0 * says, 0.0, 0.0, int(says), seen_on)
            rows.append((seen, {"present": there, "volume_ml": 10.5, "side": "left", "grade": ""}))
        return rows

    good, chance = fitted(pairs(0.99)), fitted(pairs(0.5))
    assert good["states"] and good["excludes"] and good["measures"] and good["sides"]
    assert good["sides"] == ["left", "right"]
    assert not chance["states"] and not chance["excludes"]
    there = next(pair for pair in pairs(0.99) if pair[1]["present"])
    absent = next(pair for pair in pairs(0.99) if not pair[1]["present"])
    assert fitted([there if k % 5 == 0 else absent for k in range(100)])["states"], "a recipe in every fifth place is in every fold"
    assert not fitted(pairs(0.99, n=80))["excludes"], "none of forty proves little"
    rare = [there] * 10 + [absent] * 190
    missed = [(absent[0], there[1])] * 4
    assert fitted(rare)["excludes"] and not fitted(rare + missed)["excludes"], "4 of 200 denials are wrong, and 4 of 14 that are there denied"
    assert not fitted(pairs(0.99, seen_on="bilateral"))["sides"]


def test_what_is_true_too_seldom_is_said_from_a_higher_probability_or_not_at_all():
    """Evidence is the log odds, so that a probability is as often right as it says."""
    def pairs(wrong_from, n=1200):
        rng = np.random.default_rng(1)
        rows = []
        for _ in range(n):
            evidence = float(rng.uniform(-4, 4))
            p = 1 / (1 + np.exp(-evidence))
            there = bool(rng.uniform() < (p if p < wrong_from else 0.5 * p))
            rows.append((Seen("mass", 0, np.zeros(0, bool), (evidence,), 1.0, 0.0, 0.0, 1, None), {"present": there, "volume_ml": None, "side": None,
                                                                                                  "grade": ""}))
        return rows

    true, never = fitted(pairs(1.0)), fitted(pairs(0.0))
    assert true["states"] and true["hedges"] and 0.4 <= true["hedge_from"] <= true["state_from"] <= 0.9
    assert not never["states"], "of what is likeliest half is true"
    seen = Seen("mass", 0, np.ones((1, 2, 2), bool), (0.0,), 1.0, 1.0, 1.0, 1, None)
    reader_ = MrFindingModel({}, {})
    for p, from_, present in ((0.55, 0.5, True), (0.55, 0.6, False), (0.45, 0.4, True)):
        fit_ = fit(weights=[1.0], bias=float(np.log(p / (1 - p))), mean=[0], spread=[1], hedge_from=from_)
        assert reader_.finding(seen, fit_).present == present
    for from_, band in ((0.8, "state"), (0.85, "hedge")):
        certain = fit(weights=[1.0], bias=float(np.log(0.83 / 0.17)), mean=[0], spread=[1], state_from=from_)
        assert reader_.finding(seen, certain).band == band


def test_a_screen_that_is_surest_where_it_is_wrong_states_nothing_from_any_probability():
    rng, rows = np.random.default_rng(2), []
    for evidence in rng.uniform(-4, 4, 600):
        there = bool(rng.uniform() < (0.02 if evidence < 0 else 0.98 if evidence < 2 else 0.6))
        rows.append((Seen("mass", 0, np.zeros(0, bool), (float(evidence),), 1.0, 0.0, 0.0, 1, None),
                     {"present": there, "volume_ml": None, "side": None, "grade": ""}))
    fit_ = fitted(rows)
    assert not fit_["states"] and fit_["hedges"], "three in four are true: possible, not stated"


def test_lacunes_and_flair_beside_another_disease_are_not_known_in_a_case_of_old_infarcts():
    case = simulate("chronic_infarct", 15, size=(6, 40, 40), spacing_mm=(8.0, 5.4, 5.4))        # 0.23 mL a voxel
    acute, old = (replace(f, present=present) for f, present in zip(case.findings, (False, True), strict=True))

    def known(points, other):
        mask = np.zeros(case.structures.shape, np.uint8)
        mask.flat[:points] = 1
        return truths(replace(case, masks={"infarct": mask, "acute": 0 * mask}, findings=(acute, old), truth={**case.truth, "other": other}))

    assert known(3, "none")["chronic_infarct"].present and "chronic_infarct" not in known(2, "none")
    assert not known(3, "none")["flair_lesion"].present and "flair_lesion" not in known(3, "tumour")


def test_what_is_bright_on_dwi_and_no_darker_on_adc_is_no_infarct():
    adc = np.full((4, 60, 60), 800, np.float32)
    adc[:, 10:20, 10:20], adc[:, 40:50, 40:50] = 500, 1100
    mask = (adc < 600) | (adc > 1000)
    kept = restricted(mask, adc, SimpleNamespace(head=np.ones(adc.shape, bool)))
    assert (kept == (adc < 600)).all()


def test_an_infarct_that_is_dropped_leaves_no_chance_of_one():
    case = simulate("dwi_infarct", 0)
    dwi, adc = (next(v for v in case.study.volumes if role_of(v) == role) for role in ("DWI", "ADC"))
    mask = np.zeros(dwi.pixels.shape, np.uint8)
    mask[8:10, 50:60, 50:60] = 1
    answer = HeadAnswer({"infarct": mask}, probability={"infarct": mask.astype(np.float32)}, chances=(0.9,))
    screen, frame = next(s for s in SCREENS if s.code == "acute_infarct"), frame_of(dwi)
    for level, sure in ((500.0, 2.1972), (1200.0, -6.0)):
        pixels = np.where(mask > 0, np.float32(level), np.float32(800))
        seen = look(screen, 0, answer, {"DWI": dwi, "ADC": replace(adc, pixels=pixels)}, frame)
        assert seen.evidence[0] == pytest.approx(sure, abs=1e-3) and bool(seen.count) == (level < 800)


def test_the_evans_index_is_that_of_the_frontal_horns():
    brain = np.zeros((10, 100, 100), np.uint8)
    brain[:, 10:90, 10:90] = 1
    brain[0, :5] = 1                                            # the largest slice
    horns = np.zeros_like(brain)
    horns[3, 30:40, 35:45], horns[3, 30:40, 55:65] = 1, 1       # 30 of 80 points
    horns[3, 70:80, 15:85] = 1                                  # behind: the atria, which do not count
    horns[9, 30:40, 12:88] = 1                                  # 45 mm higher
    assert evans_index({"white matter": brain, "ventricles": horns}, 5.0) == pytest.approx(30 / 80)


def test_hydrocephalus_is_stated_by_the_ventricles_on_t1_of_the_usual_thickness_and_denied_by_none(monkeypatch):
    shipped, said = MrFindingModel.load(), {}
    for seed in (0, 2):
        case = simulate("hydrocephalus", seed)
        [found] = [f for f in shipped.find(case.study).findings if f.code == "hydrocephalus"]
        said[case.category] = found.present, found.band, found.critical
    assert said == {0: (False, "omit", False), 1: (True, "state", True)}
    [t1] = [v for v in case.study.volumes if role_of(v) == "T1"]
    thin = replace(case.study, volumes=(replace(t1, spacing_mm=(2.0, *t1.spacing_mm[1:])),))
    with pytest.raises(StudyRefused):
        shipped.find(thin)
    fit = shipped.calibration["findings"]["hydrocephalus"]
    wide = Seen("hydrocephalus", 0, np.ones((1, 2, 2), bool), (0.4, -1.8, -1.2), 140.0, 140.0, 80.0, 1, None)
    assert shipped.finding(wide, fit).present and not shipped.finding(replace(wide, evidence=(0.29, -1.8, -1.2)), fit).present
    assert shipped.finding(replace(wide, evidence=(0.29, -1.8, -1.2)), fit).probability <= 0.15, "no alert without a finding"
    monkeypatch.setattr("vision.mr_findings.VENTRICLES_LEAST_ML", 1e6)
    with pytest.raises(StudyRefused, match="ventricles of"):
        shipped.find(replace(case.study, volumes=(t1,)))


def test_hippocampi_that_are_small_for_the_head_are_told_from_a_thin_t1_of_the_whole_head_and_denied_by_none(monkeypatch):
    shipped = MrFindingModel.load()
    large, small = (simulate("ad_classes", seed).study for seed in (5, 6))
    seen = {study.id: next(one for one in shipped.screen(study)[0] if one.code == "hippocampal_atrophy") for study in (large, small)}
    assert seen[small.id].evidence < seen[large.id].evidence and seen[small.id].mask.shape == small.volumes[0].pixels.shape
    fit = shipped.calibration["findings"]["hippocampal_atrophy"]
    third, whole = (replace(seen[small.id], evidence=(float(np.log(ml / 1500)),)) for ml in (3.5, 8.0))
    assert shipped.finding(third, fit).present and shipped.finding(third, fit).side is None
    assert not shipped.finding(whole, fit).present and shipped.finding(whole, fit | {"excludes": True}).band == "omit"
    [t1] = small.volumes
    thick = shipped.screen(replace(small, volumes=(replace(t1, spacing_mm=(3.5, 2.0, 2.0)),)))
    assert [one.code for one in thick[0]] == ["hydrocephalus"] and not any("expected at most" in note for note in thick[1])
    with pytest.raises(StudyRefused, match="no head reads these alone"):                       # 94 mm of a head
        shipped.find(replace(small, volumes=(replace(t1, pixels=t1.pixels[:47]),)))
    monkeypatch.setattr("vision.mr_findings.INSIDE_ML", (5000.0, 6000.0))
    with pytest.raises(StudyRefused, match="mL of brain and fluid"):
        shipped.find(small)


def test_a_head_that_cannot_read_its_series_keeps_no_other_from_it():
    thin = reader("white_matter_lesions")
    thin.config["spacing_mm"] = [1.0, 2.0, 2.0]                 # slices of 5 mm are more than four times as thick
    both = MrFindingModel({"white_matter_lesions": thin, "flair_lesions": reader()}, {"version": "t", "findings": {"flair_lesion": fit()}})
    found = both.find(Study("1", (head(),)))
    assert [f.code for f in found.findings] == ["flair_lesion"] and any("5.0 mm" in note for note in found.notes)


PATIENT = Patient(id="P")


@pytest.mark.parametrize(("changes", "measured"), [
    ({}, 8.0), ({"patient_id": "Q"}, None), ({"date": "20260601"}, None), ({"modality": "CT"}, None), ({"patient_id": ""}, None)])
def test_a_prior_counts_only_of_the_same_patient_earlier_and_by_the_same_modality(changes, measured):
    old = Finding("f1", "flair_lesion", "x", True, 0.9, side="left", volume_ml=8.0)
    prior = PriorStudy(**{"study": "0", "patient_id": "P", "date": "20250101", "modality": "MR", "findings": (old,), **changes})
    study = Study("1", (head(),), patient=PATIENT, date="20260101")
    draft, _ = Reporter(None, None, mr=model()).draft(study, priors=[prior])
    [finding] = draft.findings
    assert (finding.prior.volume_ml if finding.prior else None) == measured
    assert draft.sections["comparison"] == ("Study of 2025-01-01 (measured by AI, not signed)." if measured else "No prior study was read.")


def test_a_prior_of_the_other_side_is_no_prior_and_an_absent_one_says_that_it_was_absent():
    study = Study("1", (), patient=PATIENT, date="20260101")
    now = Finding("f1", "subdural_haemorrhage", "x", True, 0.9, side="left")
    absent = replace(now, present=False, side=None)
    for old, present in ((replace(now, side="right"), None), (absent, False), (replace(absent, band="omit"), None)):
        [one] = with_priors([now], study, "CT", [PriorStudy("0", "P", "20250101", "CT", (old,))])
        assert (one.prior.present if one.prior else None) is present


def test_what_denies_a_haemorrhage_denies_its_kinds_and_a_kind_that_was_there_answers_for_it():
    study = Study("1", (), patient=PATIENT, date="20260101")
    blood, subdural = Finding("f1", "intracranial_haemorrhage", "x", True, 0.9), Finding("f2", "subdural_haemorrhage", "x", True, 0.9, volume_ml=8.0)
    denied, possible = replace(blood, present=False), replace(subdural, band="hedge")
    for now, before, expected in ((subdural, denied, (False, None)), (denied, subdural, (True, None)), (denied, possible, None),
                                  (subdural, possible, (True, None)), (subdural, replace(subdural, present=False, band="omit"), None)):
        [one] = with_priors([now], study, "CT", [PriorStudy("0", "P", "20250101", "CT", (before,))])
        assert (one.prior and (one.prior.present, one.prior.volume_ml)) == expected


def test_every_screen_names_a_finding_that_its_head_fills_by_the_table():
    for screen in SCREENS:
        assert FINDINGS[screen.code].head["MR"] == screen.head and screen.chance in HEADS[screen.head].outputs


def test_a_calibration_that_is_not_there_is_a_coded_error(tmp_path):
    with pytest.raises(ModelError, match="train mr_findings"):
        MrFindingModel.load(tmp_path)


@pytest.mark.parametrize("form", ["dicom", "nifti"])
def test_a_simulated_study_from_files_becomes_a_draft_whose_sentences_point_at_series_slice_and_mask(tmp_path, form):
    case = simulate("tumour_segmentation", 7, size=(24, 96, 96), spacing_mm=(5.0, 2.4, 2.4))
    write_case(case, tmp_path / "study", form)
    study = open_study(tmp_path / "study")
    draft, masks = Reporter.load().draft(study)
    assert draft.sections["exam"] == "MRI brain without and with contrast."
    assert draft.sections["technique"].endswith("Nothing else was looked for.") and "microbleeds" not in draft.sections["technique"]
    series = {volume.series_uid: volume.pixels.shape for volume in study.volumes}
    said = {id for sentence in draft.sentences for id in sentence.findings}
    for finding in draft.findings:
        if finding.id in said and finding.present:
            for seen in finding.evidence:
                assert masks[seen.mask].shape == series[seen.series_uid] and masks[seen.mask][seen.slice].any() and seen.box
    assert "microbleeds" in draft.model["not_assessed"] and "acute_infarct" in draft.model["not_assessed"]


@pytest.mark.parametrize(("now", "said"), [
    ([], "right intracranial mass (34.3 mL), hydrocephalus"), ([("mass", "left")], "right intracranial mass (34.3 mL), hydrocephalus"),
    ([("mass", "right"), ("hydrocephalus", None)], ""), ([("mass", None)], "hydrocephalus")])
def test_what_the_newest_earlier_study_stated_and_nothing_tells_now_is_named_in_the_comparison(now, said):
    old = (Finding("f1", "mass", "intracranial mass", True, 0.9, side="right", volume_ml=34.3),
           Finding("f2", "hydrocephalus", "hydrocephalus", True, 0.9), Finding("f3", "enhancement", "contrast enhancement", True, 0.5, band="hedge"))
    prior = PriorStudy("0", "P", "20260108", "MR", old)
    graph = [Finding(f"f{k}", code, code, True, 0.9, side=side) for k, (code, side) in enumerate(now)]
    text = comparison(graph, [prior])
    assert text.startswith("Study of 2026-01-08: nothing of it was measured here.")
    assert (f"Stated on 2026-01-08 and neither found nor denied here: {said}." in text) if said else "Stated" not in text
    assert all(a.context == "past" for a in read_report(f"COMPARISON: {text}"))
    denied = [Finding("f1", "mass", "mass", False, 0.01), Finding("f2", "hydrocephalus", "hydrocephalus", False, 0.01)]
    assert "Stated" not in comparison(denied, [prior]) and comparison(graph, []) == "No prior study was read."


@pytest.mark.parametrize(("now", "lost"), [
    ([("intracranial_haemorrhage", False, None)], []), ([("subdural_haemorrhage", True, "left")], []),
    ([("subdural_haemorrhage", True, "bilateral")], []),
    ([("subdural_haemorrhage", True, "right")], ["subdural_haemorrhage"]),
    ([("epidural_haemorrhage", True, "left")], ["subdural_haemorrhage"]), ([], ["subdural_haemorrhage"])])
def test_an_earlier_bleed_is_told_again_by_its_kind_on_a_side_that_meets_its_own_and_denied_by_a_denial_of_all(now, lost):
    old = tuple(Finding(f"f{k}", code, code, True, 0.9, side=side) for k, (code, side) in enumerate(
        (("intracranial_haemorrhage", None), ("subdural_haemorrhage", "left"))))
    graph = [Finding(f"f{k}", code, code, present, 0.9, side=side) for k, (code, present, side) in enumerate(now)]
    assert [f.code for f in not_told_again(PriorStudy("0", "P", "20260108", "CT", old), graph)] == lost


def test_a_finding_whose_side_is_not_known_has_no_size_to_compare_with():
    prior = PriorStudy("0", "P", "20250101", "MR", (Finding("f1", "enhancement", "e", True, 0.9, volume_ml=2.4),))
    study = Study("1", (head(),), patient=PATIENT, date="20260101")
    [finding] = with_priors([Finding("f1", "enhancement", "e", True, 0.9, volume_ml=0.3)], study, "MR", [prior])
    assert finding.prior == Prior("0", "20250101", True)


def test_wide_frontal_horns_on_a_thin_t1_are_told_where_hydrocephalus_is_not_looked_for(monkeypatch):
    shipped, study = MrFindingModel.load(), simulate("ad_classes", 6).study
    for index, told in ((0.46, True), (0.25, False)):
        monkeypatch.setattr("vision.mr_findings.evans_index", lambda masks, slice_mm, index=index: index)
        assert any("frontal horns are wide (Evans index 0.46)" in note for note in shipped.screen(study)[1]) == told
