"""Glioma, metastases, meningioma, pituitary adenoma: core, enhancement, necrosis, oedema and mass effect."""

import numpy as np

from data.simulate.anatomy import BRAIN, CAUDATE, CORTEX, CSF, PALLIDUM, PUTAMEN, THALAMUS, WHITE
from data.simulate.scene import Scene
from data.simulate.shapes import Floats, Paint, blob, pick, same_side, soft
from data.simulate.signal import Layer
from data.simulate.tissue import ADENOMA, CODES, ENHANCING, MENINGIOMA, METASTASIS, NECROSIS, OEDEMA, TUMOUR

# how much vasogenic oedema a tissue takes up: it follows the white matter and spares the cortex
OEDEMA_TAKES = np.zeros(CODES, np.float32)
OEDEMA_TAKES[[WHITE, CORTEX, CAUDATE, PUTAMEN, PALLIDUM, THALAMUS]] = (0.9, 0.12, 0.3, 0.3, 0.3, 0.25)
MASKS = ("whole", "core", "enhancing", "necrosis", "oedema")


def add(scene: Scene, found: dict[str, list[Layer]], layer: Layer, *names: str) -> None:
    scene.lesions.append(layer)
    for name in names:
        found.setdefault(name, []).append(layer)


def oedema_layer(scene: Scene, centre: Floats, radius_mm: float, extent_mm: float, rng: np.random.Generator, strength: float) -> Layer | None:
    """Oedema around a core: full near it, fading over `extent_mm`, with fingers along the white matter."""
    made = blob(scene, centre, radius_mm + extent_mm, rng, rough=0.32, reach=1.9)
    if made is None:
        return None
    box, ratio = made
    fraction = np.clip((1 - ratio) * (radius_mm + extent_mm) / 4 + 0.5, 0, 1) * OEDEMA_TAKES[scene.tissue[box]]
    fraction *= same_side(scene, centre, box) & (scene.depth[box] > 0)
    fraction *= np.clip(0.9 + 0.16 * scene.noise(9, box, rng), 0.3, 1.1)
    np.minimum(fraction, 1, out=fraction)
    return Layer(box, OEDEMA, (fraction * np.float32(strength)).astype(np.float32))


