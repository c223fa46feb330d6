"""Cases of one image from another: structures of any contrast, T1 to T2, MR to CT and PET, ASL, super-resolution, 7 T, few-direction diffusion."""

from dataclasses import replace

import numpy as np
from scipy import ndimage

from data.errors import SimulatorError
from data.simulate.anatomy import AIR, BONE, BRAIN, CSF, FAT, GREYS, MARROW, MUCOSA, MUSCLE, SKIN, VENTRICLE, WHITES
from data.simulate.build import Patient, finish, grow_old, start, volumes_of
from data.simulate.case import Floats, SimulatedCase
from data.simulate.ct_cases import ct_scan, hounsfield
from data.simulate.population_cases import frontal_temporal, medial_temporal
from data.simulate.scene import Ask, Scene
from data.simulate.signal import Look, channel, mask_of, mprage, render, scaled, scan, sequence, slice_noise
from data.simulate.stroke import age_tissue, infarct
from data.simulate.tumours import glioma
from data.simulate.white_matter import plaques, small_vessel

REAL = ("T1", "T1CE", "T2", "PD", "FLAIR")


def any_lesion(patient: Patient, share: float):
    """A painter for some lesion in `share` of the cases, else none."""
    rng, scene = patient.disease, patient.scene
    kind, mine = rng.uniform(), np.random.default_rng(rng.integers(2**62))
    if kind > share:
        return dict
    kind /= share
    if kind < 0.4:
        return glioma(scene, mine, "high" if kind < 0.25 else "low")
    if kind < 0.6:
        hours = float(mine.uniform(20, 300))
        age_tissue(patient.tissues, hours, 0.9)
        return infarct(scene, mine, hours)[0]
    if kind < 0.8:
        return plaques(scene, mine, int(mine.integers(4, 25)))
    return small_vessel(scene, mine, int(mine.integers(1, 4)))


def lesion_mask(scene: Scene, found: dict) -> np.ndarray:
    return mask_of(scene, [layer for name, layers in found.items() if name in ("whole", "lesion", "infarct") for layer in layers], 0.4)


def structures(ask: Ask) -> SimulatedCase:
    patient = start(ask)
    contrast = str(ask.options.get("contrast") or patient.scanner.choice(("RANDOM", "RANDOM", "RANDOM", *REAL)))
    if contrast not in ("RANDOM", *REAL):
        raise SimulatorError(f"contrast is '{contrast}', expected one of RANDOM, {', '.join(REAL)}")
    grow_old(patient)
    scene = patient.scene
    paint = any_lesion(patient, 0.2)
    scene.settle()
    paint()
    signal = sequence(contrast, patient.tissues, patient.scanner, ask.held_out)
    look = patient.look
    if contrast == "RANDOM":
        signal[VENTRICLE] = signal[CSF] * patient.scanner.uniform(0.95, 1.05)
        if patient.scanner.uniform() < 0.35:  # a head without its skull
            signal[[SKIN, FAT, MUSCLE, BONE, MARROW, MUCOSA, AIR]] = 0
        signal = signal / max(signal[list(GREYS + WHITES)].mean(), 0.05)
        look = replace(look, noise=look.noise * 1.3)
    image = scan(scene, render(scene, signal, 0.06 if contrast == "RANDOM" else 0.025), "IMAGE", look)
    if contrast == "RANDOM":
        top = np.quantile(image, 0.999) + 1e-6
        image = np.clip(image / top, 0, 1.2) ** np.float32(np.exp(patient.scanner.normal(0, 0.3))) * np.float32(top)
    case = finish(patient, {"IMAGE": image, "T1": channel(scene, "T1", patient.tissues, patient.scanner, patient.look)})
    case.truth.update(contrast=contrast, volumes_ml=volumes_of(case.structures, scene.voxel_ml))
    return case


def t1_to_t2(ask: Ask) -> SimulatedCase:
    patient = start(ask)
    grow_old(patient)
    paint = any_lesion(patient, 0.5)
    patient.scene.settle()
    mask = lesion_mask(patient.scene, paint())
    channels = {name: channel(patient.scene, name, patient.tissues, patient.scanner, patient.look) for name in ("T1", "T2")}
    return finish(patient, channels, masks={"lesion": mask})


def super_resolution(ask: Ask) -> SimulatedCase:
    """HIGH is scanned on the grid; LOW keeps the centre of k-space in plane and thicker slices, with its own noise, laid on the same grid."""
    patient = start(ask, noise=(0.01, 0.03))
    factor = int(ask.options.get("factor") or patient.scanner.choice((2, 2, 3)))
    if factor not in (2, 3, 4):
        raise SimulatorError(f"factor is {factor}, expected 2, 3 or 4")
    grow_old(patient)
    paint = any_lesion(patient, 0.4)
    patient.scene.settle()
    paint()
    scene, name = patient.scene, str(patient.scanner.choice(("T1", "T2", "FLAIR")))
    clean = render(scene, sequence(name, patient.tissues, patient.scanner, ask.held_out))
    look = replace(patient.look, blur=0.8, ghost=0.0)
    high = scan(scene, clean, name, look)
    smooth = scan(scene, clean, name, replace(look, noise=0.0))
    return finish(patient, {"LOW": lower(scene, smooth, factor, look.noise * 0.6), "HIGH": high}, truth={"factor": factor, "contrast": name})


