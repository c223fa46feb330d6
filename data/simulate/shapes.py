"""Shapes that lesions are made of: rough blobs, tubes, and the side and size that a finding states."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.records import Finding
from data.simulate.scene import Box, Scene
from data.simulate.signal import Layer
from data.simulator import LABELS, side_of

Floats = NDArray[np.float32]
Paint = Callable[[], dict[str, list[Layer]]]  # run after Scene.settle: paints, and gives layers by mask name


def blob(
    scene: Scene,
    centre: NDArray[Any],
    radius_mm: float,
    rng: np.random.Generator,
    rough: float = 0.15,
    reach: float = 1.6,
    stretch: NDArray[Any] | None = None,
) -> tuple[Box, Floats] | None:
    """(box, ratio): ratio is below 1 within a rough ellipsoid and grows with distance over the radius."""
    rng = np.random.default_rng(rng.integers(2**62))  # the same draws whether or not the slab holds the lesion
    stretch = rng.uniform(0.78, 1.28, 3) if stretch is None else stretch
    turn = np.linalg.qr(rng.standard_normal((3, 3)))[0] / stretch[:, None]
    seeds = rng.integers(2**62, size=2)
    box = scene.box(centre, radius_mm * reach * float(max(stretch)))
    if box is None:
        return None
    off = scene.off(centre, box)
    square = sum((np.float32(a) * off[0] + np.float32(b) * off[1] + np.float32(c) * off[2]) ** 2 for a, b, c in turn)
    distance = np.sqrt(square)
    if rough:
        shape = (
            1
            + rough * scene.noise(max(5.0, radius_mm), box, np.random.default_rng(seeds[0]))
            + 0.6 * rough * scene.noise(max(4.0, radius_mm * 0.45), box, np.random.default_rng(seeds[1]))
        )
        distance /= np.clip(shape, 0.45, 1.8)
    return box, (distance / np.float32(radius_mm)).astype(np.float32)


def soft(ratio: Floats, radius_mm: float, edge_mm: float = 1.0) -> Floats:
    """1 inside, 0 outside, with an edge of some width."""
    return np.clip((1 - ratio) * np.float32(radius_mm / edge_mm) + 0.5, 0, 1)


def same_side(scene: Scene, centre: NDArray[Any], box: Box) -> NDArray[np.bool_]:
    """Points on the lesion's side of the midline (a little beyond it is let pass)."""
    lateral = float(scene.head.lateral([np.float32(c) for c in centre]))  # type: ignore[arg-type]
    return scene.lateral[box] * np.sign(lateral) > -1.5


def tube(scene: Scene, way: NDArray[np.float64], radius_mm: float) -> list[tuple[Box, Floats]]:
    """(box, fraction) of each piece of a thin tube along a line of head points (n, 3)."""
    pieces = []
    for a, b in pairwise(way):
        box = scene.box((a + b) / 2, float(np.abs(b - a).max()) / 2 + radius_mm, margin_mm=4.0)
        if box is None:
            continue
        off = scene.off(a, box)
        along = (b - a).astype(np.float32)
        part = np.clip((off[0] * along[0] + off[1] * along[1] + off[2] * along[2]) / np.float32(along @ along + 1e-6), 0, 1)
        square = sum((o - part * w) ** 2 for o, w in zip(off, along, strict=True))
        pieces.append((box, np.clip(radius_mm - np.sqrt(square) + 0.5, 0, 1).astype(np.float32)))
    return pieces


def pick(rng: np.random.Generator, at: NDArray[np.float64], fits: NDArray[np.bool_]) -> NDArray[np.float64] | None:
    """One of the points that fit; one of all where none fits; None without points."""
    if not len(at):
        return None
    chosen = at[fits] if fits.any() else at
    return chosen[rng.integers(len(chosen))]


def finding(code: str, present: bool, mask: NDArray[np.uint8] | None = None, scene: Scene | None = None, **facts: Any) -> Finding:
    """A truth finding; side and volume are read off the mask."""
    if present and mask is not None and scene is not None and mask.any():
        middle = scene.subs // 2
        at = scene.lateral[middle :: scene.subs][mask > 0]
        facts = {
            "side": side_of(float((at > 0).mean()), float(np.abs(at).mean())),
            "volume_ml": round(float(mask.sum()) * scene.voxel_ml, 1),
            **facts,
        }
    return Finding(id="", code=code, label=LABELS[code], present=bool(present), probability=float(present), **facts)