def glioma(scene: Scene, rng: np.random.Generator, grade: str, radius_mm: float | None = None, extent_mm: float | None = None) -> Paint:
    """`grade` "low": one infiltrating mass, bright on FLAIR; "high": a ring of enhancement around necrosis within infiltration and oedema.

    extent_mm: how far oedema and infiltration reach beyond the core.
    """
    at, standard = scene.spots(WHITE, CORTEX)
    depth = scene.field_at(scene.head.depth, at)
    fits = (depth > 12) & (np.abs(standard[:, 0]) > 9) & (standard[:, 2] > -22) & (standard[:, 1] > -85)
    centre = pick(rng, at, fits)
    radius = radius_mm or float(rng.uniform(9, 24) if grade == "high" else rng.uniform(9, 27))
    keep = rng.uniform(0.35, 0.75) if grade == "high" else rng.uniform(0.1, 0.4)
    extent = rng.uniform(4, 22) if grade == "high" else (rng.uniform(0, 5) if rng.uniform() < 0.6 else 0.0)
    extent = extent if extent_mm is None else extent_mm
    draws = rng.uniform(size=6)
    inner = np.random.default_rng(rng.integers(2**62))
    if centre is None:
        return dict
    scene.focus(centre, radius)
    scene.swell(centre, radius, keep, float(12 + 22 * draws[0]))

    def paint() -> dict[str, list[Layer]]:
        found: dict[str, list[Layer]] = {}
        if extent:
            layer = oedema_layer(scene, centre, radius, extent, inner, 0.75 + 0.25 * draws[1])
            if layer is not None:
                add(scene, found, layer, "whole", "oedema")
        shape_rng = np.random.default_rng(inner.integers(2**62))
        made = blob(scene, centre, radius, shape_rng, rough=0.2 if grade == "high" else 0.26)
        if made is None:
            return found
        box, ratio = made
        tissue = scene.tissue[box]
        room = (same_side(scene, centre, box) & (scene.depth[box] > 0.5)).astype(np.float32)
        room *= np.where(BRAIN[tissue], 1.0, np.where((tissue >= CSF) & (ratio < 0.75), 0.9, 0.15)).astype(np.float32)
        if grade == "low":
            edge = 2 + 5 * draws[2]
            body = soft(ratio, radius, edge) * room * np.float32(0.65 + 0.35 * draws[3])
            body *= np.clip(0.9 + 0.14 * scene.noise(7, box, inner), 0.3, 1)
            add(scene, found, Layer(box, TUMOUR, body), "whole", "core")
            if draws[4] < 0.35:  # cysts
                cyst = np.clip((scene.noise(9, box, inner) - 1.0) * 3, 0, 1) * soft(ratio / 0.8, radius) * room
                add(scene, found, Layer(box, NECROSIS, cyst.astype(np.float32)), "necrosis")
            if draws[5] < 0.3:  # a few enhancing spots
                spot = np.clip((scene.noise(6, box, inner) - 1.25) * 4, 0, 1) * soft(ratio / 0.7, radius) * room
                add(scene, found, Layer(box, ENHANCING, (spot * np.float32(0.8)).astype(np.float32)), "enhancing")
            return found
        shell = 0.7 + 0.3 * draws[2]  # enhancement reaches out to this share of the core
        add(scene, found, Layer(box, TUMOUR, soft(ratio, radius, 2.0) * room), "whole", "core")
        patch = np.clip(1.3 + 0.5 * scene.noise(8, box, inner), 0, 1)
        add(
            scene, found, Layer(box, ENHANCING, (soft(ratio / np.float32(shell), radius * shell, 1.2) * room * patch).astype(np.float32)), "enhancing"
        )
        wall = (2.0 + 3.5 * draws[3]) / radius  # thickness of the ring
        hollow = shell - wall * (1 + 0.35 * scene.noise(7, box, inner))
        if draws[4] < 0.85 and shell - wall > 0.2:
            dead = np.clip((hollow - ratio) * radius / 1.2 + 0.5, 0, 1) * room
            add(scene, found, Layer(box, NECROSIS, dead.astype(np.float32)), "necrosis")
        return found

    return paint


def metastases(scene: Scene, rng: np.random.Generator, count: int) -> Paint:
    """Round enhancing lesions at the border of grey and white matter, solid or ringed, with more oedema than their size explains."""
    at, standard = scene.spots(WHITE, CORTEX)
    depth = scene.field_at(scene.head.depth, at)
    fits = (depth > 5) & (depth < 30) & (standard[:, 2] > -30)
    plans = []
    for i in range(count):
        centre = pick(rng, at, fits)
        radius = float(rng.uniform(2.5, 6) if i and rng.uniform() < 0.7 else rng.uniform(4, 14))
        plans.append(
            (centre, radius, float(rng.uniform(0, 16) * min(1, radius / 6)), rng.uniform(size=4), np.random.default_rng(rng.integers(2**62)))
        )
    for centre, radius, extent, draws, _ in plans:
        if centre is not None:
            scene.focus(centre, radius)
            scene.swell(centre, radius, 0.6, 10 + 0.8 * extent + 4 * float(draws[0]))

    def paint() -> dict[str, list[Layer]]:
        found: dict[str, list[Layer]] = {}
        for centre, radius, extent, draws, inner in plans:
            if centre is None:
                continue
            if extent > 2:
                layer = oedema_layer(scene, centre, radius, extent, inner, 0.95)
                if layer is not None:
                    add(scene, found, layer, "whole", "oedema")
            made = blob(scene, centre, radius, inner, rough=0.08)
            if made is None:
                continue
            box, ratio = made
            room = (scene.depth[box] > 0.5).astype(np.float32)
            add(scene, found, Layer(box, METASTASIS, soft(ratio, radius) * room), "whole", "core", "enhancing")
            if radius > 5 and draws[1] < 0.6:
                wall = (1.8 + 2.2 * draws[2]) / radius
                dead = np.clip((1 - wall * (1 + 0.2 * scene.noise(6, box, inner)) - ratio) * radius + 0.5, 0, 1) * room
                add(scene, found, Layer(box, NECROSIS, dead.astype(np.float32)), "necrosis")
        return found

    return paint