def lower(scene: Scene, image: Floats, factor: int, noise: float) -> Floats:
    """Fewer phase lines and columns (k-space cut with a soft edge), slices `factor` times as thick, interpolated back."""
    rows, columns = image.shape[1:]
    spectrum = np.fft.fftshift(np.fft.fft2(image, axes=(1, 2)), (1, 2))
    cut = np.ones((rows, columns))
    for axis, n in enumerate((rows, columns)):
        at = np.abs(np.arange(n) - n // 2) / (n / 2 / factor)
        edge = np.clip((1.05 - at) / 0.1, 0, 1)
        cut = cut * (edge[:, None] if axis == 0 else edge[None])
    grain = slice_noise(scene, "LOW", 2) * np.float32(noise * factor)
    spectrum = (spectrum + np.fft.fftshift(np.fft.fft2(grain[0] + 1j * grain[1], axes=(1, 2)), (1, 2))) * cut
    out = np.abs(np.fft.ifft2(np.fft.ifftshift(spectrum, (1, 2)), axes=(1, 2))).astype(np.float32)
    if len(out) >= 2 * factor:
        thick = ndimage.uniform_filter1d(out, factor, axis=0, mode="nearest")
        first = scene.window[0]
        centres = np.array([i for i in range(len(out)) if (first + i - factor // 2) % factor == 0])
        if len(centres) >= 2:
            at = np.interp(np.arange(len(out)), centres, np.arange(len(centres)))
            low = np.minimum(at.astype(int), len(centres) - 2)
            part = (at - low)[:, None, None].astype(np.float32)
            out = thick[centres][low] * (1 - part) + thick[centres][low + 1] * part
    return out


def seven_tesla(ask: Ask) -> SimulatedCase:
    """7 T: twice the signal to noise, longer T1, shorter T2*, bright middle and dark temporal poles by B1, sharper."""
    patient = start(ask, noise=(0.02, 0.045), tesla=3.0)
    grow_old(patient)
    paint = any_lesion(patient, 0.3)
    scene = patient.scene
    scene.settle()
    paint()
    rng = patient.scanner
    three = scan(
        scene,
        render(scene, scaled(mprage(patient.tissues, rng.uniform(850, 1000), 9))),
        "T1_3T",
        replace(patient.look, blur=max(1.3, patient.look.blur)),
    )
    ultra = patient.tissues.at_field(7.0)
    image = render(scene, scaled(mprage(ultra, rng.uniform(1150, 1350), 7)))
    middle = scene.subs // 2
    off = [p[middle :: scene.subs] - c for p, c in zip(scene.point, scene.head.centre, strict=True)]
    b1 = np.exp(-((off[0] / 95) ** 2 + (off[1] / 110) ** 2 + ((off[2] - 5) / 85) ** 2)) * np.float32(rng.uniform(0.35, 0.55)) + np.float32(0.72)
    seven = scan(scene, image * b1, "T1_7T", Look(0.75, patient.look.noise * 0.45, patient.look.bias * 0.6, 0.0))
    return finish(patient, {"T1_3T": three, "T1_7T": seven})


# ---------------------------------------------------------------- perfusion


def asl_boost(ask: Ask) -> SimulatedCase:
    """Difference of control and label as flow (mL/100 g/min); part of the noise grows with flow, thermal noise does not. Alsop 2015 (MRM 73:102)."""
    patient = start(ask, noise=(0.02, 0.05))
    grow_old(patient)
    scene, rng = patient.scene, patient.disease
    mine = np.random.default_rng(rng.integers(2**62))
    paint = dict
    hours = 0.0
    if rng.uniform() < 0.25:
        hours = float(mine.uniform(3, 100))
        age_tissue(patient.tissues, hours, 0.9)
        paint = infarct(scene, mine, hours)[0]
    scene.settle()
    paint()
    flow = patient.tissues.cbf.copy()
    flow[~np.isin(np.arange(len(flow)), np.flatnonzero(BRAIN)) & (np.arange(len(flow)) < 25)] *= 0.15
    regional = 1 + np.float32(0.12) * scene.average(scene.noise(28, rng=np.random.default_rng([ask.seed, 31])))
    truth = render(scene, flow, 0.05) * regional
    sigma = [2.2 / s for s in ask.spacing_mm[1:]]
    cbf = ndimage.gaussian_filter(truth, (0.3, *sigma))
    inside = ndimage.gaussian_filter(scene.average((scene.depth > 0).astype(np.float32)), (0, 1, 1)) > 0.5
    cbf *= inside
    efficiency = float(patient.scanner.uniform(0.72, 0.9))
    thermal = np.float32(patient.scanner.uniform(9, 20))
    noises = slice_noise(scene, "ASL", 6)
    shots = []
    for one in noises:
        smooth = ndimage.gaussian_filter(one, (0, 0.55, 0.55)) * np.float32(1.9)
        shots.append((cbf + smooth * (thermal + 0.08 * cbf)) * inside)
    pd = channel(scene, "PD", patient.tissues, patient.scanner, patient.look)
    t2 = channel(scene, "T2", patient.tissues, patient.scanner, patient.look)
    return finish(
        patient, {"ASL": shots[0], "ASL_SIX": np.mean(shots, 0), "CBF": cbf, "PD": pd, "T2": t2}, truth={"label_efficiency": round(efficiency, 3)}
    )


# ---------------------------------------------------------------- CT, PET


def mr_to_ct(ask: Ask) -> SimulatedCase:
    patient = start(ask)
    grow_old(patient)
    patient.scene.settle()
    channels = {name: channel(patient.scene, name, patient.tissues, patient.scanner, patient.look) for name in ("T1", "T2")}
    clean = hounsfield(patient.scene, patient.tissues)
    channels["CT"] = ct_scan(patient, clean)
    body = ndimage.binary_fill_holes(clean > -300, np.ones((1, 3, 3)))
    air = body & (clean < -400)
    masks = {"bone": (clean > 250), "air": air, "soft": body & ~air & (clean <= 250)}
    return finish(patient, channels, masks={name: m.astype(np.uint8) for name, m in masks.items()})


def hypometabolism(kind: str, standard: list[Floats], amount: float) -> Floats:
    """Share of glucose uptake left. Alzheimer: parietal, temporal, posterior cingulate; frontotemporal: frontal and anterior temporal."""
    x, y, z = np.abs(standard[0]), standard[1], standard[2]
    if kind == "frontotemporal":
        where = np.maximum(1 / (1 + np.exp(-(y - 14) / 9)), np.exp(-(((x - 42) / 16) ** 2) - ((y - 8) / 18) ** 2 - ((z + 28) / 14) ** 2))
    else:
        where = np.maximum.reduce(
            [
                np.exp(-(((x - 46) / 18) ** 2) - ((y + 60) / 20) ** 2 - ((z - 30) / 22) ** 2),
                0.85 * np.exp(-(((x - 52) / 16) ** 2) - ((y + 35) / 28) ** 2 - ((z + 8) / 14) ** 2),
                np.exp(-((x / 12) ** 2) - ((y + 50) / 17) ** 2 - ((z - 28) / 16) ** 2),
            ]
        )
    return (1 - np.float32(amount) * where).astype(np.float32)


def mr_to_pet(ask: Ask) -> SimulatedCase:
    patient = start(ask, ages=(45, 88), noise=(0.012, 0.04))
    rng, scene = patient.disease, patient.scene
    category = int(rng.choice(3, p=[0.45, 0.35, 0.2]))
    amount = float(rng.uniform(0.15, 0.4)) if category else 0.0
    if category == 1:
        grow_old(patient, 4 * amount, 0.4 * amount, (2.2 * amount, 2.2 * amount), medial_temporal(1.8 * amount))
    elif category == 2:
        grow_old(patient, 4 * amount, 0.2 * amount, (1.0 * amount, 1.0 * amount), frontal_temporal(2.2 * amount))
    else:
        grow_old(patient)
    aged = small_vessel(scene, np.random.default_rng(rng.integers(2**62)), int(rng.choice(3, p=[0.5, 0.35, 0.15])))
    scene.settle()
    aged()
    channels = {name: channel(scene, name, patient.tissues, patient.scanner, patient.look) for name in ("T1", "FLAIR")}
    uptake = patient.tissues.fdg.astype(np.float32)[scene.tissue]
    for layer in scene.lesions:
        part = uptake[layer.box]
        part += layer.fraction * (np.float32(patient.tissues.fdg[layer.code]) - part)
    if category:
        uptake *= np.where(BRAIN[scene.tissue], hypometabolism(("", "alzheimer", "frontotemporal")[category], scene.standard(), amount), 1)
    uptake *= 1 + np.float32(0.06) * scene.noise(35, rng=np.random.default_rng([ask.seed, 71]))
    resolution = patient.scanner.uniform(4.5, 6.5) / 2.355
    sigma = [resolution / s for s in ask.spacing_mm]
    pet = ndimage.gaussian_filter(scene.average(uptake), sigma)
    grain = ndimage.gaussian_filter(slice_noise(scene, "PET")[0], (0.3, 1.0, 1.0)) * np.float32(3.3)
    channels["PET"] = np.maximum(pet + grain * np.sqrt(np.maximum(pet, 0.02)) * np.float32(patient.scanner.uniform(0.03, 0.07)), 0)
    return finish(patient, channels, category=category, truth={"age_years": round(patient.age_years, 1)})
