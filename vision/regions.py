"""The region of the brain that a finding lies in: the inside of the skull is laid on that of the atlas, and the outline is looked up there."""
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.optimize import least_squares

from data.atlas import CENTRE, CEREBELLUM, REGIONS, regions_at, skull_mm
from nlp.sentences import ON_THE_BRAIN
from vision.mr_measure import largest_part

Floats = NDArray[np.float64]
Placing = Callable[[Floats], Floats]    # (n, 3) patient millimetres (LPS) -> those of the atlas

SKULL_POINTS, OUTLINE_POINTS = 500, 2000        # as many are enough
HEIGHT_MM, UPPER_MM = 130.0, 90.0       # below the top: what lies lower is base and neck; the vault alone
ABOVE_MM = 73.0             # the top of the inside lies so far above the atlas's centre
ENDS_MOST = 0.75            # share of the largest slice that the first or the last may be: of a head that is cut off further in nothing is said
TO_RIGHT_FRONT_TOP = np.array([-1.0, -1.0, 1.0])        # from LPS
# what heads differ by: turns (nod, turn, lean) in radians, logarithms of their size and of each axis beside it; and how far off a point may lie
USUAL_TURN, USUAL_SIZE, USUAL_SHAPE, USUAL_MM, USUAL_WEIGHT = np.radians((12.0, 8.0, 8.0)), 0.12, 0.08, 3.0, 3.0
MOST_OFF_MM, MOST_TURNED, SIZES = 3.0, np.radians(45.0), (0.75, 1.3)        # beyond these the fit is not believed

# A head is laid on the atlas to 5 mm on average: a region is named only if it is the outline's wherever so near that lies. The shares were chosen
# on 408 simulated head CTs, the distance on MR on 516 simulated studies (docs/reports.md).
OFF_MM, MR_OFF_MM = 6.0, 9.0
SHIFTS = np.array(((0, 0, 0), (1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1)), float)
ONE_MEAN, ONE_LEAST, OTHER_MOST = 0.4, 0.2, 0.3     # of an outline: in a region that is named alone, on average and anywhere; in any other
EACH_LEAST, BOTH_LEAST = 0.2, 0.7       # in two that are named together, anywhere
MAIN_LEAST = 0.7            # in its largest part: what lies here and there lies in no one region
CORE = 0.5                  # what grows pushes the brain apart: where it began is this share of its length around its middle
BLOOD = ("intraparenchymal_haemorrhage", *ON_THE_BRAIN)        # on CT
GROWING = ("intraparenchymal_haemorrhage", "mass")
PLACED = (*BLOOD, "mass", "oedema", "acute_infarct")         # of FLAIR lesions too many were named wrongly


def region_of(code: str, mask: NDArray[np.uint8], affine: Floats, placing: Placing) -> str:
    """The region, or two with a comma, that a finding's outline lies in or over; "" where none is clear.

    Args:
        mask: (slices, rows, columns) of a volume; affine: its own, (column, row, slice) to LPS mm.
    """
    on_the_brain = code in ON_THE_BRAIN
    at = points_of(mask, main_only=not on_the_brain) if code in PLACED else ()
    if not len(at):
        return ""
    at = at[np.linspace(0, len(at) - 1, min(OUTLINE_POINTS, len(at))).round().astype(int), ::-1]
    point = placing(at @ affine[:3, :3].T + affine[:3, 3])
    if code in GROWING:
        point = point.mean(0) + CORE * (point - point.mean(0))
    off_mm = OFF_MM if code in BLOOD else MR_OFF_MM
    found = np.stack([regions_at(point + shift, deep=not on_the_brain) for shift in off_mm * SHIFTS])
    shares = np.stack([(found == k).mean(1) for k in range(len(REGIONS))], 1)       # (shifts, regions)
    mean, least, most = shares.mean(0), shares.min(0), shares.max(0)
    first, second = np.argsort(-mean, kind="stable")[:2]
    named = []
    if mean[first] >= ONE_MEAN and least[first] >= ONE_LEAST and np.delete(most, first).max() <= OTHER_MOST:
        named = [first]
    elif min(least[first], least[second]) >= EACH_LEAST and (shares[:, first] + shares[:, second]).min() >= BOTH_LEAST:
        named = [first, second]
    return ", ".join("posterior fossa" if k == CEREBELLUM and on_the_brain else REGIONS[k] for k in sorted(named))


