"""Where a mask lies in a head: side of the midline, part of the brain, size, slices, box."""
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.distance import pdist

from data.records import ImageEvidence, Side, Volume

BRIGHT = 0.12               # of the 99th percentile: what is brighter belongs to the head
HORNS_MM, FRONT, HORN_POINTS = 35.0, 0.45, 8      # height above the largest slice, share of the brain's length, least points of a horn
ONE_SIDED = 0.8             # of a mask on one side, from which that side is named
NEAR_MIDLINE_MM = 6.0       # mean distance, below which a mask lies in the midline
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Frame:
    """A head's own axes on the grid of a volume: millimetres from the midline (patient's left +), and its extent."""

    lateral_mm: NDArray[np.float32]     # (slices, rows, columns)
    head: Mask
    leftward: bool

    def side(self, mask: Mask) -> Side | None:
        """The patient's side of a mask."""
        if not mask.any():
            return None
        at = self.lateral_mm[mask]
        share = float((at > 0).mean())
        if float(np.abs(at).mean()) < NEAR_MIDLINE_MM and 1 - ONE_SIDED < share < ONE_SIDED:
            return "midline"
        return "left" if share >= ONE_SIDED else "right" if share <= 1 - ONE_SIDED else "bilateral"


def frame_of(volume: Volume) -> Frame:
    """The midline as the plane through the middles of the head's rows, where it is wide."""
    assert volume.spacing_mm is not None
    head = head_of(volume)
    column_mm = volume.spacing_mm[2]
    columns = np.arange(head.shape[2], dtype=np.float32)
    width = head.sum(2)
    wide = width > 0.6 * np.quantile(width[width > 0], 0.95) if (width > 0).any() else np.zeros_like(width, bool)
    slices, rows = np.nonzero(wide)
    leftward = volume.affine is None or bool(volume.affine[0, 0] > 0)
    if len(rows) < 20:
        middle: NDArray[np.float32] = np.full(head.shape[:2], (head.shape[2] - 1) / 2, np.float32)
    else:
        first = head.argmax(2)[slices, rows]
        last = head.shape[2] - 1 - head[:, :, ::-1].argmax(2)[slices, rows]
        middles = (first + last) / 2
        terms = np.stack([np.ones(len(rows)), rows, slices], 1).astype(float)
        kept = np.ones(len(rows), bool)
        for _ in range(4):          # rows through an ear or a pad lie far off and are dropped
            fit = np.linalg.lstsq(terms[kept], middles[kept], rcond=None)[0]
            off = np.abs(middles - terms @ fit)
            kept = off <= max(1.0, float(np.quantile(off, 0.75)))
        s, r = np.meshgrid(np.arange(head.shape[0]), np.arange(head.shape[1]), indexing="ij")
        middle = (fit[0] + fit[1] * r + fit[2] * s).astype(np.float32)
    lateral = (columns[None, None] - middle[:, :, None]) * np.float32(column_mm)
    return Frame(lateral if leftward else -lateral, head, leftward)


def head_of(volume: Volume) -> Mask:
    """The head without the air around it, holes filled slice by slice."""
    pixels = volume.pixels - min(0.0, float(volume.pixels.min()))
    bright = ndimage.binary_opening(pixels > BRIGHT * float(np.quantile(pixels, 0.99)), np.ones((1, 3, 3)))
    parts, count = ndimage.label(bright)
    if not count:
        return bright
    largest = parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
    return np.stack([ndimage.binary_fill_holes(plane) for plane in largest])


def longest_mm(mask: Mask, spacing_mm: tuple[float, float, float]) -> float:
    """Longest diameter in a slice of the largest part."""
    part = largest_part(mask)
    best = 0.0
    for plane in part[np.argsort(-part.sum((1, 2)))[:3]]:
        edge = np.argwhere(plane & ~ndimage.binary_erosion(plane)).astype(float)
        if len(edge) < 2:
            best = max(best, spacing_mm[1] if plane.any() else 0.0)
            continue
        if len(edge) > 600:
            edge = edge[:: len(edge) // 600 + 1]
        # from outer edge to outer edge of the points
        best = max(best, float(pdist(edge * np.array(spacing_mm[1:])).max()) + spacing_mm[1])
    return round(best, 1)


def largest_part(mask: Mask) -> Mask:
    parts, count = ndimage.label(mask, np.ones((3, 3, 3)))
    return parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:])) if count else mask


