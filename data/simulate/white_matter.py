"""White-matter lesions: small-vessel disease by Fazekas grade, and multiple sclerosis plaques."""

import numpy as np

from data.simulate.anatomy import CEREBELLAR_WHITE, CORTEX, STEM, WHITE
from data.simulate.scene import Scene
from data.simulate.shapes import Paint, blob, pick, soft
from data.simulate.signal import Layer
from data.simulate.tissue import ACTIVE_PLAQUE, BLACK_HOLE, CAVITY, LEUKOARAIOSIS, PLAQUE


def small_vessel(scene: Scene, rng: np.random.Generator, fazekas: int, name: str = "lesion") -> Paint:
    """Fazekas 0 none, 1 caps and dots, 2 a halo and beginning confluence, 3 confluent; sometimes lacunes. Fazekas 1987 (AJR 149:351)."""
    draws = rng.uniform(size=4)
    fields = np.random.default_rng(rng.integers(2**62))
    at, standard = scene.spots(WHITE)
    deep = scene.field_at(scene.head.ventricle, at) > 7
    dots = (
        [
            (pick(rng, at, deep & (standard[:, 2] > 0)), float(rng.uniform(1.2, 2.2 + 1.1 * fazekas)), np.random.default_rng(rng.integers(2**62)))
            for _ in range(int(rng.integers(*((0, 2), (3, 14), (10, 30), (20, 50))[fazekas])))
        ]
        if len(at)
        else []
    )
    holes = (
        [
            (pick(rng, at, deep & (np.abs(standard[:, 0]) < 35)), float(rng.uniform(1.5, 4)), np.random.default_rng(rng.integers(2**62)))
            for _ in range(int(rng.integers(0, 3)) if fazekas >= 2 else 0)
        ]
        if len(at)
        else []
    )
    if fazekas >= 1 and len(at):
        near = scene.field_at(scene.head.ventricle, at)
        anchor = pick(rng, at, (near < 10) & (standard[:, 2] > 5))
        if anchor is not None:
            scene.focus(anchor, 12.0)

    def paint() -> dict[str, list[Layer]]:
        layers: list[Layer] = []
        whole = tuple(slice(0, n) for n in scene.shape)
        if fazekas >= 1:
            near = scene.at_moved(scene.head.ventricle)
            up = np.clip((scene.standard()[2] + 6) / 10, 0, 1)  # seldom beside the temporal horns
            rim = (0.2 + 1.6 * draws[0], 1.6 + 2.2 * draws[0], 3 + 4.5 * draws[0])[fazekas - 1]
            reach = rim * (1 + 0.45 * scene.noise(16, rng=fields) + 0.25 * scene.noise(7, rng=fields))
            halo = np.clip((reach - near) / 2.5 + 0.5, 0, 1) * up
            patches = np.clip((scene.noise(14, rng=fields) - (3.0, 2.4, 1.7)[fazekas - 1] + 0.3 * draws[1]) * 1.8, 0, 1) * (near < 30) * (up > 0.5)
            fraction = (np.maximum(halo, patches) * (scene.tissue == WHITE) * (scene.depth > 8) * np.float32(0.6 + 0.4 * draws[2])).astype(np.float32)
            layers.append(Layer(whole, LEUKOARAIOSIS, fraction))  # type: ignore[arg-type]
        for code, spots, strength in ((LEUKOARAIOSIS, dots, 0.85), (CAVITY, holes, 1.0)):
            for centre, radius, inner in spots:
                made = blob(scene, centre, radius, inner, rough=0.15) if centre is not None else None
                if made is not None:
                    box, ratio = made
                    layers.append(Layer(box, code, soft(ratio, radius, 1.2) * (scene.tissue[box] == WHITE) * np.float32(strength)))
        scene.lesions.extend(layers)
        return {name: layers}

    return paint


def plaques(scene: Scene, rng: np.random.Generator, count: int) -> Paint:
    """Periventricular plaques stand upright on the ventricle, others lie under the cortex, in the deep white matter, cerebellum and brainstem."""
    at, standard = scene.spots(WHITE, CEREBELLAR_WHITE, STEM)
    if not len(at):
        return dict
    coarse = scene.head.coarse
    index = (at / 2).astype(int)
    code = coarse[index[:, 0], index[:, 1], index[:, 2]]
    near, depth = scene.field_at(scene.head.ventricle, at), scene.field_at(scene.head.depth, at)
    white = code == WHITE
    places = {
        "periventricular": white & (near > 1) & (near < 7) & (standard[:, 2] > -4),
        "juxtacortical": white & (depth > 6) & (depth < 13),
        "deep": white & (near > 9) & (depth > 14),
        "infratentorial": ~white & (depth > 8),
    }
    plans = []
    for _ in range(count):
        place = str(rng.choice(list(places), p=[0.45, 0.2, 0.22, 0.13]))
        centre = pick(rng, at, places[place])
        assert centre is not None
        radius = float(rng.uniform(1.8, 6.5) if place in ("periventricular", "deep") else rng.uniform(1.5, 4))
        plans.append((centre, place, radius, rng.uniform(size=3), np.random.default_rng(rng.integers(2**62))))
    if plans:
        scene.focus(plans[0][0], plans[0][2])

    def paint() -> dict[str, list[Layer]]:
        found: dict[str, list[Layer]] = {"lesion": [], "enhancing": []}
        for centre, place, radius, draws, inner in plans:
            made = dawson(scene, centre, radius, inner) if place == "periventricular" else blob(scene, centre, radius, inner, rough=0.15)
            if made is None:
                continue
            box, ratio = made
            tissue = scene.tissue[box]
            room = np.where(np.isin(tissue, (WHITE, CEREBELLAR_WHITE, STEM)), 1.0, np.where(tissue == CORTEX, 0.3, 0.0)).astype(np.float32)
            layers = [Layer(box, PLAQUE, soft(ratio, radius, 1.5) * room)]
            if draws[0] < 0.3 and radius > 2.5:
                layers.append(Layer(box, BLACK_HOLE, soft(ratio / 0.75, radius * 0.75, 1.5) * room))
            elif draws[0] > 0.88 or (draws[0] > 0.8 and radius > 4):
                ring = soft(ratio, radius, 1.0) - (soft(ratio / 0.6, radius * 0.6, 1.0) if radius > 4 else 0)
                active = Layer(box, ACTIVE_PLAQUE, (np.clip(ring, 0, 1) * room).astype(np.float32))
                layers.append(active)
                found["enhancing"].append(active)
            scene.lesions.extend(layers)
            found["lesion"].extend(layers)
        return found

    return paint


def dawson(scene: Scene, centre: np.ndarray, radius: float, rng: np.random.Generator):
    """An ellipsoid twice as long across the ventricle's wall as along it."""
    out = scene.field_at(scene.head.outward, centre[None])[:, 0]
    out = out / (np.linalg.norm(out) + 1e-6)
    box = scene.box(centre, radius * 2.4)
    long = float(rng.uniform(1.3, 2.0))
    if box is None:
        return None
    off = scene.off(centre, box)
    along = sum(o * np.float32(w) for o, w in zip(off, out, strict=True))
    square = off[0] ** 2 + off[1] ** 2 + off[2] ** 2 - along**2 + (along / np.float32(long)) ** 2
    shape = 1 + 0.15 * scene.noise(6, box, rng)
    return box, (np.sqrt(np.maximum(square, 0)) / np.clip(shape, 0.5, 1.6) / np.float32(radius)).astype(np.float32)
