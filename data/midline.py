"""Midline shift, measured alike on the simulator's truth and on what a network sees: how far the border between the halves is bent."""
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

SHIFT_FROM_MM = 3.0         # no head is quite straight: `tests/data/test_midline.py` and docs/models.md say how straight heads without a lesion are
BELOW_MM, ABOVE_MM = 10.0, 40.0     # the largest slice: ventricles and septum lie there
LEAST_ROWS, LEAST_MM = 24, 25.0     # of a slice, of the slices' height
ENDS, MIDDLE = 0.16, 0.3    # share of a slice's length at each end, where bone holds the falx; share from which on the septum lies
PLACES = 49                 # from front to back
SMOOTH_ROWS_MM, SMOOTH_SLICES_MM = 10.0, 8.0        # standard deviations
CLEAR_MM, ROUNDS = 2.0, 4   # points that lie further off the smooth border count less
TURNED = np.tan(np.radians(30))     # a head that lies turned by more has its front elsewhere,
ROUND = 0.98                # as has one whose inside is wider than this share of its length: skulls are 0.7 to 0.95


def midline_shift(halves: NDArray[np.float32], slice_mm: float, pixel_mm: float) -> tuple[float, int] | None:
    """(mm, + towards the last column; slice) of the largest shift between the falx's ends; None where too little is seen, or the head lies turned.

    halves: (slices, 3, rows, columns), shares of what lies outside, in the first and in the second half of the brain; front in the first rows.
    The border is smoothed, and the shift is its distance in the middle of the head from the plane through its ends: from the ideal midline to the
    septum, as Liao 2018 (Comput Math Methods Med, 4303161) reviews it.
    """
    inside = halves[:, 0] < 0.5
    area = ndimage.uniform_filter1d(inside.sum((1, 2)).astype(float), 3)
    largest = int(area.argmax())
    if wider_than(inside[largest], ROUND):
        return None
    courses, slices, lengths = [], [], []
    for at in range(max(0, largest - round(BELOW_MM / slice_mm)), min(len(area), largest + round(ABOVE_MM / slice_mm) + 1)):
        width = inside[at].sum(1)
        rows = np.flatnonzero(width > 0.3 * width.max())
        if len(rows) < LEAST_ROWS:
            continue
        first = np.where(inside[at], halves[at, 1] / (halves[at, 1] + halves[at, 2] + 1e-6), 0)
        border = (inside[at].argmax(1)[rows] + first.sum(1)[rows]) * pixel_mm
        courses.append(np.interp(np.linspace(0, len(rows) - 1, PLACES), np.arange(len(rows)), border))
        slices.append(at)
        lengths.append(len(rows) * pixel_mm)
    if len(slices) < 3 or (slices[-1] - slices[0] + 1) * slice_mm < LEAST_MM:
        return None
    length = float(np.median(lengths))
    place, height = np.meshgrid(np.linspace(-1, 1, PLACES), np.array(slices, float))
    terms = np.stack([np.ones_like(place), place, height], -1)
    ends = np.abs(place) > 1 - 2 * ENDS
    course = np.array(courses)
    calm = ndimage.median_filter(course, (min(len(course), 2 * round(5 / slice_mm) + 1), 7), mode="nearest")
    straight = terms @ np.linalg.lstsq(terms.reshape(-1, 3), calm.ravel(), rcond=None)[0]
    off, smooth = course - straight, calm - straight
    spread = (SMOOTH_SLICES_MM / slice_mm, SMOOTH_ROWS_MM / (length / (PLACES - 1)))
    for _ in range(ROUNDS):
        weight = CLEAR_MM / np.maximum(np.abs(off - smooth), CLEAR_MM)
        smooth = (ndimage.gaussian_filter(off * weight, spread, mode="nearest") / ndimage.gaussian_filter(weight, spread, mode="nearest"))
    plane = np.linalg.lstsq(terms[ends], (smooth + straight)[ends], rcond=None)[0]
    slope = 2 * plane[1] / length
    if abs(slope) > TURNED:
        return None
    shift = np.where(np.abs(place) < 1 - 2 * MIDDLE, (smooth + straight - terms @ plane) * np.cos(np.arctan(slope)), 0)
    s, r = np.unravel_index(np.abs(shift).argmax(), shift.shape)
    return float(shift[s, r]), slices[s]


def wider_than(inside: NDArray[np.bool_], share: float) -> bool:
    """Whether what is seen of the inside of a head, (rows, columns), is wider than this share of its length, or nothing is seen."""
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    return len(rows) == 0 or bool(np.ptp(columns) > share * np.ptp(rows))