def without_specks(mask: Mask, least_ml: float, voxel_ml: float) -> Mask:
    """Parts of `least_ml` or more."""
    parts, count = ndimage.label(mask, np.ones((3, 3, 3)))
    if not count:
        return mask
    keep = np.bincount(parts.ravel()) * voxel_ml >= least_ml
    keep[0] = False
    return keep[parts]


def evidence_of(volume: Volume, mask: NDArray[np.uint8], name: str) -> tuple[ImageEvidence, ...]:
    """The slice that shows most of a mask, with its box; `mask` lies on the volume as read."""
    if not mask.any():
        return ()
    areas = mask.sum((1, 2))
    at = int(areas.argmax())
    used = np.flatnonzero(areas)
    rows, columns = ndimage.find_objects((mask[at] > 0).astype(np.uint8))[0]
    uid = volume.instance_uids[at] if at < len(volume.instance_uids) else ""
    return (ImageEvidence(volume.series_uid, at, uid, (rows.start, columns.start, rows.stop, columns.stop), name, (int(used[0]), int(used[-1]))),)


def likeness(volume: Volume, frame: Frame) -> dict[str, float]:
    """What sets a head apart from other things of its size: spread of brightness, mirror image, neighbouring slices, how it fills its box."""
    areas = frame.head.sum((1, 2))
    middle = np.flatnonzero(areas >= 0.7 * areas.max())
    at = middle[np.linspace(0, len(middle) - 1, min(7, len(middle))).round().astype(int)]
    scale = float(np.median(volume.pixels[frame.head])) or 1.0
    image = np.clip(ndimage.uniform_filter(volume.pixels[at], (0, 3, 3)) / scale, 0, 3)
    head = frame.head[at]
    middle_column = int(np.median(np.abs(frame.lateral_mm[at]).argmin(2)))
    columns = 2 * middle_column - np.arange(image.shape[2])
    inside = (columns >= 0) & (columns < image.shape[2])
    mirrored = image[:, :, np.clip(columns, 0, image.shape[2] - 1)]
    both = head & inside[None, None]
    after = np.minimum(at + 1, len(volume.pixels) - 1)
    next_one = np.clip(ndimage.uniform_filter(volume.pixels[after], (0, 3, 3)) / scale, 0, 3)
    plane = frame.head[int(areas.argmax())]
    box = float(np.prod([np.ptp(np.flatnonzero(plane.any(axis))) + 1 for axis in (0, 1)]))
    return {"spread": float(image[head].std()), "mirror": correlation(image[both], mirrored[both]),
            "neighbour": correlation(image[head], next_one[head]), "filled": float(areas.max()) / box}


def correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    if len(a) < 2 or float(a.std()) < 1e-6 or float(b.std()) < 1e-6:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def evans_index(structures: Mapping[str, NDArray[np.uint8]], slice_mm: float) -> float:
    """Greatest width of the frontal horns over that of the brain in the same axial slice, from the largest slice to 35 mm above it.

    Evans 1942 (Arch Neurol Psychiatry 47:931) divides by the inner skull; the outermost fluid lies along it.
    """
    inside, best = np.any([mask > 0 for mask in structures.values()], 0), 0.0
    lowest = int(inside.sum((1, 2)).argmax())
    for at in range(lowest, min(len(inside), lowest + int(HORNS_MM / slice_mm) + 1)):
        rows, across = np.flatnonzero(inside[at].any(1)), np.flatnonzero(inside[at].any(0))
        front = structures["ventricles"][at] > 0
        front[rows[0] + int(FRONT * (rows[-1] - rows[0])):] = False
        parts, _ = ndimage.label(front)
        horns = np.isin(parts, np.flatnonzero(np.bincount(parts.ravel())[1:] >= HORN_POINTS) + 1)
        columns = np.flatnonzero(horns.any(0))
        if len(columns):
            best = max(best, float(np.ptp(columns) + 1) / float(np.ptp(across) + 1))
    return round(best, 4)
