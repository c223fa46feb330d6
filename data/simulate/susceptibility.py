"""Microbleeds and their mimics on susceptibility-weighted images: field of the dipoles, phase, dephasing."""

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from data.simulate.anatomy import (
    BONE,
    CAUDATE,
    CEREBELLAR_CORTEX,
    CEREBELLAR_WHITE,
    CHOROID,
    CODES,
    CORTEX,
    CSF,
    FAT,
    MARROW,
    PALLIDUM,
    PUTAMEN,
    STEM,
    THALAMUS,
    VEIN,
    WHITE,
)
from data.simulate.scene import Scene
from data.simulate.shapes import Floats, blob, pick, soft, tube
from data.simulate.signal import Layer, Look, gradient_echo, scaled, scan, slice_noise
from data.simulate.tissue import CALCIFICATION, HAEMOSIDERIN, Tissues

# ppm against brain; Langkammer 2012 (NeuroImage 62:1593) for the iron of deep nuclei
CHI = np.zeros(CODES, np.float32)
for code, ppm in (
    (VEIN, 0.22),
    (PALLIDUM, 0.13),
    (PUTAMEN, 0.06),
    (CAUDATE, 0.05),
    (THALAMUS, 0.02),
    (WHITE, -0.02),
    (CORTEX, 0.01),
    (BONE, -0.4),
    (MARROW, 0.1),
    (HAEMOSIDERIN, 1.1),
    (CALCIFICATION, -0.9),
    (0, 0.6),
):
    CHI[code] = ppm


class Marks:
    """Where microbleeds, calcifications and veins were put: head points with a radius; `paint` after Scene.settle."""

    def __init__(self, scene: Scene, rng: np.random.Generator, bleeds: int, calcifications: int) -> None:
        self.scene = scene
        lobar = rng.uniform() < 0.5
        at, standard = scene.spots(WHITE, CORTEX, THALAMUS, PUTAMEN, STEM, CEREBELLAR_WHITE, CEREBELLAR_CORTEX)
        depth = scene.field_at(scene.head.depth, at) if len(at) else np.zeros(0)
        central = np.abs(standard[:, 0]) < 32
        fits = (depth > 6) & (~central if lobar else (central | (standard[:, 2] < -20)))
        self.bleeds = [(pick(rng, at, fits if rng.uniform() < 0.8 else depth > 5), float(rng.uniform(0.8, 2.6)), new(rng)) for _ in range(bleeds)]
        calc = []
        spots, _ = scene.spots(PALLIDUM, CHOROID, WHITE, CORTEX)
        for _ in range(calcifications):
            kind = rng.uniform()
            codes = scene.head.coarse[tuple((spots / 2).astype(int).T)] if len(spots) else np.zeros(0)
            fit = codes == (PALLIDUM if kind < 0.4 else CHOROID if kind < 0.7 else WHITE)
            calc.append((pick(rng, spots, fit), float(rng.uniform(0.9, 2.8)), new(rng)))
        self.calcifications = calc
        self.veins = [self.vein(rng) for _ in range(int(rng.integers(50, 130)))]
        if self.bleeds and self.bleeds[0][0] is not None:
            scene.focus(self.bleeds[0][0], 3.0)

    def vein(self, rng: np.random.Generator) -> tuple[NDArray[np.float64], float] | None:
        """A sulcal vein within CSF, or a medullary vein running straight to the ventricle."""
        scene = self.scene
        medullary = rng.uniform() < 0.45
        at, standard = scene.spots(WHITE) if medullary else scene.spots(CSF)
        steps = rng.standard_normal((14, 3))
        choice, radius = rng.uniform(), float(rng.uniform(0.3, 0.6) if medullary else rng.uniform(0.35, 1.0))
        if not len(at):
            return None
        near, depth = scene.field_at(scene.head.ventricle, at), scene.field_at(scene.head.depth, at)
        fits = (near < 25) & (near > 3) & (standard[:, 2] > 5) if medullary else (depth > 2) & (depth < 22)
        start = (at[fits] if fits.any() else at)[int(choice * (fits.sum() if fits.any() else len(at)))]
        if medullary:
            way = scene.field_at(scene.head.outward, start[None])[:, 0]
            path = start + np.outer(np.linspace(-0.5, 0.5, 5) * 16, way) + np.cumsum(steps[:5] * 0.4, 0)
            return path, radius
        direction = steps[0] / np.linalg.norm(steps[0])
        points = [start]
        for step in steps[1:]:
            direction = direction + 0.55 * step
            inward = scene.field_at(scene.head.inward, np.clip(points[-1], 0, None)[None].clip(0, np.array(scene.head.coarse.shape) * 2 - 3))[:, 0]
            direction -= inward * (direction @ inward) * 0.8  # along the surface
            direction /= np.linalg.norm(direction) + 1e-6
            points.append(points[-1] + direction * 3.0)
        return np.array(points), radius

    def paint(self) -> dict[str, list[Layer]]:
        scene = self.scene
        found: dict[str, list[Layer]] = {"microbleed": [], "mimic": []}
        for path in self.veins:
            for box, fraction in tube(scene, *path) if path else []:
                scene.lesions.append(Layer(box, VEIN, fraction * (scene.depth[box] > 1)))
        for marks, code, name in ((self.calcifications, CALCIFICATION, "mimic"), (self.bleeds, HAEMOSIDERIN, "microbleed")):
            for centre, radius, inner in marks:
                made = blob(scene, centre, radius, inner, rough=0.1, reach=2.2) if centre is not None else None
                if made is None:
                    continue
                box, ratio = made
                layer = Layer(box, code, soft(ratio, radius, 0.7))
                scene.lesions.append(layer)
                # what a reader marks is the bloomed spot: about half as wide again
                found[name].append(Layer(box, code, soft(ratio / 1.5, radius * 1.5, 0.7)))
        return found

    def centres(self, marks: list) -> list[list[float]]:
        """(slice, row, column) in the slab of the marks within it."""
        first, out = self.scene.window[0], []
        for centre, radius, _ in marks:
            if centre is not None:
                s, r, c = self.scene.index_of(centre)
                if -0.5 <= s - first < self.scene.slices - 0.5:
                    out.append([round(float(v), 1) for v in (s - first, r, c)] + [round(radius, 1)])
        return out


