"""Midline shift of drawn heads: what was put in comes out, and what is no shift does not."""
import numpy as np
import pytest

from data.midline import SHIFT_FROM_MM, midline_shift

PIXEL_MM, SLICE_MM, SLICES, SIDE = 2.9, 5.0, 24, 80


def head(shift_mm: float = 0.0, tilt: float = 0.0, off_mm: float = 0.0, lopsided: float = 0.0, focal_mm: float = 0.0, peak: int = 11) -> np.ndarray:
    """Halves of an egg-shaped head; the border is an arc between its ends that changes with height, or a bulge of `focal_mm`."""
    y, x = np.mgrid[:SIDE, :SIDE] * PIXEL_MM - SIDE * PIXEL_MM / 2
    halves = np.zeros((SLICES, 3, SIDE, SIDE), np.float32)
    for at in range(SLICES):
        size = np.sqrt(max(0.05, 1 - ((at - 8) / 17) ** 2))
        wide = (68 + lopsided * (x > 0)) * size
        u = np.cos(tilt) * x - np.sin(tilt) * y - off_mm
        v = np.cos(tilt) * y + np.sin(tilt) * x
        inside = (u / wide) ** 2 + (v / (85 * size)) ** 2 < 1
        arc = shift_mm * np.clip(1 - (v / (85 * size)) ** 2, 0, 1) * np.exp(-((at - peak) / 8) ** 2)
        if focal_mm:
            arc = shift_mm * np.exp(-(v / focal_mm) ** 2 - ((at - peak) * SLICE_MM / focal_mm) ** 2)
        halves[at] = [~inside, inside & (u < arc), inside & (u >= arc)]
    return halves


@pytest.mark.parametrize("shift_mm", [-12.0, -6.0, 4.0, 9.0])
def test_a_bent_midline_is_measured_with_its_size_and_its_way(shift_mm):
    measured, at = midline_shift(head(shift_mm), SLICE_MM, PIXEL_MM)
    assert np.sign(measured) == np.sign(shift_mm)
    # the arc is bent at its ends too, where the straight line is laid
    assert 0.6 * abs(shift_mm) < abs(measured) < 1.05 * abs(shift_mm)
    assert abs(at - 11) <= 2


@pytest.mark.parametrize("peak", [9, 11, 13])
def test_a_shift_of_a_few_centimetres_alone_is_measured_where_it_is(peak):
    measured, at = midline_shift(head(12.0, focal_mm=25.0, peak=peak), SLICE_MM, PIXEL_MM)
    assert 6.0 < measured < 12.0 and abs(at - peak) <= 1


@pytest.mark.parametrize("pose", [{}, {"tilt": 0.2}, {"off_mm": 12.0}, {"lopsided": 8.0}, {"tilt": -0.15, "off_mm": -9.0, "lopsided": 5.0}])
def test_a_head_that_lies_turned_off_centre_or_is_lopsided_has_no_shift(pose):
    assert abs(midline_shift(head(**pose), SLICE_MM, PIXEL_MM)[0]) < 1.0


def test_a_step_in_one_slice_is_no_shift():
    halves = head()
    halves[11, 1, 30:40, 40:46], halves[11, 2, 30:40, 40:46] = 1, 0         # the net takes a ventricle for the other side's
    assert abs(midline_shift(halves, SLICE_MM, PIXEL_MM)[0]) < 1.0 < SHIFT_FROM_MM


def test_thickness_and_points_change_the_measure_little():
    fine = np.repeat(head(8.0), 2, axis=0)
    assert midline_shift(fine, SLICE_MM / 2, PIXEL_MM)[0] == pytest.approx(midline_shift(head(8.0), SLICE_MM, PIXEL_MM)[0], abs=0.4)


@pytest.mark.parametrize("halves", [head()[:, :, :20], head()[:4], head()[:, :, ::6, ::6], head(tilt=0.62),
                                    head(9.0)[:, :, 17:63]])
def test_where_too_little_is_seen_or_the_head_lies_turned_nothing_is_measured(halves):
    assert midline_shift(halves, SLICE_MM, PIXEL_MM) is None