def meningioma(scene: Scene, rng: np.random.Generator) -> Paint:
    """A smooth mass on the dura of the convexity or the falx, pushing the brain in, evenly enhancing, with a tail."""
    at, standard = scene.spots(CORTEX, CSF, WHITE)
    depth = scene.field_at(scene.head.depth, at)
    falx = rng.uniform() < 0.25
    if falx:
        fits = (np.abs(standard[:, 0]) < 4) & (standard[:, 2] > 25) & (depth > 2) & (depth < 28)
    else:
        fits = (depth > 0) & (depth < 4) & (standard[:, 2] > -18)
    site = pick(rng, at, fits)
    radius = float(rng.uniform(8, 24))
    tail, cleft, wet, side = rng.uniform(size=4)
    extent = float(rng.uniform(4, 18)) if wet < 0.5 else 0.0
    inner = np.random.default_rng(rng.integers(2**62))
    if site is None:
        return dict
    if falx:
        inward = np.array([1.0 if side < 0.5 else -1.0, 0, 0])
    else:
        inward = scene.field_at(scene.head.inward, site[None])[:, 0]
        inward = inward / (np.linalg.norm(inward) + 1e-6)
    centre = site + inward * radius * 0.55
    scene.focus(centre, radius)
    scene.swell(centre, radius, 0.85, 14 + 14 * cleft)

    def paint() -> dict[str, list[Layer]]:
        found: dict[str, list[Layer]] = {}
        if extent:
            layer = oedema_layer(scene, centre + inward * radius * 0.4, radius, extent, inner, 0.95)
            if layer is not None:
                add(scene, found, layer, "whole", "oedema")
        made = blob(scene, centre, radius, inner, rough=0.06, stretch=np.array([1.0, 1.1, 0.95]))
        if made is None:
            return found
        box, ratio = made
        inside = (scene.depth[box] > 0).astype(np.float32)
        if falx:
            inside *= scene.lateral[box] * np.sign(inward[0]) > -0.5
        add(scene, found, Layer(box, CSF, (np.clip(1 - np.abs(ratio - 1.0) * radius / (0.4 + 1.4 * cleft), 0, 1) * inside).astype(np.float32)))
        body = soft(ratio, radius, 0.8) * inside * np.clip(0.97 + 0.05 * scene.noise(6, box, inner), 0, 1)
        layers = [Layer(box, MENINGIOMA, body.astype(np.float32))]
        if tail < 0.7 and not falx:
            layers.append(
                Layer(
                    box,
                    MENINGIOMA,
                    (np.clip(2.2 - scene.depth[box], 0, 1) * inside * np.clip((1.5 - ratio) * 3, 0, 1) * np.float32(0.8)).astype(np.float32),
                )
            )
        for layer in layers:
            add(scene, found, layer, "whole", "core", "enhancing")
        return found

    return paint


def adenoma(scene: Scene, rng: np.random.Generator) -> Paint:
    """A pituitary adenoma growing from the sella upwards, evenly enhancing."""
    m = scene.head.to_standard
    sella = np.linalg.solve(m[:, :3], np.array([rng.normal(0, 1.5), 4.0 + rng.normal(0, 2), -33.0 + rng.normal(0, 2)]) - m[:, 3])
    radius = float(rng.uniform(5, 15))
    centre = sella + np.array([0, 0, radius * 0.35])
    inner = np.random.default_rng(rng.integers(2**62))
    cystic = rng.uniform() < 0.3
    scene.focus(centre, radius)
    scene.swell(centre, radius, 0.6, 10.0)

    def paint() -> dict[str, list[Layer]]:
        found: dict[str, list[Layer]] = {}
        made = blob(scene, centre, radius, inner, rough=0.1, stretch=np.array([1.0, 0.9, 1.2]))
        if made is None:
            return found
        box, ratio = made
        add(scene, found, Layer(box, ADENOMA, soft(ratio, radius, 1.0)), "whole", "core", "enhancing")
        if cystic:
            add(scene, found, Layer(box, NECROSIS, soft(ratio / 0.6, radius * 0.6, 1.0)), "necrosis")
        return found

    return paint
