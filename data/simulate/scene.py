"""The scanned grid of one case: pose, individual shape, age and mass effect as displacement, and the tissue found at each point.

Only the points of the slices asked for are computed. A slice thicker than 2.1 mm is three sub-slices, each shifted within the plane by a
third of a pixel, so that averaging them gives partial volume. All random shapes are tied to the whole grid: a slab shows the same head.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.errors import SimulatorError
from data.simulate.anatomy import AMYGDALA, CAUDATE, CORTEX, CSF, FAT, HIPPOCAMPUS, MUSCLE, STRUCTURE_OF, VENTRICLE, Head, list_heads, read_head

Floats = NDArray[np.float32]
Box = tuple[slice, slice, slice]

# scanner axes of a plane: unit vectors to the right, front and top along slices, rows and columns
PLANES = {
    "axial": ((0, 0, 1), (0, -1, 0), (-1, 0, 0)),
    "coronal": ((0, 1, 0), (0, 0, -1), (-1, 0, 0)),
    "sagittal": ((-1, 0, 0), (0, 0, -1), (0, -1, 0)),
}


@dataclass
class Ask:
    """What `simulate` was asked for."""

    recipe: str
    seed: int
    size: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    anatomy: Path | str | None = None
    held_out: bool = False
    slices: tuple[int, int] | int | None = None  # a number of slices: a slab of so many around the lesion
    options: dict[str, Any] = field(default_factory=dict)


def key_of(text: str) -> int:
    """A stable number for a name (Python's own hash differs between runs)."""
    return int.from_bytes(text.encode()[:40].ljust(8, b"."), "little") % (2**61 - 1)


def rotate(axis: int, angle: float) -> NDArray[np.float64]:
    c, s = np.cos(angle), np.sin(angle)
    i, j = [k for k in range(3) if k != axis]
    matrix = np.eye(3)
    matrix[i, i] = matrix[j, j] = c
    matrix[i, j], matrix[j, i] = -s, s
    return matrix


# share of the adult brain's volume at an age in years. Knickmeyer 2008 (J Neurosci 28:12176), Dekaban 1978 (Ann Neurol 4:345)
GROWTH = ((0.0, 0.36), (1.0, 0.72), (2.0, 0.83), (6.0, 0.95), (12.0, 1.0))


def grown(age_years: float | None) -> float:
    """Length of a head at an age as a share of the adult's."""
    return 1.0 if age_years is None else float(np.cbrt(np.interp(age_years, *zip(*GROWTH, strict=True))))


def knots_over(values: Floats, at: list[Floats]) -> Floats:
    """Smooth interpolation of a block of random knots at fractional positions, one axis after the other; unit variance is kept."""
    for axis, (where, k) in enumerate(zip(at, values.shape, strict=True)):
        weights = np.exp(-0.5 * ((where[:, None] - np.arange(k)) / 0.6) ** 2)
        weights = (weights / np.sqrt((weights**2).sum(1, keepdims=True))).astype(np.float32)
        values = np.moveaxis(np.tensordot(weights, values, (1, axis)), 0, axis)
    return np.ascontiguousarray(values, np.float32)


def widening(ventricles_mm: float, near: Floats, depth: Floats, height: Floats) -> Floats:
    """mm by which ventricles that widen push tissue, by its distance from them, its depth below the skull and its standard height (all mm)."""
    upper = np.clip((height + 8) / 16, 0, 1)
    # temporal horns are thin: they widen less, and what they push is taken up close by
    pushed: Floats = np.float32(ventricles_mm) * (0.2 + 0.8 * upper) * np.exp(-np.maximum(near, 0) / (5 + 9 * upper)) * np.minimum(depth / 12, 1)
    return pushed


class Scene:
    """Grid, head and displacement of one case. Arrays over the points are (sub-slices, rows, columns) of the slab."""

    def __init__(self, ask: Ask, plane: str = "axial", steady: bool = False) -> None:
        self.ask, self.plane = ask, plane
        self.rng = np.random.default_rng([ask.seed, key_of(ask.recipe), 7 + ask.held_out])
        rng = self.rng
        sources = list_heads(ask.anatomy, ask.held_out)
        self.source = str(rng.choice(sources))
        self.head: Head = read_head(self.source)
        self.subs = 3 if ask.spacing_mm[0] > 2.1 else 1
        scale = (1 + rng.normal(0, 0.025) + rng.normal(0, 0.02, 3)) * grown(ask.options.get("age_years"))
        angles = np.radians(rng.normal(0, (7, 4, 3)) * (0.3 if steady else 1.0))
        if plane == "axial":
            angles[0] += np.radians(rng.uniform(-14, 6)) * (not steady)
        rotation = rotate(0, angles[0]) @ rotate(2, angles[1]) @ rotate(1, angles[2])
        self.turned = rotation / scale[:, None]  # scanner (right, front, top) mm -> head mm
        self.axes = np.array(PLANES[plane], float)  # rows: slice, row, column
        self.steps = (self.turned @ self.axes.T) * np.array(ask.spacing_mm)  # columns: head mm a step along slice, row, column
        self.drift = self.place(rng, scale)
        middle = (np.array(ask.size) - 1) / 2
        self.base = self.head.centre + self.turned @ self.drift - self.steps @ middle
        self.inverse = np.linalg.inv(self.steps)
        self.warp = [
            (rng.standard_normal((5, 6, 6)).astype(np.float32), float(rng.uniform(0.8, 2.4))),
            (rng.standard_normal((5, 6, 6)).astype(np.float32), float(rng.uniform(0.8, 2.4))),
            (rng.standard_normal((5, 6, 6)).astype(np.float32), float(rng.uniform(0.8, 2.4))),
        ]
        self.fine = [rng.standard_normal((9, 11, 11)).astype(np.float32) for _ in range(3)]
        self.fine_mm = float(rng.uniform(0.2, 0.9))
        self.slab_rng = np.random.default_rng([ask.seed, 17])  # its own: the head is the same whichever slab is asked for
        self.window = self.slab_of(ask)
        self.between_muscles = float(rng.uniform(-0.3, 0.9))
        self.ageing: Any = None
        self.filled = 0.0
        self.ready = False
        self.focused = False
        self.erosion: dict[int, Floats | float] = {}
        self.lesions: list[Any] = []
        self.known_spots: dict[tuple[int, ...], tuple[NDArray[np.float64], NDArray[np.float64]]] = {}

    def place(self, rng: np.random.Generator, scale: NDArray[np.float64]) -> NDArray[np.float64]:
        """Where the middle of the grid lies from the middle of the brain (right, front, top, scanner mm): a small grid lies within the brain."""
        extent = np.array([140.0, 170.0, self.head.extent[1] - self.head.extent[0]]) * scale
        field_mm = np.abs(self.axes.T @ (np.array(self.ask.size) * self.ask.spacing_mm))
        room = np.maximum(0, extent * np.array([0.72, 0.72, 0.8]) - field_mm) / 2
        below = (self.head.centre[2] - sum(self.head.extent) / 2) * scale[2]  # the cerebrum's middle lies above the brain's
        return rng.uniform(-1, 1, 3) * room + rng.normal(0, 2.5, 3) + np.array([0, 0, -0.5 * below])

    def slab_of(self, ask: Ask) -> tuple[int, int]:
        if isinstance(ask.slices, tuple):
            return ask.slices
        if isinstance(ask.slices, int):
            start = int(self.slab_rng.integers(0, ask.size[0] - ask.slices + 1))
            return start, start + ask.slices
        return 0, ask.size[0]

    # ---------------------------------------------------------------- geometry

    def focus(self, point: NDArray[Any], reach_mm: float = 0.0) -> None:
        """Lay a slab that was asked for by its number of slices around a lesion (the first one named)."""
        if isinstance(self.ask.slices, int) and not self.focused and not self.ready:
            index = self.index_of(point)
            for _ in range(2):  # the elastic variation moves the point within the grid
                index = self.index_of(np.asarray(point) - self.warp_at(index))
            at = index[0] + self.slab_rng.uniform(-0.5, 0.5) * reach_mm / self.ask.spacing_mm[0]
            start = int(np.clip(np.rint(at - (self.ask.slices - 1) / 2), 0, self.ask.size[0] - self.ask.slices))
            self.window = (start, start + self.ask.slices)
            self.focused = True

    def warp_at(self, index: NDArray[np.float64]) -> NDArray[np.float64]:
        """Elastic displacement, head mm, at one (slice, row, column) of the whole grid."""
        unit = [np.clip(i, 0, max(1, n - 1)) / max(1, n - 1) for i, n in zip(index, self.ask.size, strict=True)]

        def at(knots: Floats) -> float:
            return float(knots_over(knots, [np.array([u * (k - 1)], np.float32) for u, k in zip(unit, knots.shape, strict=True)])[0, 0, 0])

        return np.array([at(knots) * mm + at(fine) * self.fine_mm for (knots, mm), fine in zip(self.warp, self.fine, strict=True)])

    def index_of(self, point: NDArray[Any]) -> NDArray[np.float64]:
        """(slice, row, column) in the whole grid of head points (..., 3), the elastic part left out."""
        return (np.asarray(point, float) - self.base) @ self.inverse.T

    def build(self) -> None:
        """Compute the points; called once, before anything is looked up."""
        if self.ready:
            return
        self.ready = True
        start, stop = self.window
        ns, nr, nc = (stop - start) * self.subs, self.ask.size[1], self.ask.size[2]
        self.shape = (ns, nr, nc)
        self.at_slice = (start + (np.arange(ns) - (self.subs - 1) / 2) / self.subs).astype(np.float32)
        sub = (np.arange(ns) % self.subs - (self.subs - 1) / 2) / self.subs
        rows, columns = np.arange(nr, dtype=np.float32), np.arange(nc, dtype=np.float32)
        span = [max(1, n - 1) for n in self.ask.size]
        at = [np.clip(a, 0, n) / n for a, n in zip((self.at_slice, rows, columns), span, strict=True)]
        self.unit = at
        coarse = [(a * (k - 1)).astype(np.float32) for a, k in zip(at, (5, 6, 6), strict=True)]
        fine = [(a * (k - 1)).astype(np.float32) for a, k in zip(at, (9, 11, 11), strict=True)]
        self.point: list[Floats] = []
        for i in range(3):
            lead = self.base[i] + self.steps[i, 0] * self.at_slice + (self.steps[i, 1] - self.steps[i, 2]) * sub * (self.subs > 1)
            grid = (lead[:, None, None] + (self.steps[i, 1] * rows)[:, None] + self.steps[i, 2] * columns).astype(np.float32)
            knots, mm = self.warp[i]
            grid += knots_over(knots * np.float32(mm), coarse)
            grid += knots_over(self.fine[i] * np.float32(self.fine_mm), fine)
            self.point.append(grid)
        self.push = [np.zeros(self.shape, np.float32) for _ in range(3)]
        self.coarse_index = self.flat(self.point, 2.0, self.head.coarse.shape)
        self.depth = self.at_coarse(self.head.depth)
        self.lateral = self.head.lateral(self.point)

    @staticmethod
    def flat(point: list[Floats], step: float, shape: tuple[int, ...]) -> NDArray[np.int32]:
        """Index of the nearest voxel in a raveled grid; points outside fall on its border."""
        index = np.zeros(point[0].shape, np.int32)
        for values, n in zip(point, shape, strict=True):
            index *= n
            index += np.clip((values * np.float32(1 / step) + np.float32(0.5)).astype(np.int32), 0, n - 1)
        return index

    def at_coarse(self, grid: NDArray[Any], box: Box | None = None) -> Floats:
        return grid.ravel()[self.coarse_index if box is None else self.coarse_index[box]].astype(np.float32)

    def box(self, centre: NDArray[Any], reach_mm: float, margin_mm: float = 6.0) -> Box | None:
        """The part of the slab within reach of a head point, None where nothing is."""
        self.build()
        at = self.index_of(centre)
        half = (reach_mm + margin_mm) * np.linalg.norm(self.inverse, axis=1)
        low, high = np.floor(at - half), np.ceil(at + half) + 1
        first = self.window[0]
        ends = [
            ((low[0] - first) * self.subs, (high[0] - first) * self.subs, self.shape[0]),
            (low[1], high[1], self.shape[1]),
            (low[2], high[2], self.shape[2]),
        ]
        out = tuple(slice(int(max(0, a)), int(min(n, b))) for a, b, n in ends)
        return out if all(s.stop > s.start for s in out) else None  # type: ignore[return-value]

    def noise(self, size_mm: float, box: Box | None = None, rng: np.random.Generator | None = None) -> Floats:
        """Smooth noise of unit variance with features of `size_mm`, tied to the whole grid."""
        self.build()
        counts = tuple(max(3, int(n * mm / size_mm) + 1) for n, mm in zip(self.ask.size, self.ask.spacing_mm, strict=True))
        knots = (rng or self.rng).standard_normal(counts).astype(np.float32)
        parts = self.unit if box is None else [a[s] for a, s in zip(self.unit, box, strict=True)]
        return knots_over(knots, [(a * (k - 1)).astype(np.float32) for a, k in zip(parts, counts, strict=True)])

    def off(self, centre: NDArray[Any], box: Box) -> list[Floats]:
        return [p[box] - np.float32(c) for p, c in zip(self.point, centre, strict=True)]

    def standard(self, box: Box | None = None) -> list[Floats]:
        return self.head.standard([p if box is None else p[box] for p in self.point])

    # ---------------------------------------------------------------- places

    def spots(self, *tissues: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Head points (n, 3) of coarse voxels of these tissues that lie within the whole grid, and their standard coordinates."""
        if tissues in self.known_spots:
            return self.known_spots[tissues]
        at = places_of(self.source, tissues)
        index = self.index_of(at)
        at = at[((index > 0.5) & (index < np.array(self.ask.size) - 1.5)).all(1)]
        m = self.head.to_standard
        self.known_spots[tissues] = at, at @ m[:, :3].T + m[:, 3]
        return self.known_spots[tissues]

    def field_at(self, grid: NDArray[Any], at: NDArray[np.float64]) -> NDArray[np.float64]:
        """A coarse field of the head at points that `spots` gave."""
        i = (at / 2).astype(int)
        return grid[..., i[:, 0], i[:, 1], i[:, 2]].astype(float)

    # ---------------------------------------------------------------- displacement, tissue

    def age(
        self,
        ventricles_mm: float,
        sulci_mm: float = 0.0,
        hippocampus_mm: tuple[float, float] = (0.0, 0.0),
        filled: float = 0.0,
        regional_mm: Callable[[list[Floats]], Floats] | None = None,
    ) -> None:
        """Widen (or narrow) the ventricles, thin the cortex under CSF, shrink the hippocampus (right, left); `filled` closes sulci of the young,
        `regional_mm` gives further thinning of the cortex at standard coordinates. Done by `settle`: lesions may still choose the slab."""
        self.ageing = (ventricles_mm, sulci_mm, hippocampus_mm, filled, regional_mm)

    def grow_old(self) -> None:
        if self.ageing is None:
            return
        ventricles_mm, sulci_mm, hippocampus_mm, self.filled, regional_mm = self.ageing
        if ventricles_mm:
            near = self.at_coarse(self.head.ventricle)
            m = self.head.to_standard[2].astype(np.float32)
            height = m[0] * self.point[0] + m[1] * self.point[1] + m[2] * self.point[2] + m[3]
            amount = widening(ventricles_mm, near, self.depth, height) * (1 + 0.25 * self.noise(60))
            for axis in range(3):
                self.push[axis] += amount * self.at_coarse(self.head.outward[axis])
        self.erosion[CORTEX] = np.float32(sulci_mm) * np.clip(1 + 0.5 * self.noise(40), 0, 3) if sulci_mm > 0 else 0.0
        if regional_mm is not None:
            self.erosion[CORTEX] = np.maximum(self.erosion[CORTEX], 0) + regional_mm(self.standard())
        right, left = hippocampus_mm
        self.erosion[HIPPOCAMPUS] = np.where(self.lateral > 0, np.float32(right), np.float32(left)) if right or left else 0.0

    def shrink(self, centre: NDArray[Any], reach_mm: float, share: float) -> None:
        """Draw tissue around a point together by `share` (0.2: a fifth shorter), fading out at twice the reach; negative swells it."""
        box = self.box(centre, 2 * reach_mm)
        if box is None:
            return
        off = self.off(centre, box)
        ratio = np.sqrt(off[0] ** 2 + off[1] ** 2 + off[2] ** 2) / reach_mm
        weight = np.float32(1 / (1 - share) - 1) * np.clip(2 - ratio, 0, 1) ** 2
        for axis in range(3):
            self.push[axis][box] -= off[axis] * weight

    def swell(self, centre: NDArray[Any], radius_mm: float, keep: float, fade_mm: float) -> None:
        """Mass effect: tissue within the radius is pushed out, by `keep` of the volume, fading with distance and towards the skull."""
        box = self.box(centre, radius_mm + 3 * fade_mm)
        if box is None or keep <= 0:
            return
        off = self.off(centre, box)
        distance = np.sqrt(off[0] ** 2 + off[1] ** 2 + off[2] ** 2) + np.float32(1e-3)
        amount = distance - np.cbrt(np.maximum(distance**3 - np.float32(keep * radius_mm**3), 0))
        amount *= np.exp(-np.maximum(distance - radius_mm, 0) / np.float32(fade_mm)) * np.minimum(self.depth[box] / 12, 1)
        amount /= distance
        for axis in range(3):
            self.push[axis][box] += amount * off[axis]

    def settle(self) -> None:
        """Look the tissue up at the displaced points, after all displacement."""
        self.build()
        self.grow_old()
        moved = [p - d for p, d in zip(self.point, self.push, strict=True)]
        index = self.flat(moved, 1.0, self.head.tissue.shape)
        tissue = self.head.tissue.ravel()[index]
        strayed = (self.depth > 2) & (tissue < CSF)
        tissue[strayed] = CSF
        if self.erosion:
            rim = self.head.rim.ravel()[index].astype(np.float32) / 64
            for code, into in ((CORTEX, CSF), (HIPPOCAMPUS, VENTRICLE), (AMYGDALA, VENTRICLE), (CAUDATE, VENTRICLE)):
                amount = self.erosion.get(HIPPOCAMPUS if code == AMYGDALA else code, 0.0)
                if np.any(amount):
                    tissue[(tissue == code) & (rim < amount)] = into
            if self.filled > 0:
                full = (tissue == CSF) & (self.depth > 2.5) & (self.depth < 28) & (self.noise(11) > 1.2 - 2.4 * self.filled)
                tissue[full] = CORTEX
        strands = self.noise(6, rng=np.random.default_rng([self.ask.seed, 13])) > self.between_muscles
        tissue[(tissue == MUSCLE) & strands] = FAT
        self.tissue = tissue  # anatomy without lesions; lesions paint fractions over it
        self.moved_index: NDArray[np.int32] | None = None

    def at_moved(self, grid: NDArray[Any], box: Box | None = None) -> Floats:
        """A coarse field of the head at the displaced points (after `settle`)."""
        if self.moved_index is None:
            self.moved_index = self.flat([p - d for p, d in zip(self.point, self.push, strict=True)], 2.0, self.head.coarse.shape)
        return grid.ravel()[self.moved_index if box is None else self.moved_index[box]].astype(np.float32)

    # ---------------------------------------------------------------- results

    @property
    def slices(self) -> int:
        return self.window[1] - self.window[0]

    def average(self, values: Floats) -> Floats:
        """Sub-slices to slices."""
        if self.subs == 1:
            return values
        return values.reshape(-1, self.subs, *values.shape[1:]).mean(1)

    def majority(self, values: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The value most sub-slices have; the middle one's where all three differ."""
        if self.subs == 1:
            return values
        a, b, c = (values[i::3] for i in range(3))
        return np.where(a == c, a, b)

    def structures(self) -> NDArray[np.uint8]:
        return self.majority(STRUCTURE_OF[self.tissue])

    def sides(self) -> NDArray[np.uint8]:
        middle = self.subs // 2
        lateral, depth = self.lateral[middle :: self.subs], self.depth[middle :: self.subs]
        source = lateral - self.push[0][middle :: self.subs]
        return np.where(depth > 0, np.where(source > 0, 1, 2), 0).astype(np.uint8)

    def affine(self) -> NDArray[np.float64]:
        """(column, row, slice) of the slab to LPS millimetres."""
        flip = np.diag([-1.0, -1.0, 1.0])
        step = flip @ self.axes.T * np.array(self.ask.spacing_mm)
        origin = flip @ self.drift - step @ ((np.array(self.ask.size) - 1) / 2) + step[:, 0] * self.window[0]
        matrix = np.eye(4)
        matrix[:3, :3] = step[:, ::-1]
        matrix[:3, 3] = origin
        return matrix

    @property
    def voxel_ml(self) -> float:
        return float(np.prod(self.ask.spacing_mm)) / 1000


@lru_cache(maxsize=256)
def places_of(source: str, tissues: tuple[int, ...]) -> NDArray[np.float64]:
    """Head points (n, 3) of the coarse voxels of some tissues."""
    at = np.argwhere(np.isin(read_head(source).coarse, tissues)) * 2.0
    at.flags.writeable = False
    return at


def check(ask: Ask) -> None:
    """Raise SimulatorError where the grid asked for cannot be made."""
    if len(ask.size) != 3 or min(ask.size) < 1 or np.prod(ask.size, dtype=np.int64) > 512**3:
        raise SimulatorError(f"size is {ask.size}, expected (slices, rows, columns), each 1 or more, at most 512^3 voxels")
    if len(ask.spacing_mm) != 3 or not all(0.2 <= float(s) <= 20 for s in ask.spacing_mm):
        raise SimulatorError(f"spacing_mm is {ask.spacing_mm}, expected (slice, row, column) of 0.2 to 20 mm")
    if isinstance(ask.slices, tuple) and not (len(ask.slices) == 2 and 0 <= ask.slices[0] < ask.slices[1] <= ask.size[0]):
        raise SimulatorError(f"slices is {ask.slices}, expected (start, stop) within the {ask.size[0]} slices of size")
    if isinstance(ask.slices, int) and not 1 <= ask.slices <= ask.size[0]:
        raise SimulatorError(f"slices is {ask.slices}, expected 1 to {ask.size[0]}, the slices of size")
    if (age := ask.options.get("age_years")) is not None and not 0 <= float(age) <= 110:
        raise SimulatorError(f"age_years is {age}, expected 0 to 110")
    if ask.seed < 0:
        raise SimulatorError(f"seed is {ask.seed}, expected 0 or more")
