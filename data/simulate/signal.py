"""MR sequences as equations over tissues, and the scanner: partial volume, coil bias, blur, ghosts, Rician noise.

Spin echo, spoiled gradient echo and inversion recovery in the steady state: Bernstein, King and Zhou, Handbook of MRI Pulse Sequences (2004), ch. 14.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from data.simulate.anatomy import BRAIN, CORTEX, FAT, MARROW, WHITE
from data.simulate.scene import Box, Scene, key_of, knots_over
from data.simulate.tissue import Tissues

Floats = NDArray[np.float32]
Signal = NDArray[np.float64]  # an entry a tissue code


@dataclass(frozen=True)
class Layer:
    """A lesion painted over the anatomy: in `box`, a `fraction` (0..1) of each point is tissue `code`. Later layers cover earlier ones."""

    box: Box
    code: int
    fraction: Floats


def draw(rng: np.random.Generator, low: float, high: float, held_out: bool) -> float:
    """A scanner setting: uniform in the range, or for held-out cases up to a third of the range outside it (never below a quarter of `low`)."""
    width = (high - low) / 3
    inside, beyond, side = rng.uniform(low, high), rng.uniform(0, width), rng.uniform()
    if not held_out:
        return float(inside)
    return float(max(low - beyond, low / 4)) if side < 0.5 else float(high + beyond)


# ---------------------------------------------------------------- equations


def spin_echo(t: Tissues, tr: float, te: float) -> Signal:
    return t.pd * (1 - np.exp(-tr / t.t1)) * np.exp(-te / t.t2)


def gradient_echo(t: Tissues, tr: float, te: float, degrees: float) -> Signal:
    e1, a = np.exp(-tr / t.t1), np.radians(degrees)
    return t.pd * np.sin(a) * (1 - e1) / (1 - np.cos(a) * e1) * np.exp(-te / t.t2star)


def inversion_recovery(t: Tissues, tr: float, ti: float, te: float) -> Signal:
    return t.pd * np.abs(1 - 2 * np.exp(-ti / t.t1) + np.exp(-tr / t.t1)) * np.exp(-te / t.t2)


def mprage(t: Tissues, ti: float, degrees: float, readout_ms: float = 7.5, readouts: int = 170, recovery_ms: float = 900.0) -> Signal:
    """Centre line of a magnetisation-prepared gradient echo: recovery, inversion, wait, then spoiled readouts up to the middle one."""
    e_tau, cos = np.exp(-readout_ms / t.t1), np.cos(np.radians(degrees))
    before = readouts // 2
    wait = max(50.0, ti - before * readout_ms)
    m = np.ones_like(t.t1)
    for _ in range(4):  # to the steady state
        m = -m
        m = 1 + (m - 1) * np.exp(-wait / t.t1)
        steady = (1 - e_tau) / (1 - cos * e_tau)
        middle = steady + (m - steady) * (cos * e_tau) ** before
        m = steady + (m - steady) * (cos * e_tau) ** readouts
        m = 1 + (m - 1) * np.exp(-recovery_ms / t.t1)
    return t.pd * np.abs(middle) * np.sin(np.radians(degrees)) * np.exp(-3.0 / t.t2star)


def with_gadolinium(t: Tissues, dose: float) -> Tissues:
    return Tissues(**{**vars(t), "t1": 1000 / (1000 / t.t1 + dose * t.gd)})


def sequence(name: str, t: Tissues, rng: np.random.Generator, held_out: bool = False) -> Signal:
    """Signal of each tissue, brain near 1, with the sequence's own settings drawn; names: T1, T1CE, T2, PD, FLAIR, DWI (b 1000), SWI, RANDOM."""
    d = lambda low, high: draw(rng, low, high, held_out)  # noqa: E731
    if name in ("T1", "T1CE"):
        kind = rng.uniform()
        use = with_gadolinium(t, d(0.8, 1.3)) if name == "T1CE" else t
        if kind < 0.4:
            s = spin_echo(use, d(430, 700), d(8, 16))
        elif kind < 0.7:
            s = gradient_echo(use, d(14, 24), d(3, 6), d(20, 32))
        else:
            s = mprage(use, d(850, 1050), d(8, 11))
    elif name == "T2":
        s = spin_echo(t, d(3500, 6500), d(80, 115))
    elif name == "PD":
        s = spin_echo(t, d(2800, 5500), d(10, 28))
    elif name == "FLAIR":
        tr = d(8000, 10500)
        null = -4250 * np.log((1 + np.exp(-tr / 4250)) / 2)  # inversion time that nulls CSF
        s = inversion_recovery(t, tr, null * rng.uniform(0.96, 1.03), d(80, 122))
    elif name == "DWI":
        s = spin_echo(t, d(4000, 8000), d(65, 95)) * np.exp(-1e-3 * t.adc)
    elif name == "SWI":
        s = gradient_echo(t, d(26, 50), d(18, 25), d(12, 20))
    elif name == "RANDOM":  # SynthSeg: any tissue may have any value
        s = rng.uniform(0.02, 1.0, len(t.pd))
        s[0] = rng.uniform(0, 0.05) if rng.uniform() < 0.9 else s[0]
    else:
        raise ValueError(name)
    s = scaled(s)
    if name in ("FLAIR", "T2", "T1CE") and rng.uniform() < 0.3:  # fat saturation
        s[[FAT, MARROW]] *= rng.uniform(0.1, 0.4)
    return s


