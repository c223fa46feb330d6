"""The flat skull and the net that follows cracks in it."""
import numpy as np
import pytest
import torch

from vision import train_skull
from vision.findings import FRACTURE_SHARE, FractureLines, area_under, calibrate_fracture, log_odds, probability
from vision.skull_net import ALIKE, ANGLES, DEPTHS, TOP, SkullNet, columns_of, flatten_skull, fracture_logits, other_side, to_mask
from vision.train_skull import EMBEDDED, Skull, learn_skull, make_skull, make_skulls, strengths

PIXEL_MM = 1.4375
SIZE = 160
SLICES = 14


def head(gap=None, turned=0.0, width_mm=2.4, pixel_mm=PIXEL_MM, size=SIZE):
    """An oval skull in HU, thicker in front, and the gap in it: a line that wanders with the slices around the angle `gap` in degrees."""
    y, x = (np.mgrid[:size, :size] - (size - 1) / 2) * pixel_mm
    c, s = np.cos(np.radians(turned)), np.sin(np.radians(turned))
    right, front = c * x + s * y, -(c * y - s * x)
    angle, radius = np.arctan2(right, front), np.hypot(right / 0.8, front)
    bone = (radius < 88) & (radius > 78 - 4 * np.cos(angle))
    plane = np.where(bone, 1100.0, np.where(radius < 88, 35.0, np.where(radius < 93, 20.0, -1000.0)))
    pixels, crack = np.repeat(plane[None], SLICES, 0).astype(np.float32), np.zeros((SLICES, size, size), np.uint8)
    if gap is not None:
        for at in range(3, 11):
            middle = np.radians(gap + 1.5 * np.sign(gap) * (at - 7))
            line = bone & (np.abs((angle - middle) * np.hypot(right, front)) < width_mm / 2)
            pixels[at][line], crack[at] = 20.0, line
    return pixels, crack


@pytest.mark.parametrize("gap", [40.0, 120.0, -75.0])
def test_a_gap_in_the_bone_is_a_dark_line_where_it_lies_on_the_flat_skull(gap):
    pixels, crack = head(gap)
    flat = flatten_skull(pixels, PIXEL_MM, PIXEL_MM)
    column = round(gap / 360 * ANGLES) % ANGLES
    bone = flat.grey[7].max(0).astype(int)
    assert flat.grey.shape == (SLICES, DEPTHS, ANGLES) and abs(int(bone[column - 12:column + 13].argmin()) - 12) <= 2
    assert bone[column - 2:column + 3].min() < 0.75 * np.median(bone)
    seen = columns_of(crack, flat, PIXEL_MM, PIXEL_MM)
    assert seen[7, column] and not seen[0].any() and seen[7].sum() < 12


