"""Cases with lesions on MR: tumours, FLAIR lesions, plaques, white-matter disease, infarcts, microbleeds."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from data.simulate.anatomy import CORTEX, FAT, MARROW, WHITE
from data.simulate.build import Patient, finish, grow_old, start
from data.simulate.case import Floats, SimulatedCase
from data.simulate.scene import Ask, Scene
from data.simulate.shapes import Paint, finding
from data.simulate.signal import Layer, channel, mask_of, render, scaled, scan, slice_noise, spin_echo
from data.simulate.stroke import Occlusion, age_tissue, draw_hours, infarct, paint_infarct, perfusion_maps
from data.simulate.susceptibility import Marks, susceptibility_weighted
from data.simulate.tissue import TUMOUR
from data.simulate.tumours import adenoma, glioma, meningioma, metastases
from data.simulate.white_matter import plaques, small_vessel


def tumour_segmentation(ask: Ask) -> SimulatedCase:
    patient = start(ask)
    rng, scene = patient.disease, patient.scene
    kind = ask.options.get("kind") or str(rng.choice(("glioma", "metastases", "meningioma"), p=[0.6, 0.2, 0.2]))
    grow_old(patient)
    if kind == "glioma":
        paint = glioma(scene, rng, "high" if rng.uniform() < 0.72 else "low")
    elif kind == "metastases":
        paint = metastases(scene, rng, int(rng.integers(1, 7)))
    else:
        paint = meningioma(scene, rng)
    aged = small_vessel(scene, np.random.default_rng(rng.integers(2**62)), int(rng.choice(3, p=[0.6, 0.3, 0.1])))
    scene.settle()
    aged()
    masks = nested(scene, paint())
    channels = {name: channel(scene, name, patient.tissues, patient.scanner, patient.look) for name in ("T1", "T1CE", "T2", "FLAIR")}
    findings = (
        finding(
            {"glioma": "glioma", "metastases": "metastasis", "meningioma": "meningioma"}[kind], bool(masks["whole"].any()), masks["whole"], scene
        ),
    )
    return finish(patient, channels, masks=masks, category=("glioma", "metastases", "meningioma").index(kind), findings=findings)


def nested(scene: Scene, found: dict[str, list[Layer]]) -> dict[str, NDArray[np.uint8]]:
    """whole contains core contains enhancing; necrosis is core that is not enhancing; oedema the rest of the whole."""
    core, dead, bright = (mask_of(scene, found.get(name, [])) for name in ("core", "necrosis", "enhancing"))
    oedema = mask_of(scene, found.get("oedema", []), 0.4)
    core |= bright
    bright &= 1 - dead
    return {"whole": oedema | core, "core": core, "enhancing": bright, "necrosis": dead & core, "oedema": oedema & (1 - core)}


def flair_lesions(ask: Ask) -> SimulatedCase:
    """Ages, sizes and blur as in a clinical set of low-grade gliomas: adults under 72, lesions of up to 7 cm, planes that were interpolated."""
    patient = start(ask, ages=(18, 72))
    rng, scene = patient.disease, patient.scene
    patient.look = replace(patient.look, blur=patient.look.blur * float(rng.uniform(1.0, 1.7)))
    patient.tissues.t2[TUMOUR] *= rng.uniform(1.0, 1.4)
    grow_old(patient)
    present = rng.uniform() < 0.9
    grade = "low" if rng.uniform() < 0.75 else "high"
    rng_tumour, rng_white = (np.random.default_rng(s) for s in rng.integers(2**62, size=2))
    radius, extent = float(rng.uniform(9, 32)), float(rng.uniform(0, 16)) if rng.uniform() < 0.7 else 0.0
    paint = glioma(scene, rng_tumour, grade, radius, extent) if present else dict
    fazekas = int(rng.choice(3, p=[0.65, 0.27, 0.08]))
    aged = small_vessel(scene, rng_white, fazekas, "white_matter_disease")
    scene.settle()
    found = aged()
    whole = nested(scene, paint())["whole"]
    disease = mask_of(scene, found.get("white_matter_disease", [])) & (1 - whole)
    channels = {name: channel(scene, name, patient.tissues, patient.scanner, patient.look) for name in ("T1", "FLAIR", "T1CE")}
    return finish(
        patient,
        channels,
        masks={"lesion": whole, "white_matter_disease": disease},
        category=int(present),
        findings=(finding("flair_lesion", present, whole, scene),),
    )


def ms_plaques(ask: Ask) -> SimulatedCase:
    patient = start(ask, ages=(18, 60))
    rng, scene = patient.disease, patient.scene
    count = int(rng.integers(4, 36)) if rng.uniform() < 0.8 else 0
    grow_old(patient, extra_ventricles_mm=0.02 * count)
    paint = plaques(scene, rng, count)
    scene.settle()
    found = paint()
    channels = {name: channel(scene, name, patient.tissues, patient.scanner, patient.look) for name in ("T1", "FLAIR", "T2", "T1CE")}
    case = finish(patient, channels, found, names=("lesion", "enhancing"), level=0.4, category=int(count > 0), truth={"count": count})
    findings = (finding("demyelinating_lesions", count > 0, case.masks["lesion"], scene, **({"count": count} if count else {})),)
    return finish(patient, channels, masks=case.masks, category=int(count > 0), findings=findings, truth={"count": count})


def white_matter_disease(ask: Ask) -> SimulatedCase:
    patient = start(ask, ages=(45, 92))
    rng, scene = patient.disease, patient.scene
    fazekas = int(rng.integers(0, 4))
    grow_old(patient, extra_ventricles_mm=0.4 * fazekas, extra_sulci_mm=0.06 * fazekas)
    paint = small_vessel(scene, rng, fazekas)
    scene.settle()
    found = paint()
    masks = {"lesion": mask_of(scene, found["lesion"], 0.4)}
    channels = {name: channel(scene, name, patient.tissues, patient.scanner, patient.look) for name in ("T1", "FLAIR", "T2")}
    return finish(
        patient,
        channels,
        masks=masks,
        category=fazekas,
        findings=(finding("white_matter_disease", fazekas > 0, masks["lesion"], scene),),
        truth={"fazekas": fazekas, "age_years": round(patient.age_years, 1)},
    )


def tumour_type(ask: Ask) -> SimulatedCase:
    choice = np.random.default_rng([ask.seed, 77, ask.held_out])
    plane = str(choice.choice(("axial", "coronal", "sagittal")))
    name = str(choice.choice(("T1CE", "T1CE", "T1CE", "T2", "T1", "FLAIR")))
    patient = start(Ask(ask.recipe, ask.seed, (48, *ask.size[1:]), ask.spacing_mm, ask.anatomy, ask.held_out, ask.size[0], ask.options), plane)
    rng, scene = patient.disease, patient.scene
    kind = str(rng.choice(("glioma", "meningioma", "none", "pituitary")))
    if kind == "glioma":
        paint = glioma(scene, rng, "high" if rng.uniform() < 0.7 else "low")
    elif kind == "meningioma":
        paint = meningioma(scene, rng)
    elif kind == "pituitary":
        paint = adenoma(scene, rng)
    else:
        paint = dict
        at, _ = scene.spots(CORTEX, WHITE)
        scene.focus(at[rng.integers(len(at))], 10.0)
    grow_old(patient)
    scene.settle()
    mask = nested(scene, paint())["whole"]
    image = channel(scene, name, patient.tissues, patient.scanner, patient.look)
    codes = {"glioma": "glioma", "meningioma": "meningioma", "pituitary": "pituitary_tumour"}
    return finish(
        patient,
        {"MR": image},
        masks={"tumour": mask},
        category=("glioma", "meningioma", "none", "pituitary").index(kind),
        findings=tuple(finding(code, kind == key and bool(mask.any()), mask, scene) for key, code in codes.items()),
        truth={"sequence": name, "plane": plane},
    )


# ---------------------------------------------------------------- stroke


def diffusion_pair(patient: Patient) -> dict[str, Floats]:
    """DWI (b 1000, white matter near 1) and the ADC map that the scanner computes from noisy b 0 and b 1000 images."""
    scene, tissues, look = patient.scene, patient.tissues, patient.look
    b0 = spin_echo(tissues, patient.scanner.uniform(4000, 8000), patient.scanner.uniform(65, 95))
    b0 = scaled(b0)
    b0[[FAT, MARROW]] *= 0.12  # echo-planar images are always fat-saturated
    look = replace(look, blur=look.blur * 1.25, noise=look.noise * 0.6)
    first = scan(scene, render(scene, b0), "B0", look)
    second = scan(scene, render(scene, b0 * np.exp(-1e-3 * tissues.adc)), "DWI", look, shade="B0")
    adc = 1000 * np.log(np.maximum(first, 1e-3) / np.maximum(second, 1e-3))
    adc = np.where(first > 5 * look.noise, np.clip(adc, 0, 4000), 0)
    return {"DWI": second / np.float32(b0[WHITE] * np.exp(-1e-3 * tissues.adc[WHITE])), "ADC": adc}


def dwi_infarct(ask: Ask) -> SimulatedCase:
    patient = start(ask, ages=(40, 92), noise=(0.02, 0.07))
    rng, scene = patient.disease, patient.scene
    present = rng.uniform() < 0.75
    hours = float(ask.options["hours"]) if ask.options.get("hours") is not None else draw_hours(rng)
    severity = float(rng.uniform(0.55, 1.0))
    age_tissue(patient.tissues, hours, severity)
    grow_old(patient)
    rng_infarct, rng_white, rng_old = (np.random.default_rng(s) for s in rng.integers(2**62, size=3))
    paint, facts = infarct(scene, rng_infarct, hours) if present else (dict, None)
    aged = small_vessel(scene, rng_white, int(rng.choice(4, p=[0.35, 0.35, 0.2, 0.1])))
    old = infarct(scene, rng_old, 5000.0, name="old")[0] if rng.uniform() < 0.12 else dict
    scene.settle()
    aged()
    old()
    mask = mask_of(scene, paint().get("infarct", []))
    channels = diffusion_pair(patient)
    channels["FLAIR"] = channel(scene, "FLAIR", patient.tissues, patient.scanner, patient.look)
    acute = present and hours < 24 * 14
    return finish(
        patient,
        channels,
        masks={"infarct": mask},
        category=int(present),
        findings=(finding("acute_infarct", acute, mask, scene, **({"acuity": acuity_of(hours)} if acute else {})),),
        truth={"hours": round(hours, 1), "territory": facts.territory if facts else "", "volume_ml": round(float(mask.sum()) * scene.voxel_ml, 2)},
    )


def chronic_infarct(ask: Ask) -> SimulatedCase:
    """Infarcts older than a month, cavity and gliotic rim, in brains of an age; some with a fresh infarct or a tumour beside it, or that alone."""
    patient = start(ask, ages=(40, 92), noise=(0.015, 0.06))
    rng, scene = patient.disease, patient.scene
    present = rng.uniform() < 0.65
    other = str(rng.choice(("none", "acute infarct", "tumour"), p=[0.42, 0.2, 0.38]))
    hours, months = draw_hours(rng), float(np.exp(rng.uniform(np.log(1.5), np.log(120))))
    rng_old, rng_other, rng_white = (np.random.default_rng(s) for s in rng.integers(2**62, size=3))
    age_tissue(patient.tissues, hours, float(rng.uniform(0.55, 1.0)))
    grow_old(patient)
    paint_other: Paint = dict
    if other == "acute infarct":
        paint_other, _ = infarct(scene, rng_other, hours, name="acute")
    elif other == "tumour":
        tumour = rng_other.uniform()
        paint_other = (glioma(scene, rng_other, "high" if tumour < 0.42 else "low") if tumour < 0.6
                       else metastases(scene, rng_other, int(rng_other.integers(1, 7))) if tumour < 0.8 else meningioma(scene, rng_other))
    territory = str(rng_old.choice(("ACA", "MCA", "PCA", "cerebellar", "lacunar"), p=[0.1, 0.5, 0.14, 0.1, 0.16]))
    paint, facts = infarct(scene, rng_old, months * 30.4 * 24, territory) if present else (dict, None)
    aged = small_vessel(scene, rng_white, int(rng.choice(4, p=[0.3, 0.35, 0.25, 0.1])))
    scene.settle()
    aged()
    acute = mask_of(scene, paint_other().get("acute", []))
    mask = mask_of(scene, paint().get("infarct", []))
    acute &= 1 - mask
    channels = {**diffusion_pair(patient), "FLAIR": channel(scene, "FLAIR", patient.tissues, patient.scanner, patient.look)}
    return finish(
        patient,
        channels,
        masks={"infarct": mask, "acute": acute},
        category=int(present),
        findings=(
            finding("acute_infarct", bool(acute.any()), acute, scene, **({"acuity": acuity_of(hours)} if acute.any() else {})),
            finding("chronic_infarct", bool(mask.any()), mask, scene),
        ),
        truth={"months": round(months, 1), "territory": facts.territory if facts else "", "other": other},
    )


def acuity_of(hours: float) -> str:
    return "hyperacute" if hours < 6 else "acute" if hours < 24 * 7 else "subacute" if hours < 24 * 30 else "chronic"


def final_infarct(ask: Ask) -> SimulatedCase:
    patient = start(ask, ages=(45, 90), noise=(0.02, 0.06))
    rng, scene = patient.disease, patient.scene
    treated = bool(ask.options["treated"]) if ask.options.get("treated") is not None else bool(rng.uniform() < 0.5)
    grow_old(patient)
    occlusion = Occlusion(scene, rng)
    aged = small_vessel(scene, np.random.default_rng(rng.integers(2**62)), int(rng.choice(3, p=[0.5, 0.35, 0.15])))
    scene.settle()
    aged()
    state = occlusion.solve(scene)
    age_tissue(patient.tissues, occlusion.hours, 0.9)
    maps = perfusion_maps(scene, patient.tissues, state)
    whole = tuple(slice(0, n) for n in scene.shape)
    core_layers = paint_infarct(scene, whole, state.core, occlusion.hours)  # type: ignore[arg-type]
    scene.lesions.extend(core_layers)
    channels = diffusion_pair(patient)
    channels["FLAIR"] = channel(scene, "FLAIR", patient.tissues, patient.scanner, patient.look)
    channels.update({name: perfusion_scan(scene, image, name, patient) for name, image in maps.items()})
    masks = {
        name: (scene.average(field) > 0.5).astype(np.uint8)
        for name, field in (("core", state.core), ("final_treated", state.final_treated), ("final_untreated", state.final_untreated))
    }
    late = (scene.average(state.delay) > 4.9).astype(np.uint8)  # Tmax above 6 s with the usual 1.1
    masks["penumbra"] = late & (1 - masks["core"])
    masks["final"] = masks["final_treated" if treated else "final_untreated"]
    truth = {**state.truth, "treated": treated}
    return finish(
        patient,
        channels,
        masks=masks,
        category=int(treated),
        truth=truth,
        findings=(finding("acute_infarct", bool(masks["core"].any()), masks["core"], scene, acuity=acuity_of(occlusion.hours)),),
    )


def perfusion_scan(scene: Scene, image: Floats, name: str, patient: Patient) -> Floats:
    """Coarse echo-planar maps: blur, then noise in proportion to what each map suffers from deconvolution."""
    sigma = [4.0 / s for s in scene.ask.spacing_mm[1:]]
    smooth = ndimage.gaussian_filter(image, (0.3, sigma[0] / 1.5, sigma[1] / 1.5))
    noise = ndimage.gaussian_filter(slice_noise(scene, name)[0], (0, 0.8, 0.8)) * 2.2
    inside = scene.average((scene.depth > 0).astype(np.float32)) > 0.5
    scale = {"CBF": 0.12 * smooth + 2, "CBV": 0.12 * smooth + 0.15, "MTT": 0.12 * smooth + 0.3, "TMAX": 0.10 * smooth + 0.45}[name]
    out = smooth + noise * scale * (patient.look.noise / 0.04)
    return (np.maximum(out, 0) * inside).astype(np.float32)


def microbleeds(ask: Ask) -> SimulatedCase:
    tesla = 3.0
    patient = start(ask, ages=(45, 92), noise=(0.015, 0.05), tesla=tesla)
    rng, scene = patient.disease, patient.scene
    grow_old(patient)
    bleeds = int(rng.poisson(rng.choice((2.0, 5.0, 12.0)))) if rng.uniform() < 0.75 else 0
    marks = Marks(scene, rng, bleeds, int(rng.poisson(2.5)))
    scene.settle()
    found = marks.paint()
    magnitude, phase = susceptibility_weighted(scene, patient.tissues, patient.scanner, patient.look, tesla)
    here = marks.centres(marks.bleeds)
    case = finish(
        patient,
        {"SWI": magnitude, "PHASE": phase},
        found,
        names=("microbleed", "mimic"),
        level=0.35,
        findings=(finding("microbleeds", bool(here), **({"count": len(here)} if here else {})),),
        truth={"microbleeds": here, "mimics": marks.centres(marks.calcifications)},
    )
    return case