def scaled(s: Signal) -> Signal:
    return s / (0.5 * (s[CORTEX] + s[WHITE]) + 1e-6)


# ---------------------------------------------------------------- picture


def render(scene: Scene, signal: Signal, texture: float = 0.025) -> Floats:
    """The points' signal, lesions mixed in by their fractions, sub-slices averaged (partial volume): (slices, rows, columns)."""
    values = signal.astype(np.float32)[scene.tissue]
    for layer in scene.lesions:
        part = values[layer.box]
        part += layer.fraction * (np.float32(signal[layer.code]) - part)
    if texture:
        values *= 1 + np.float32(texture) * texture_of(scene) * BRAIN[scene.tissue]
    return scene.average(values)


def texture_of(scene: Scene) -> Floats:
    """Tissue is nowhere quite even; one pattern for all sequences of a head."""
    found = getattr(scene, "_texture", None)
    if found is None:
        rng = np.random.default_rng([scene.ask.seed, 11])
        found = 0.6 * scene.noise(7, rng=rng) + 0.8 * scene.noise(30, rng=rng)
        scene._texture = found  # type: ignore[attr-defined]
    return found


@dataclass(frozen=True)
class Look:
    """A scanner's faults on one case: blur FWHM in pixels, noise against brain signal 1, bias amplitude, ghost share."""

    blur: float
    noise: float
    bias: float
    ghost: float


def draw_look(rng: np.random.Generator, held_out: bool, noise: tuple[float, float] = (0.008, 0.045)) -> Look:
    return Look(
        draw(rng, 0.8, 1.7, held_out),
        draw(rng, *noise, held_out),
        draw(rng, 0.05, 0.35, held_out),
        float(rng.uniform(0.02, 0.08)) if rng.uniform() < 0.12 else 0.0,
    )


def slice_noise(scene: Scene, name: str, count: int = 1) -> Floats:
    """White unit noise (count, slices, rows, columns), the same for a slice whichever slab it is computed in."""
    out = np.empty((count, scene.slices, *scene.ask.size[1:]), np.float32)
    for i in range(scene.slices):
        rng = np.random.default_rng([scene.ask.seed, key_of(scene.ask.recipe), key_of(name), scene.window[0] + i])
        for j in range(count):
            rng.standard_normal(out=out[j, i], dtype=np.float32)
    return out


def scan(scene: Scene, image: Floats, name: str, look: Look, shade: str = "") -> Floats:
    """What the scanner makes of a clean image: blur, coil bias (of the image named `shade`, else its own), a ghost along the rows, Rician noise."""
    rng = np.random.default_rng([scene.ask.seed, key_of(shade or name), 3])
    sigma = look.blur / 2.355
    through = 0.35 * sigma if scene.subs > 1 else sigma
    out = ndimage.gaussian_filter(image, (through, sigma, sigma), truncate=3)
    if look.bias:
        counts = (4, 4, 4)
        knots = rng.standard_normal(counts).astype(np.float32) * np.float32(look.bias)
        middle = scene.subs // 2
        at = [(a * 3).astype(np.float32) for a in (scene.unit[0][middle :: scene.subs], scene.unit[1], scene.unit[2])]
        out *= np.exp(knots_over(knots, at))
    if look.ghost:
        shift = int(out.shape[1] * rng.uniform(0.25, 0.5))
        out = np.abs(out + look.ghost * np.roll(out, shift, 1) * rng.choice((-1, 1)))
    noise = slice_noise(scene, name, 2)
    noise *= np.float32(look.noise)
    out += noise[0]
    np.square(out, out=out)
    out += np.square(noise[1], out=noise[1])
    return np.sqrt(out, out=out)


def channel(scene: Scene, name: str, tissues: Tissues, rng: np.random.Generator, look: Look) -> Floats:
    """One sequence, from equation to scan."""
    return scan(scene, render(scene, sequence(name, tissues, rng, scene.ask.held_out)), name, look)


def mask_of(scene: Scene, layers: list[Layer], level: float = 0.5) -> NDArray[np.uint8]:
    """Voxels of which at least `level` is covered by any of the layers."""
    cover = np.zeros(scene.shape, np.float32)
    for layer in layers:
        np.maximum(cover[layer.box], layer.fraction, out=cover[layer.box])
    return (scene.average(cover) > level).astype(np.uint8)
