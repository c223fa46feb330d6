"""CT cases: haemorrhage (data.simulator), oedema around a haematoma, the three classes, low dose by noise in the projections."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from data.errors import SimulatorError
from data.simulate.anatomy import CAUDATE, CORTEX, PUTAMEN, STRUCTURE_OF, THALAMUS, WHITE, list_heads
from data.simulate.build import Patient, finish, grow_old, start
from data.simulate.case import Floats, SimulatedCase
from data.simulate.population_cases import medial_temporal
from data.simulate.scene import Ask, Scene
from data.simulate.shapes import Paint, blob, finding, pick, same_side, soft
from data.simulate.signal import Layer, draw, mask_of, slice_noise
from data.simulate.stroke import age_tissue, infarct
from data.simulate.surgery import operation, with_metal
from data.simulate.tissue import BLOOD, OEDEMA, Tissues
from data.simulate.tumours import OEDEMA_TAKES, glioma, metastases
from data.simulate.white_matter import small_vessel
from data.simulator import KINDS, TYPES, simulate_head_ct


def hounsfield(scene: Scene, tissues: Tissues) -> Floats:
    """Clean HU of the slices: tissue, lesions by their fractions, partial volume."""
    values = tissues.hu.astype(np.float32)[scene.tissue]
    for layer in scene.lesions:
        part = values[layer.box]
        part += layer.fraction * (np.float32(tissues.hu[layer.code]) - part)
    values += np.float32(0.8) * scene.noise(25, rng=np.random.default_rng([scene.ask.seed, 42])) * (scene.depth > 0)
    return scene.average(np.maximum(values, -1000))


def ct_scan(patient: Patient, clean: Floats) -> Floats:
    """Blur of the kernel, cupping and streaks of a hardened beam, correlated noise that is strongest in the middle."""
    scene, rng, held_out = patient.scene, np.random.default_rng([patient.scene.ask.seed, 43]), patient.scene.ask.held_out
    spacing = scene.ask.spacing_mm
    sigma = draw(rng, 0.45, 0.95, held_out)
    pixels = ndimage.gaussian_filter(clean, (0, sigma / spacing[1], sigma / spacing[2]))
    middle = scene.subs // 2
    depth = scene.depth[middle :: scene.subs]
    inside = depth > 0
    pixels += inside * (np.exp(-depth / rng.uniform(4, 12)) * rng.uniform(0, 7) - rng.uniform(0, 2))
    dense = ((pixels > 400) & (ndimage.uniform_filter(inside.astype(np.float32), (0, 15, 15)) > 0.5)).mean((1, 2))
    noise = slice_noise(scene, "CT", 2)
    pixels += ndimage.gaussian_filter(noise[1], (0, 1.2, 14)) * 12 * rng.uniform(1, 9) * np.clip(dense * 80 - 0.2, 0, 1.0)[:, None, None]
    grain = rng.uniform(0.4, 0.9)
    smooth = ndimage.gaussian_filter(noise[0], (0, grain, grain)) * np.float32(2 * np.sqrt(np.pi) * grain)
    pixels += smooth * np.float32(draw(rng, 2.0, 6.0, held_out)) * (0.6 + 0.6 * np.clip(depth / 60, 0, 1))
    return np.clip(np.rint(pixels), -1024, 3071).astype(np.float32)


def ct_haemorrhage(ask: Ask) -> SimulatedCase:
    """data.simulator's study on rows x rows pixels; it lays its own slices over the whole head, cut or padded with air to the size asked for."""
    kind = ask.options.get("kind")
    if kind is not None and kind not in KINDS:
        raise SimulatorError(f"kind is '{kind}', expected one of {', '.join(KINDS)}")
    if ask.size[1] != ask.size[2]:
        raise SimulatorError(f"ct_haemorrhage has square slices, size is {ask.size}; give as many rows as columns")
    seed = ask.seed + (500_000_000 if ask.held_out else 0)
    sources = list_heads(ask.anatomy, ask.held_out)
    study = simulate_head_ct(
        seed,
        kind,
        rows=ask.size[1],
        field_mm=ask.size[1] * ask.spacing_mm[1],
        slice_mm=ask.spacing_mm[0],
        size=ask.options.get("extent"),
        anatomy=str(np.random.default_rng([seed, 9]).choice(sources)),
    )
    pixels, halves = study.volume.pixels, study.halves
    count = len(pixels)
    if isinstance(ask.slices, int):
        full = sum(study.masks.values()) if study.masks else np.zeros(pixels.shape, np.uint8)
        area = full.sum((1, 2)).astype(float) + 1e-3
        centre = int(np.random.default_rng([seed, 10]).choice(count, p=area / area.sum()))
        first = int(np.clip(centre - ask.slices // 2, 0, max(0, count - ask.slices)))
        stop = first + ask.slices
    else:
        first, stop = ask.slices or (0, count)
    window = slice(first, min(stop, count))
    masks = {name: study.masks.get(name, np.zeros(pixels.shape, np.uint8))[window] for name in (*TYPES, "fracture")}
    affine = study.volume.affine.copy()  # type: ignore[union-attr]
    affine[:3, 3] += affine[:3, 2] * first
    present = any(masks[name].any() for name in TYPES)
    return SimulatedCase(
        ask.recipe,
        ask.seed,
        {"CT": pixels[window]},
        masks,
        np.zeros(pixels[window].shape, np.uint8),
        halves[window],
        affine,
        study.volume.spacing_mm,
        "CT",
        int(present),
        study.findings,
        {"midline_shift_mm": round(study.shift_mm, 1)},  # type: ignore[arg-type]
        study.anatomy,
        ask.held_out,
    )


def haematoma(scene: Scene, rng: np.random.Generator, hours: float) -> Paint:
    """Deep or lobar blood that pushes the brain away, with oedema that grows for days around it. Murthy 2015 (Stroke 46:3088)."""
    deep = rng.uniform() < 0.55
    at, standard = scene.spots(*((PUTAMEN, THALAMUS, CAUDATE, WHITE) if deep else (WHITE, CORTEX)))
    depth = scene.field_at(scene.head.depth, at) if len(at) else np.zeros(0)
    fits = (depth > 28) & (np.abs(standard[:, 0]) > 10) & (standard[:, 2] > -8) & (standard[:, 2] < 28) if deep else (depth > 9) & (depth < 32)
    centre = pick(rng, at, fits)
    radius = float(5 + 20 * rng.uniform() ** 1.2)
    extent = float(rng.uniform(1.0, 4.0) + 7.5 * min(1.0, hours / 120) * rng.uniform(0.5, 1.2))
    draws, inner = rng.uniform(size=4), np.random.default_rng(rng.integers(2**62))
    if centre is None:
        return dict
    scene.focus(centre, radius)
    scene.swell(centre, radius + 0.3 * extent, 0.5 + 0.4 * draws[0], 22 + 20 * draws[1])

    def paint() -> dict[str, list[Layer]]:
        made = blob(scene, centre, radius, inner, rough=0.17, reach=1.5 + 1.6 * extent / radius)
        if made is None:
            return {}
        box, ratio = made
        here = same_side(scene, centre, box) * (scene.depth[box] > 0)
        takes = np.maximum(OEDEMA_TAKES, np.where(STRUCTURE_OF == 5, 0.55, 0)).astype(np.float32)
        wide = extent * np.clip(1 + 0.4 * scene.noise(12, box, inner), 0.2, 2)
        rim = np.clip((wide - (ratio - 1) * radius) / 2.0 + 0.5, 0, 1) * takes[scene.tissue[box]] * here
        oedema = Layer(box, OEDEMA, (rim * (0.75 + 0.25 * draws[2])).astype(np.float32))
        blood = Layer(box, BLOOD, (soft(ratio, radius, 1.0) * here * np.clip(0.97 + 0.06 * scene.noise(9, box, inner), 0, 1)).astype(np.float32))
        scene.lesions.extend([oedema, blood])
        return {"oedema": [oedema], "intraparenchymal": [blood]}

    return paint


def ct_oedema(ask: Ask) -> SimulatedCase:
    patient = start(ask, ages=(35, 90))
    scene, rng = patient.scene, patient.disease
    hours = float(np.exp(rng.uniform(np.log(1), np.log(240))))
    grow_old(patient)
    patient.tissues.hu[BLOOD] = rng.uniform(58, 76) - 0.06 * hours
    patient.tissues.hu[OEDEMA] = rng.uniform(13, 22)
    paint = haematoma(scene, rng, hours)
    aged = small_vessel(scene, np.random.default_rng(rng.integers(2**62)), int(rng.choice(4, p=[0.4, 0.3, 0.2, 0.1])))
    scene.settle()
    aged()
    found = paint()
    blood = mask_of(scene, found.get("intraparenchymal", []))
    oedema = mask_of(scene, found.get("oedema", []), 0.4) & (1 - blood)
    image = ct_scan(patient, hounsfield(scene, patient.tissues))
    findings = (finding("intracranial_haemorrhage", bool(blood.any())), finding("intraparenchymal_haemorrhage", bool(blood.any()), blood, scene))
    return finish(
        patient,
        {"CT": image},
        masks={"intraparenchymal": blood, "oedema": oedema},
        findings=findings,
        truth={"age_hours": round(hours, 1)},
        modality="CT",
    )


def ct_classes(ask: Ask) -> SimulatedCase:
    patient = start(ask, ages=(58, 90))
    scene, rng = patient.scene, patient.disease
    category = int(rng.integers(0, 3))
    mine = np.random.default_rng(rng.integers(2**62))
    fazekas = int(rng.choice(4, p=[0.3, 0.35, 0.25, 0.1]))
    paint: Paint = dict
    if category == 2:
        severity = float(np.clip(mine.normal(1.0, 0.25), 0.4, 1.6))
        grow_old(patient, 2.6 * severity, 0.32 * severity, (1.5 * severity, 1.5 * severity), medial_temporal(0.9 * severity))
    else:
        grow_old(patient)
    if category == 1:
        kind = mine.uniform()
        if kind < 0.45:
            hours = float(np.exp(mine.uniform(np.log(8), np.log(4000))))
            age_tissue(patient.tissues, hours, 1.0)
            paint = infarct(scene, mine, hours, str(mine.choice(("MCA", "MCA", "PCA", "ACA", "cerebellar"))))[0]
        elif kind < 0.75:
            paint = (
                glioma(scene, mine, "high", float(mine.uniform(12, 26)))
                if mine.uniform() < 0.6
                else metastases(scene, mine, int(mine.integers(1, 4)))
            )
        else:
            paint = haematoma(scene, mine, float(mine.uniform(1, 100)))
    aged = small_vessel(scene, np.random.default_rng(rng.integers(2**62)), fazekas, "aged")
    scene.settle()
    aged()
    found = paint()
    mask = mask_of(scene, [layer for layers in found.values() for layer in layers], 0.4)
    image = ct_scan(patient, hounsfield(scene, patient.tissues))
    return finish(
        patient,
        {"CT": image},
        masks={"lesion": mask},
        category=category,
        truth={"age_years": round(patient.age_years, 1)},
        modality="CT",
        findings=(finding("hippocampal_atrophy", category == 2, **({"side": "bilateral"} if category == 2 else {})),),
    )


# ---------------------------------------------------------------- low dose

VIEWS = 360
WATER_PER_MM = 0.0195  # attenuation at about 70 keV


def detector(rows: int, columns: int, view: int, fine: int) -> NDArray[np.int32]:
    """The detector bin (a `fine`-th of a pixel wide) that each pixel's ray falls on."""
    angle = np.pi * view / VIEWS
    y = (np.arange(rows, dtype=np.float32) - (rows - 1) / 2) * np.float32(np.sin(angle) * fine)
    x = (np.arange(columns, dtype=np.float32) - (columns - 1) / 2) * np.float32(np.cos(angle) * fine)
    half = int(np.hypot(rows, columns) / 2 + 2) * fine
    return (y[:, None] + x + np.float32(half + 0.5)).astype(np.int32)


def project(image: NDArray, pixel_mm: float) -> NDArray[np.float64]:
    """Parallel-beam line integrals (views, bins) of an image in units per mm; a bin is a pixel wide."""
    rows, columns = image.shape
    bins = 2 * int(np.hypot(rows, columns) / 2 + 2) + 1
    flat = image.ravel()
    return np.stack([np.bincount(detector(rows, columns, view, 1).ravel(), flat, bins)[:bins] for view in range(VIEWS)]) * pixel_mm


def filtered_back(projections: NDArray, shape: tuple[int, int], pixel_mm: float) -> NDArray[np.float64]:
    """Filtered back-projection with a Hann-windowed ramp. Kak and Slaney 1988, ch. 3."""
    views, bins = projections.shape
    length = 2 ** int(np.ceil(np.log2(2 * bins)))
    frequency = np.fft.rfftfreq(length, pixel_mm)
    ramp = frequency * (0.5 + 0.5 * np.cos(np.pi * np.clip(frequency * 2 * pixel_mm, 0, 1)))
    spectrum = np.fft.rfft(projections, length, 1) * ramp
    fine = 4
    wide = np.fft.irfft(np.concatenate([spectrum, np.zeros((views, length * (fine - 1) // 2))], 1), length * fine, 1) * fine
    out = np.zeros(shape)
    for view in range(views):
        out += np.take(wide[view], detector(*shape, view, fine))
    return out * np.pi / views


def photon_noise(image: NDArray, photons: float, rng: np.random.Generator, pixel_mm: float, lines: NDArray | None = None) -> NDArray[np.float64]:
    """Noise in HU that counting so many photons a ray (and 10 electrons of read-out noise) gives the image. Whiting 2006 (Med Phys 33:3290)."""
    if lines is None:
        lines = project((image / 1000 + 1).clip(0) * WATER_PER_MM, pixel_mm)
    seen = np.exp(-lines)
    sd = np.sqrt(1 / (photons * seen) + (10 / (photons * seen)) ** 2)
    return filtered_back(rng.standard_normal(lines.shape) * sd, image.shape, pixel_mm) / WATER_PER_MM * 1000


def low_dose_ct(ask: Ask) -> SimulatedCase:
    patient = start(ask, ages=(25, 90))
    scene, rng = patient.scene, patient.disease
    grow_old(patient)
    patient.tissues.hu[BLOOD] = rng.uniform(55, 72)
    kind, mine = rng.uniform(), np.random.default_rng(rng.integers(2**62))
    paint = haematoma(scene, mine, 20.0) if kind < 0.3 else infarct(scene, mine, 30.0, "MCA")[0] if kind < 0.5 else dict
    scene.settle()
    paint()
    clean = hounsfield(scene, patient.tissues)
    pixel = ask.spacing_mm[1]
    sigma = 0.55 / pixel
    clean = ndimage.gaussian_filter(clean, (0, sigma, sigma))
    share = draw(patient.scanner, 0.05, 0.25, ask.held_out)
    photons = draw(patient.scanner, 2.5e5, 6e5, ask.held_out) * ask.spacing_mm[0] / 5
    low, full = np.empty_like(clean), np.empty_like(clean)
    for i, image in enumerate(clean):
        counts = np.random.default_rng([ask.seed, 51, scene.window[0] + i])
        lines = project((image / 1000 + 1).clip(0) * WATER_PER_MM, pixel)
        full[i] = image + photon_noise(image, photons, counts, pixel, lines)
        low[i] = image + photon_noise(image, photons * share, counts, pixel, lines)
    return finish(patient, {"LOW_DOSE": low, "FULL_DOSE": full, "NOISELESS": clean}, truth={"dose_share": round(share, 3)}, modality="CT")


# ---------------------------------------------------------------- after an operation

def post_operative(ask: Ask) -> SimulatedCase:
    """Two in three were operated on, days to years ago."""
    patient = start(ask, ages=(20, 85))
    scene, rng = patient.scene, patient.disease
    grow_old(patient)
    operated, days = bool(rng.uniform() < 0.67), float(np.exp(rng.uniform(np.log(1), np.log(2000))))
    paint = operation(scene, np.random.default_rng(rng.integers(2**62)), days) if operated else dict
    scene.settle()
    found = paint()
    masks = {name: mask_of(scene, found.get(name, []), 0.4) for name in ("cavity", "craniotomy", "air", "metal")}
    metal = np.zeros(scene.shape, np.float32)
    for layer in found.get("metal", []):
        np.maximum(metal[layer.box], layer.fraction, out=metal[layer.box])
    clean = with_metal(hounsfield(scene, patient.tissues), scene.average(metal), ask.spacing_mm[1], project, filtered_back, WATER_PER_MM, ask.seed)
    shown = masks["cavity"] | masks["craniotomy"]
    findings = (finding("postoperative_change", bool(shown.any()), shown, scene),
                finding("pneumocephalus", bool(masks["air"].any()), masks["air"], scene))
    return finish(patient, {"CT": ct_scan(patient, clean)}, masks=masks, category=int(operated), findings=findings,
                  truth={"days": round(days, 1) if operated else None}, modality="CT")