@pytest.mark.parametrize("column", [0, 1, 100, 255, 300])
def test_the_other_side_of_a_place_lies_as_far_from_the_front(column):
    place = torch.zeros(1, 1, 3, ANGLES)
    place[0, 0, 1, column] = 1.0
    seen = torch.nonzero(other_side(place)[0, 0, 1])[:, 0].numpy()
    wanted = (np.arange(-(ALIKE[1] // 2), ALIKE[1] // 2 + 1) - column) % ANGLES
    assert set(seen) == set(wanted)


@pytest.mark.parametrize("turned", [0.0, 9.0])
def test_columns_go_back_to_the_bone_that_they_were_read_from(turned):
    pixels, crack = head(100.0, turned=turned)
    flat = flatten_skull(pixels, PIXEL_MM, PIXEL_MM)
    mask = to_mask(columns_of(crack, flat, PIXEL_MM, PIXEL_MM), flat, pixels.shape, PIXEL_MM, PIXEL_MM)
    assert (mask & crack).sum() > 0.9 * crack.sum() and mask.sum() < 6 * crack.sum()
    assert (mask.any((1, 2)) == crack.any((1, 2))).all()


@pytest.mark.parametrize("turned", [-10.0, 6.0])
def test_what_is_alike_on_both_sides_of_a_turned_head_lies_at_mirrored_columns(turned):
    both = np.minimum(head(60.0, turned=turned)[0], head(-60.0, turned=turned)[0])
    flat = flatten_skull(both, PIXEL_MM, PIXEL_MM)
    assert flat.turned == pytest.approx(turned / 360 * ANGLES, abs=3)
    bone = flat.grey[7].max(0)
    one, other = int(bone[: ANGLES // 2].argmin()), ANGLES // 2 + int(bone[ANGLES // 2:].argmin())
    assert one == pytest.approx(60 / 360 * ANGLES, abs=4) and one == pytest.approx(ANGLES - other, abs=3)


def test_fine_pixels_show_the_same_flat_skull():
    coarse, fine = flatten_skull(head(60.0)[0], PIXEL_MM, PIXEL_MM), flatten_skull(head(60.0, pixel_mm=0.45, size=512)[0], 0.45, 0.45)
    assert np.abs(coarse.grey.astype(int) - fine.grey).mean() < 12
    column = round(60 / 360 * ANGLES)
    assert fine.grey[7].max(0)[column - 3:column + 4].min() < 0.6 * np.median(fine.grey[7].max(0))


def test_a_volume_without_a_head_is_laid_out_all_the_same():
    flat = flatten_skull(np.full((3, 40, 40), -1000, np.float32), 1.0, 1.0)
    assert flat.grey.shape == (3, DEPTHS, ANGLES) and not flat.grey.any()


@pytest.mark.parametrize("slices", [1, 2, 13])
def test_any_number_of_slices_is_read(slices):
    torch.manual_seed(0)
    grey = np.random.default_rng(0).integers(0, 255, (slices, DEPTHS, ANGLES), np.uint8)
    assert fracture_logits(SkullNet(4).eval(), grey).shape == (slices, ANGLES)


def drawn(count, seed, every=2):
    """Skulls, each `every`-th of them fractured."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(count):
        pixels, crack = head(float(rng.uniform(-170, 170)) if i % every == 1 else None, turned=float(rng.normal(0, 3)))
        flat = flatten_skull(pixels + rng.normal(0, 15, pixels.shape), PIXEL_MM, PIXEL_MM)
        made.append(Skull(flat.grey, columns_of(crack, flat, PIXEL_MM, PIXEL_MM)))
    return made


def test_cracks_are_learnt_and_their_probability_is_that_of_heads_not_of_the_skulls_drawn(monkeypatch):
    monkeypatch.setattr(train_skull, "BATCH", 4)
    monkeypatch.setattr(train_skull, "CROP", 8)
    net, held = learn_skull(drawn(16, 0), 50, 0), drawn(24, 1, every=4)
    fractured = np.array([skull.fracture.any() for skull in held], float)
    seen = strengths(net, held)
    assert fractured.mean() == 0.25 and area_under(seen, fractured) > 0.95
    calibration, auc = calibrate_fracture(net, held)
    assert auc == area_under(seen, fractured) and calibration["fracture_said"]
    slope, _, intercept = calibration["fracture"]
    as_drawn = intercept - log_odds(FRACTURE_SHARE) + log_odds(0.25)        # a logistic fit is right on average on what it was fitted to
    assert np.mean([probability((slope, 0.0, as_drawn), (float(s), 0.0)) for s in seen]) == pytest.approx(0.25, abs=0.01)


def test_a_net_that_guesses_says_nothing_of_fractures():
    torch.manual_seed(0)
    calibration, auc = calibrate_fracture(SkullNet(4).eval(), drawn(12, 2))
    assert auc < 0.9 and calibration["fracture_said"] is False


def test_a_skull_is_the_same_whichever_process_simulates_it():
    made = make_skulls(2, 5, None, slice(0, 1), lambda *a, **k: None, workers=2)
    alone = make_skull((5, 1, ("",), EMBEDDED))
    np.testing.assert_array_equal(made[1].grey, alone.grey)
    np.testing.assert_array_equal(made[1].fracture, alone.fracture)


def test_heads_held_out_are_never_the_embedded_one_that_is_taught(monkeypatch):
    asked = []

    class Told(Exception):
        pass

    def simulated(seed, kind=None, *, anatomy=None, **more):
        asked.append(anatomy)
        raise Told

    monkeypatch.setattr(train_skull, "simulate_head_ct", simulated)
    monkeypatch.setattr(train_skull, "simulate", lambda recipe, seed, anatomy=None: simulated(seed, anatomy=anatomy))
    for i in range(40):
        with pytest.raises(Told):
            make_skull((1, i, ("one.npz", "two.npz"), 0.0))
    assert set(asked) == {"one.npz", "two.npz"}
    asked.clear()
    for i in range(40):
        with pytest.raises(Told):
            make_skull((1, i, ("one.npz", "two.npz"), EMBEDDED))
    assert None in asked


def test_an_operated_skull_has_no_fracture(monkeypatch):
    monkeypatch.setattr(train_skull, "KINDS", ((1.0, train_skull.OPERATED),))
    skull = make_skull((5, 0, ("",), EMBEDDED))
    assert skull.grey.shape[1:] == (DEPTHS, ANGLES) and not skull.fracture.any()


def test_metal_does_not_pull_the_outer_table_to_itself():
    pixels = np.minimum(head()[0], 700)        # a skull that is not dense
    metal = pixels.copy()
    metal[6:8, 70:78, 96:104] = 3000.0
    plain, changed = (flatten_skull(p, PIXEL_MM, PIXEL_MM).outer_mm for p in (pixels, metal))
    np.testing.assert_allclose(changed, plain, atol=1.0)


def lines_at(columns, turned=0):
    logits = np.full((5, ANGLES), -5.0, np.float32)
    logits[1:4, np.array(columns) % ANGLES] = 3.0
    flat = flatten_skull(head()[0], PIXEL_MM, PIXEL_MM)
    return FractureLines(flat._replace(turned=turned), logits)


@pytest.mark.parametrize(("columns", "turned", "side"), [
    (range(100, 112), 0, "left"), (range(400, 412), 0, "right"), ([*range(100, 112), *range(400, 412)], 0, "bilateral"), (range(-4, 5), 0, "midline"),
    (range(252, 261), 0, "midline"), (range(100, 112), 27, None), ([*range(100, 130), 400, 401], 0, "left")])
def test_a_fracture_has_the_side_that_it_runs_on_and_none_where_the_head_may_lie_turned(columns, turned, side):
    assert lines_at(list(columns), turned).side(leftward=True) == side
    mirrored = {"left": "right", "right": "left"}.get(side, side)
    assert lines_at(list(columns), turned).side(leftward=False) == mirrored


def test_where_no_place_is_likely_a_fracture_the_places_that_decided_are_shown():
    weak = lines_at(range(100, 112))
    weak.logits[:] = np.random.default_rng(0).normal(-6, 0.5, weak.logits.shape)
    weak.logits[2, 50:80] = np.linspace(-2, -1, 30)
    assert weak.columns().sum() == TOP and weak.columns()[2, 60:80].all()
