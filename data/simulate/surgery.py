"""The head after an operation: craniotomy with its plates, resection cavity, air; and what metal does to a CT image."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from data.simulate.anatomy import AIR, BONE, CORTEX, MARROW, MUSCLE
from data.simulate.case import Floats
from data.simulate.scene import Box, Scene
from data.simulate.shapes import blob, pick, same_side, soft
from data.simulate.signal import Layer
from data.simulate.tissue import BLOOD, CAVITY

TITANIUM_HU = 8000.0  # beyond what the scanner stores: it is cut there, but hardens the beam as it is
HARDENING = 0.5  # of the square of the path through metal (in attenuation lengths) that the detector misses

Found = dict[str, list[Layer]]


def operation(scene: Scene, rng: np.random.Generator, days: float) -> Callable[[], Found]:
    """A flap over the convexity, held by plates over the gap; beneath it a cavity, at first with air in front and blood at the rim, some with a clip.

    The patient lies on the back: air rises to the forehead. Reabsorbed within three weeks (Reasoner 1994, Neurosurgery 34:1008).
    """
    at, standard = scene.spots(CORTEX)
    depth = scene.field_at(scene.head.depth, at) if len(at) else np.zeros(0)
    under = pick(rng, at, (depth > 2) & (depth < 8) & (np.abs(standard[:, 0]) > 22) & (standard[:, 2] > 5))
    reach_mm, radius_mm = float(rng.uniform(22, 38)), float(rng.uniform(8, 20))
    deep_mm, plates, air = float(rng.uniform(0.7, 1.1)), rng.uniform(0, 2 * np.pi, 3), float(max(0.0, rng.uniform(0.2, 0.7) * (1 - days / 21)))
    inner = np.random.default_rng(rng.integers(2**62))
    clipped, clip_mm = bool(rng.uniform() < 0.35), float(rng.uniform(1.8, 3.2))
    if under is None:
        return dict
    outward = (under - scene.head.centre) / np.linalg.norm(under - scene.head.centre)
    cavity = under - outward * deep_mm * radius_mm
    scene.focus(under, reach_mm)

    def paint() -> Found:
        found: Found = {"craniotomy": [], "cavity": [], "air": [], "metal": []}
        if (box := scene.box(under + outward * 10, reach_mm + 15)) is not None:
            found["craniotomy"], found["metal"] = flap(scene, box, under, outward, reach_mm, plates)
        if (made := blob(scene, cavity, radius_mm, inner, rough=0.12)) is not None:
            box, ratio = made
            inside = same_side(scene, cavity, box) * (scene.depth[box] > 0.5)
            if days < 30:
                rim = np.clip(1 - np.abs((ratio - 1) * radius_mm) / 1.8, 0, 1) * inside * np.float32(0.8 * (1 - days / 30))
                scene.lesions.append(Layer(box, BLOOD, rim.astype(np.float32)))
            hole = (soft(ratio, radius_mm) * inside).astype(np.float32)
            found["cavity"] = [Layer(box, CAVITY, hole)]
            front = scene.off(cavity, box)[1]
            level = np.float32(radius_mm * (1 - 2 * air))
            found["air"] = [Layer(box, AIR, (hole * np.clip(front - level + 0.5, 0, 1) * (air > 0)).astype(np.float32))]
            scene.lesions.extend(found["cavity"] + found["air"])
        bottom = cavity - outward * 0.8 * radius_mm
        if clipped and (box := scene.box(bottom, clip_mm)) is not None:
            distance = np.sqrt(sum(part**2 for part in scene.off(bottom, box)))
            found["metal"].append(Layer(box, BONE, np.clip(clip_mm - distance + 0.5, 0, 1).astype(np.float32)))
        return found

    return paint


def flap(scene: Scene, box: Box, under: NDArray, outward: NDArray, reach_mm: float, plates: NDArray) -> tuple[list[Layer], list[Layer]]:
    """(gap of the bone around the flap with its burr holes, plates that bridge it)."""
    off = scene.off(under, box)
    along = sum(np.float32(o) * part for o, part in zip(outward, off, strict=True))
    across = np.cross(outward, (0.0, 0.0, 1.0))
    across /= np.linalg.norm(across) + 1e-9
    third = np.cross(outward, across)
    u, v = (sum(np.float32(o) * part for o, part in zip(axis, off, strict=True)) for axis in (across, third))
    from_axis = np.hypot(u, v)
    bone = np.isin(scene.tissue[box], (BONE, MARROW)) * (along > -reach_mm)
    gap = np.clip(1.7 - np.abs(from_axis - reach_mm), 0, 1)
    metal = np.zeros_like(gap)
    outside = (scene.depth[box] <= 0) * (np.abs(from_axis - reach_mm) < 9) * (along > -reach_mm)
    for turn in plates:
        a, b = np.float32(reach_mm * np.cos(turn)), np.float32(reach_mm * np.sin(turn))
        gap = np.maximum(gap, np.clip(6.5 - np.hypot(u - a, v - b), 0, 1))
        near = np.hypot(u - a, v - b) < 7
        edge = near & outside & bone.astype(bool)
        if edge.any():  # a plate lies on the outer table
            metal = np.maximum(metal, edge * (along > float(np.quantile(along[edge], 0.85))))
    layer = Layer(box, MUSCLE, (gap * bone).astype(np.float32))
    scene.lesions.append(layer)
    return [layer], [Layer(box, BONE, metal.astype(np.float32))]


def with_metal(clean: Floats, metal: Floats, pixel_mm: float, project: Callable[..., NDArray], back: Callable[..., NDArray],
               water_per_mm: float, seed: int) -> Floats:
    """The clean HU image with metal (fraction a voxel) in it and what it does: beam hardening and starved rays, by the projections of each slice.

    De Man 1999 (IEEE Trans Nucl Sci 46:691).
    """
    out = clean.copy()
    for i, share in enumerate(metal):
        if share.max() < 0.05:
            continue
        lines = project(share * TITANIUM_HU / 1000 * water_per_mm, pixel_mm)
        whole = project((clean[i] / 1000 + 1).clip(0) * water_per_mm, pixel_mm) + lines
        rng = np.random.default_rng([seed, 71, i])
        starved = rng.standard_normal(lines.shape) * np.sqrt(np.exp(np.clip(whole, 0, 12)) / 4e5) * (lines > 0.05)
        wrong = back(-HARDENING * lines**2 + starved, share.shape, pixel_mm) / water_per_mm * 1000
        out[i] = clean[i] * (1 - share) + TITANIUM_HU * share + wrong
    return out.astype(np.float32)