def new(rng: np.random.Generator) -> np.random.Generator:
    return np.random.default_rng(rng.integers(2**62))


def dipole_field(chi: Floats, spacing_mm: tuple[float, float, float], up: NDArray[np.float64]) -> Floats:
    """Relative field change in ppm of a susceptibility map. Marques 2005 (Concepts Magn Reson 25B:65)."""
    padded = np.pad(chi, [(n // 4 + 2, fft.next_fast_len(n + 2 * (n // 4 + 2), True) - n - n // 4 - 2) for n in chi.shape], mode="edge")
    k = np.meshgrid(
        *(np.fft.fftfreq(n, d) for n, d in zip(padded.shape[:2], spacing_mm[:2], strict=True)),
        np.fft.rfftfreq(padded.shape[2], spacing_mm[2]),
        indexing="ij",
        sparse=True,
    )
    square = sum(a**2 for a in k)
    square[0, 0, 0] = 1
    kernel = 1 / 3 - sum(a * u for a, u in zip(k, up, strict=True)) ** 2 / square
    kernel[0, 0, 0] = 0
    field = fft.irfftn(fft.rfftn(padded) * kernel.astype(np.float32), padded.shape)
    return field[tuple(slice(n // 4 + 2, n // 4 + 2 + n) for n in chi.shape)].astype(np.float32)


def susceptibility_weighted(scene: Scene, tissues: Tissues, rng: np.random.Generator, look: Look, tesla: float) -> tuple[Floats, Floats]:
    """(SWI magnitude times phase mask, high-passed phase in radians; paramagnetic marks have positive phase). Haacke 2004 (MRM 52:612)."""
    echo_ms = float(rng.uniform(18, 25) * 3 / tesla)
    signal = scaled(gradient_echo(tissues, float(rng.uniform(26, 50)), echo_ms, float(rng.uniform(12, 20))))
    signal[[FAT, MARROW]] *= 0.45
    values, chi = signal.astype(np.float32)[scene.tissue], CHI[scene.tissue]
    for layer in scene.lesions:
        for grid, table in ((values, signal), (chi, CHI)):
            part = grid[layer.box]
            part += layer.fraction * (np.float32(table[layer.code]) - part)
    values, chi = scene.average(values), scene.average(chi)
    up = scene.axes[:, 2]  # the main field runs along the scanner's bore
    field = dipole_field(chi, scene.ask.spacing_mm, up)
    phase = (2 * np.pi * 42.58 * tesla * echo_ms * 1e-3) * field
    steep = np.sqrt(sum(np.square(np.diff(phase, axis=a, prepend=phase.take([0], a))) for a in range(3)))
    values = values * np.abs(np.sinc(np.minimum(steep, 6) / (2 * np.pi)))  # spins dephase within a voxel: blooming
    sizes = [9 / s for s in scene.ask.spacing_mm]
    phase = phase - ndimage.gaussian_filter(phase, (0, sizes[1], sizes[2]))
    inside = scene.average((scene.depth > 0).astype(np.float32)) > 0.5
    magnitude = scan(scene, values, "SWI", look)
    noise = slice_noise(scene, "PHASE")[0] * np.float32(look.noise) / np.maximum(magnitude, 0.15)
    phase = np.where(inside, phase + noise, noise * 4)
    phase = (phase + np.pi) % (2 * np.pi) - np.pi
    mask = np.clip(1 - np.maximum(phase, 0) / np.pi, 0, 1) ** 4
    return (magnitude * np.where(inside, mask, 1)).astype(np.float32), phase.astype(np.float32)