def points_of(mask: NDArray[np.uint8], main_only: bool) -> NDArray[np.int64]:
    """(n, 3) places of an outline; with `main_only` of its largest part, none where that is not most of it."""
    used = np.flatnonzero(mask.any((1, 2)))
    if not len(used):
        return np.zeros((0, 3), np.int64)
    part = mask[used[0]:used[-1] + 1] > 0       # thin slices are many
    if not main_only:
        return np.argwhere(part) + np.array((used[0], 0, 0))
    box = ndimage.find_objects(part.astype(np.uint8))[0]
    main = np.argwhere(largest_part(part[box])) + np.array((used[0], box[1].start, box[2].start))
    return main if len(main) >= MAIN_LEAST * part.sum() else main[:0]


def place(inside: NDArray[np.bool_], affine: Floats) -> Placing | None:
    """How a head lies in the atlas, by the inside of its skull; None where too little of it is seen, or it fits badly.

    Turn, size and shift of each axis are fitted to the rim of the inside in every slice: bone is not moved by what pushes the brain.

    Args:
        inside: (slices, rows, columns).
        affine: (column, row, slice) of it to LPS mm.
    """
    inside = largest_part(inside)
    area = inside.sum((1, 2))
    if not area.any() or max(area[0], area[-1]) > ENDS_MOST * area.max():
        return None
    rim = np.argwhere(inside & ~ndimage.binary_erosion(inside, np.ones((1, 3, 3))))
    skull = (rim[:, ::-1] @ affine[:3, :3].T + affine[:3, 3]) * TO_RIGHT_FRONT_TOP
    top = skull[:, 2].max()
    vault = skull[skull[:, 2] > top - UPPER_MM, :2]
    start = np.array([*(vault.min(0) + vault.max(0)) / 2, top - ABOVE_MM])
    skull = skull[skull[:, 2] > top - HEIGHT_MM] - start
    skull = skull[np.linspace(0, len(skull) - 1, min(SKULL_POINTS, len(skull))).round().astype(int)]

    def off_mm(values: Floats) -> Floats:
        placed = (skull - values[6:]) @ matrix_of(values).T
        return np.asarray(np.linalg.norm(placed, axis=1) - skull_mm(placed))

    def residual(values: Floats) -> Floats:
        size = values[3:6].mean()
        unusual = np.concatenate([values[:3] / USUAL_TURN, (values[3:6] - size) / USUAL_SHAPE, [size / USUAL_SIZE]])
        return np.concatenate([off_mm(values) / USUAL_MM, USUAL_WEIGHT * unusual])

    fitted = least_squares(residual, np.zeros(9), loss="soft_l1", x_scale=(0.1,) * 3 + (0.05,) * 3 + (5.0,) * 3, max_nfev=30).x
    sizes = np.exp(fitted[3:6])
    if (np.median(np.abs(off_mm(fitted))) > MOST_OFF_MM or np.abs(fitted[:3]).max() > MOST_TURNED
            or sizes.min() < SIZES[0] or sizes.max() > SIZES[1]):
        return None
    matrix, middle = matrix_of(fitted), start + fitted[6:]
    return lambda point: (point * TO_RIGHT_FRONT_TOP - middle) @ matrix.T + CENTRE


def matrix_of(values: Floats) -> Floats:
    """The size of each axis after a nod, a turn and a lean of the head."""
    (nod, turn, lean), (nods, turns, leans) = np.cos(values[:3]), np.sin(values[:3])
    nodded = np.array(((1, 0, 0), (0, nod, -nods), (0, nods, nod)))
    turned = np.array(((turn, -turns, 0), (turns, turn, 0), (0, 0, 1)))
    leant = np.array(((lean, 0, leans), (0, 1, 0), (-leans, 0, lean)))
    return np.asarray(np.exp(values[3:6])[:, None] * (nodded @ turned @ leant))
