"""Cases that are series: diffusion in several directions, and resting BOLD with known networks."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from data.diffusion import SIX
from data.errors import SimulatorError
from data.simulate.anatomy import BRAIN, FAT, GREYS, MARROW, STRUCTURE_OF, WHITE
from data.simulate.build import finish, grow_old, start
from data.simulate.case import Floats, SimulatedCase
from data.simulate.scene import Ask, Scene
from data.simulate.signal import render, scaled, slice_noise, spin_echo
from data.simulate.tissue import Tissues
from data.simulate.white_matter import small_vessel

# ---------------------------------------------------------------- diffusion


def directions(count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """(count, 3) unit vectors spread over a half sphere, turned at random: the usual six, or a Fibonacci lattice."""
    turn = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    if count == 6:
        return SIX @ turn
    z = (np.arange(count) + 0.5) / count
    angle = np.arange(count) * np.pi * (3 - np.sqrt(5))
    return np.stack([np.sqrt(1 - z**2) * np.cos(angle), np.sqrt(1 - z**2) * np.sin(angle), z], 1) @ turn


def fibres(scene: Scene) -> list[Floats]:
    """Main fibre direction (right, front, top) at each point: callosum across, corticospinal tract upright, long tracts from front to back, else
    towards the cortex. Drawn by hand in standard coordinates: plausible, no atlas."""
    x, y, z = scene.standard()
    across = 3.0 * np.exp(-((x / 16) ** 2) - ((z - 18 - 0.15 * np.abs(x)) / 11) ** 2) * (y > -55) * (y < 42)
    upright = 2.2 * np.exp(-(((np.abs(x) - 22 + 0.12 * np.minimum(z, 0)) / 8) ** 2) - ((y + 18) / 14) ** 2) + 2.5 * np.exp(
        -((x / 12) ** 2) - ((y + 28) / 12) ** 2
    ) * (z < -18)
    along = 1.6 * np.exp(-(((np.abs(x) - 36) / 7) ** 2)) * (np.exp(-(((z - 22) / 9) ** 2)) + np.exp(-(((z + 10) / 9) ** 2))) + 1.8 * np.exp(
        -(((np.abs(x) - 8) / 5) ** 2) - ((z - 32) / 7) ** 2
    )
    radial = 0.8
    out = [
        across + radial * -scene.at_coarse(scene.head.inward[0]) * np.sign(x),
        radial * -scene.at_coarse(scene.head.inward[1]) * 0.4 + along,
        0.35 * across * np.clip(np.abs(x) / 20, 0, 1) + upright + radial * -scene.at_coarse(scene.head.inward[2]) * 0.6,
    ]
    out[0] = out[0] * np.sign(x)  # mirrored sides, one sign of axis within a side
    for axis in range(3):
        out[axis] = out[axis] + np.float32(0.22) * scene.noise(16)
    length = np.sqrt(sum(o**2 for o in out)) + 1e-6
    return [(o / length).astype(np.float32) for o in out]


def dti_few_directions(ask: Ask) -> SimulatedCase:
    """Axially symmetric tensors averaged over the voxel; signal of one tensor a voxel, Rician noise. Basser 1994 (Biophys J 66:259)."""
    count = int(ask.options.get("directions") or 6)
    if not 6 <= count <= 256:
        raise SimulatorError(f"directions is {count}, expected 6 to 256")
    patient = start(ask, ages=(20, 80))
    scene, rng = patient.scene, patient.scanner
    grow_old(patient)
    aged = small_vessel(scene, np.random.default_rng(patient.disease.integers(2**62)), int(patient.disease.choice(3, p=[0.5, 0.3, 0.2])))
    scene.settle()
    aged()
    tissues = patient.tissues
    adc, fa = (np.asarray(table, np.float32)[scene.tissue] for table in (tissues.adc, tissues.fa))
    for layer in scene.lesions:
        for grid, table in ((adc, tissues.adc), (fa, tissues.fa)):
            part = grid[layer.box]
            part += layer.fraction * (np.float32(table[layer.code]) - part)
    way = fibres(scene)
    x, y, z = scene.standard()
    tract = np.exp(-((x / 14) ** 2) - ((z - 18) / 9) ** 2) * (y > -50) * (y < 38) + 0.7 * np.exp(
        -(((np.abs(x) - 23) / 7) ** 2) - ((y + 16) / 13) ** 2
    )
    fa = np.clip(fa * np.where(scene.tissue == WHITE, 0.85 + 0.5 * tract + 0.2 * scene.noise(9), 1), 0.01, 0.92)
    a = fa / np.sqrt(3 - 2 * fa**2)  # eigenvalues are md (1 + 2a), md (1 - a), md (1 - a)
    tensor = [scene.average(adc * ((1 - a) * (i == j) + 3 * a * way[i] * way[j])) for i in range(3) for j in range(i, 3)]
    soften = [0.0, 0.55, 0.55]
    tensor = [ndimage.gaussian_filter(part, soften) for part in tensor]
    brain = scene.average(((STRUCTURE_OF[scene.tissue] > 0) & (scene.depth > 0)).astype(np.float32)) > 0.5
    xx, xy, xz, yy, yz, zz = tensor
    md = (xx + yy + zz) / 3
    norm = xx**2 + yy**2 + zz**2 + 2 * (xy**2 + xz**2 + yz**2)
    off = np.maximum(norm - 3 * md**2, 0)
    true_fa = np.sqrt(1.5 * off / np.maximum(norm, 1e-6)) * brain
    main = np.zeros((3, *md.shape), np.float32)
    at = np.nonzero(brain)
    full = np.stack([np.stack([xx[at], xy[at], xz[at]], -1), np.stack([xy[at], yy[at], yz[at]], -1), np.stack([xz[at], yz[at], zz[at]], -1)], -2)
    main[(slice(None), *at)] = np.linalg.eigh(full)[1][:, :, 2].T
    b = float(ask.options.get("b_s_mm2") or 1000)
    s0 = scaled(spin_echo(tissues, rng.uniform(5000, 9000), rng.uniform(70, 95)))
    clean = ndimage.gaussian_filter(render(scene, s0), soften)
    snr = float(rng.uniform(9, 32)) if not ask.held_out else float(rng.uniform(7, 9))
    ways = directions(count, rng)
    noise = slice_noise(scene, "DWI", 2 * (count + 1)) / np.float32(snr)
    series = np.empty((count + 1, *md.shape), np.float32)
    for i in range(count + 1):
        signal = clean
        if i:
            g = ways[i - 1]
            signal = clean * np.exp(
                -1e-6 * b * (xx * g[0] ** 2 + yy * g[1] ** 2 + zz * g[2] ** 2 + 2 * (xy * g[0] * g[1] + xz * g[0] * g[2] + yz * g[1] * g[2]))
            )
        series[i] = np.sqrt((signal + noise[2 * i]) ** 2 + noise[2 * i + 1] ** 2)
    gradients = np.concatenate([[[0, 0, 0, 0]], np.c_[ways, np.full(count, b)]]).astype(np.float32)
    return finish(
        patient,
        {"DIFFUSION": series, "FA": true_fa, "MD": md * brain, "DIRECTION": main},
        masks={"brain": brain.astype(np.uint8)},
        truth={"gradients": gradients, "b_s_mm2": b, "snr": round(snr, 1)},
    )


# ---------------------------------------------------------------- resting state

NETWORKS: dict[str, tuple[tuple[float, float, float], ...]] = {  # centres in MNI mm, the usual ones of resting-state reviews
    "default mode": ((0, -53, 26), (0, 52, 6), (-46, -66, 30), (46, -66, 30)),
    "visual": ((0, -86, 4), (-26, -84, 12), (26, -84, 12)),
    "sensorimotor": ((-40, -22, 54), (40, -22, 54), (0, -14, 58)),
    "salience": ((-38, 18, 0), (38, 18, 0), (0, 22, 36)),
    "executive": ((-42, 34, 26), (42, 34, 26), (-44, -52, 46), (44, -52, 46)),
    "auditory": ((-52, -20, 8), (52, -20, 8)),
}


def band_limited(rng: np.random.Generator, count: int, time: int, repetition_s: float, low: float = 0.01, high: float = 0.1) -> NDArray[np.float64]:
    """(count, time) random courses between two frequencies, unit variance."""
    frequency = np.fft.rfftfreq(time, repetition_s)
    keep = (frequency >= low) & (frequency <= high)
    if not keep.any():
        keep[min(1, len(keep) - 1)] = True
    spectrum = (
        (rng.standard_normal((count, len(frequency))) + 1j * rng.standard_normal((count, len(frequency))))
        * keep
        / np.sqrt(np.maximum(frequency, 0.01))
    )
    courses = np.fft.irfft(spectrum, time, axis=1)
    return courses / (courses.std(1, keepdims=True) + 1e-9)


def fmri_networks(ask: Ask) -> SimulatedCase:
    """BOLD = baseline x (1 + networks + drift + breathing and pulse) + motion + noise; default mode and executive move against each other."""
    time = int(ask.options.get("time") or 120)
    if not 8 <= time <= 2000:
        raise SimulatorError(f"time is {time}, expected 8 to 2000 repetitions")
    patient = start(ask, ages=(20, 75))
    scene, rng = patient.scene, patient.disease
    grow_old(patient)
    scene.settle()
    repetition_s = float(patient.scanner.choice((1.5, 2.0, 2.5)))
    courses = band_limited(rng, len(NETWORKS), time, repetition_s)
    courses[4] = 0.85 * courses[4] - 0.5 * courses[0]
    courses /= courses.std(1, keepdims=True) + 1e-9
    x, y, z = scene.standard()
    grey = np.isin(scene.tissue, GREYS).astype(np.float32)
    maps = []
    for centres in NETWORKS.values():
        shift = rng.normal(0, 3.0, (len(centres), 3))
        size = rng.uniform(8.5, 12.5, len(centres))
        field = np.zeros(scene.shape, np.float32)
        for centre, move, wide in zip(centres, shift, size, strict=True):
            a, b, c = np.asarray(centre) + move
            np.maximum(
                field, np.exp(-((x - np.float32(a)) ** 2 + (y - np.float32(b)) ** 2 + (z - np.float32(c)) ** 2) / np.float32(2 * wide**2)), out=field
            )
        maps.append(ndimage.gaussian_filter(scene.average(field * (0.25 + 0.75 * grey)), (0.3, 0.5, 0.5)))
    base = ndimage.gaussian_filter(render(scene, scaled(tissue_bold(patient.tissues))), (0.4, 0.7, 0.7))
    brain = scene.average(BRAIN[scene.tissue].astype(np.float32))
    amplitude = rng.uniform(0.010, 0.020, len(NETWORKS))
    seconds = np.arange(time) * repetition_s
    breathing = np.sin(2 * np.pi * rng.uniform(0.22, 0.32) * seconds + rng.uniform(0, 6))
    pulse = np.sin(2 * np.pi * rng.uniform(0.9, 1.2) * seconds + rng.uniform(0, 6))
    drift = (seconds / seconds[-1] - 0.5) * rng.normal(0, 0.01)
    nuisance = scene.average(scene.noise(40, rng=np.random.default_rng([ask.seed, 81]))) * np.float32(0.006)
    edge = np.gradient(base, axis=1)
    motion = np.cumsum(rng.normal(0, 0.006, time))
    stack = np.stack(maps)
    signal = np.tensordot((courses * amplitude[:, None]).T.astype(np.float32), stack, (1, 0))
    signal += (drift + 0.002 * pulse)[:, None, None, None].astype(np.float32) * brain + breathing[:, None, None, None].astype(
        np.float32
    ) * nuisance * brain
    noise = slice_noise(scene, "BOLD", time) * np.float32(patient.scanner.uniform(0.008, 0.018))
    bold = (base * (1 + signal) + motion[:, None, None, None].astype(np.float32) * edge + noise) * 1000
    return finish(
        patient,
        {"BOLD": bold},
        truth={"time_courses": courses.astype(np.float32), "maps": stack.astype(np.float32), "names": list(NETWORKS), "repetition_s": repetition_s},
    )


def tissue_bold(tissues: Tissues) -> NDArray[np.float64]:
    """Gradient-echo EPI at 3 T, echo 30 ms, fat-saturated."""
    signal = tissues.pd * np.exp(-30 / tissues.t2star)
    signal[[FAT, MARROW]] *= 0.1
    return signal
