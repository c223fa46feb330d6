"""Cases whose class is a pattern of the whole brain: Alzheimer's disease and MCI, schizophrenia, Huntington's disease, hydrocephalus.

The classes overlap on purpose: group differences and spread are set so that the volumes alone separate them about as well as published hand-crafted
features do; part of each pattern (regional thinning of cortex, tissue contrast) does not show in the volumes.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from data.records import Finding
from data.simulate.anatomy import CAUDATE, PUTAMEN, WHITE
from data.simulate.build import Patient, finish, grow_old, start, volumes_of
from data.simulate.case import Floats, SimulatedCase
from data.simulate.scene import Ask, Scene
from data.simulate.shapes import finding
from data.simulate.signal import Layer, channel
from data.simulate.tissue import LEUKOARAIOSIS
from data.simulate.usual_sizes import SMALL_BRAIN, SMALL_HIPPOCAMPI_ML, brain_share, grow_usual, hippocampi_ml
from data.simulate.white_matter import small_vessel

Regional = Callable[[list[Floats]], Floats]


def medial_temporal(amount_mm: float) -> Regional:
    """Thinning of the medial and lateral temporal, the parietal and the posterior cingulate cortex, in that order of strength."""

    def at(standard: list[Floats]) -> Floats:
        x, y, z = np.abs(standard[0]), standard[1], standard[2]
        medial = np.exp(-(((x - 26) / 11) ** 2) - ((y + 14) / 20) ** 2 - ((z + 24) / 11) ** 2)
        lateral = np.exp(-(((x - 52) / 16) ** 2) - ((y + 25) / 32) ** 2 - ((z + 14) / 14) ** 2)
        parietal = np.exp(-(((x - 44) / 18) ** 2) - ((y + 58) / 18) ** 2 - ((z - 34) / 18) ** 2)
        cingulate = np.exp(-((x / 10) ** 2) - ((y + 50) / 16) ** 2 - ((z - 28) / 14) ** 2)
        return np.float32(amount_mm) * np.maximum.reduce([1.5 * medial, 0.8 * lateral, 0.7 * parietal, 0.7 * cingulate]).astype(np.float32)

    return at


def frontal_temporal(amount_mm: float) -> Regional:
    """Thinning of the frontal and the superior temporal cortex."""

    def at(standard: list[Floats]) -> Floats:
        x, y, z = np.abs(standard[0]), standard[1], standard[2]
        frontal = 1 / (1 + np.exp(-(y - 18) / 8)) * (z > -30)
        superior = np.exp(-(((x - 54) / 12) ** 2) - ((y + 10) / 30) ** 2 - ((z - 2) / 10) ** 2)
        return np.float32(amount_mm) * np.maximum(frontal, 1.2 * superior).astype(np.float32)

    return at


def person(ask: Ask, ages: tuple[float, float]) -> tuple[Patient, str]:
    patient = start(ask, steady=True, noise=(0.012, 0.035), ages=ages, tesla=None)
    return patient, str(patient.disease.choice(("F", "M")))


def measured(scene: Scene, case: SimulatedCase, seed: int) -> dict[str, float]:
    """Volumes in mL with the error of an automatic method (2-4 %): structures, hippocampus by side, the whole brain and the intracranial space."""
    rng = np.random.default_rng([seed, 61])
    ml = scene.voxel_ml
    volumes = volumes_of(case.structures, ml)
    for name, side in (("right", 1), ("left", 2)):
        volumes[f"hippocampus {name}"] = float(((case.structures == 6) & (case.sides == side)).sum()) * ml
    del volumes["hippocampus"]
    volumes["intracranial"] = float((case.sides > 0).sum()) * ml
    volumes["brain"] = float(np.isin(case.structures, (1, 2, 5, 6)).sum()) * ml
    return {name: round(value * float(np.exp(rng.normal(0, 0.05 if "hippocampus" in name else 0.015))), 2) for name, value in volumes.items()}


def t1_of(patient: Patient) -> dict[str, Floats]:
    return {"T1": channel(patient.scene, "T1", patient.tissues, patient.scanner, patient.look)}


def with_volumes(patient: Patient, sex: str, category: int, findings: tuple[Finding, ...] = (), **more: Any) -> SimulatedCase:
    case = finish(patient, t1_of(patient), category=category, findings=findings)
    case.truth.update(age_years=round(patient.age_years, 1), sex=sex, volumes_ml=measured(patient.scene, case, case.seed), **more)
    return case


# how far along the disease a person of each class is, and the spread
STAGE = {"normal": (0.0, 0.1), "mci_stable": (0.36, 0.16), "mci_converter": (0.72, 0.18), "alzheimer": (1.15, 0.22)}
LOST = 0.22     # of the hippocampi where the stage is 1


def ad_classes(ask: Ask) -> SimulatedCase:
    patient, sex = person(ask, (60, 88))
    rng, scene = patient.disease, patient.scene
    category = int(rng.integers(0, 4))
    mean, spread = list(STAGE.values())[category]
    stage = max(0.0, rng.normal(mean, spread))
    tilt, varied = rng.normal(0, 0.02), rng.normal(1, 0.15)
    lost = (LOST * stage * varied + tilt, LOST * stage * varied - tilt)
    grow_usual(patient, float(np.exp(0.3 * stage)), lost, 0.2 * stage + rng.normal(0, 0.04), medial_temporal(0.75 * stage))
    fade = 1 - 0.05 * stage  # grey and white matter grow alike in the medial temporal lobe and beyond
    patient.tissues.t1[WHITE] /= fade
    aged = small_vessel(scene, np.random.default_rng(rng.integers(2**62)), int(rng.choice(4, p=[0.35, 0.35, 0.22, 0.08])))
    scene.settle()
    aged()
    grade = int(np.digitize(float(np.mean(lost)) / LOST + 0.012 * (patient.age_years - 65), (0.35, 0.75, 1.15, 1.7)))
    small = hippocampi_ml(scene.structures(), scene.sides()) < SMALL_HIPPOCAMPI_ML
    found = (finding("hippocampal_atrophy", small),)
    return with_volumes(patient, sex, category, found, mta_grade=grade, stage=round(stage, 2))


def schizophrenia_pattern(ask: Ask) -> SimulatedCase:
    """Effect sizes of the ENIGMA group (van Erp 2016, Mol Psychiatry 21:547; 2018, Biol Psychiatry 84:644): d about 0.3 to 0.5 a region."""
    patient, sex = person(ask, (18, 55))
    rng, scene = patient.disease, patient.scene
    category = int(rng.integers(0, 2))
    strength = max(0.0, rng.normal(1.0, 0.4)) * category
    own = max(0.0, rng.normal(0.12, 0.1))
    lost = (0.045 * strength + rng.normal(0, 0.02), 0.045 * strength + rng.normal(0, 0.02))
    grow_usual(patient, float(np.exp(0.12 * strength)), lost, 0.0, frontal_temporal(own + 0.3 * strength), filled=0.0)
    scene.settle()
    return with_volumes(patient, sex, category)


def huntington_pattern(ask: Ask) -> SimulatedCase:
    """Striatal volume falls by about a fifth before and by two fifths after onset. Tabrizi 2009 (Lancet Neurol 8:791)."""
    patient, sex = person(ask, (25, 70))
    rng, scene = patient.disease, patient.scene
    category = int(rng.integers(0, 3))
    stage = max(0.0, rng.normal((0.0, 0.4, 1.0)[category], (0.06, 0.18, 0.2)[category]))
    grow_old(patient, 0.8 * stage + rng.normal(0, 0.7), 0.15 * stage)
    scene.erosion[CAUDATE] = np.float32(1.9 * stage)
    for side in (1, -1):
        at, _ = scene.spots(PUTAMEN)
        here = at[np.sign(scene.head.lateral([at[:, i] for i in range(3)])) == side] if len(at) else at  # type: ignore[misc]
        if len(here):
            scene.shrink(here.mean(0), 13.0, min(0.35, 0.2 * stage))
    scene.settle()
    return with_volumes(patient, sex, category, stage=round(stage, 2))


def evans_index(scene: Scene, structures: np.ndarray, sides: np.ndarray) -> float:
    """Greatest width of the frontal horns over that of the inner skull, in the slices between the floor and the roof of the frontal horns."""
    best = 0.0
    middle = tuple(n // 2 for n in scene.shape[1:])
    heights = scene.standard()[2][scene.subs // 2 :: scene.subs, middle[0], middle[1]]
    for plane, inside, height in zip(structures, sides, heights, strict=True):
        if (inside > 0).sum() < 200 or not 2 < height < 28:
            continue
        rows = np.nonzero((inside > 0).any(1))[0]
        front = plane.copy()
        front[rows[0] + int(0.45 * (rows[-1] - rows[0])) :] = 0
        columns, inner = np.nonzero((front == 4).any(0))[0], np.nonzero((inside > 0).any(0))[0]
        if len(columns) > 1 and (front == 4).sum() > 12:
            best = max(best, (columns[-1] - columns[0] + 1) / (inner[-1] - inner[0] + 1))
    return round(float(best), 3)


def hydrocephalus(ask: Ask) -> SimulatedCase:
    patient = start(ask, ages=(40, 88))
    rng, scene = patient.disease, patient.scene
    present = bool(rng.uniform() < 0.5)
    widening = float(rng.uniform(5, 11)) if present else 0.0
    grow_old(patient, widening, filled=float(rng.uniform(0.35, 0.6)) if present else None)
    aged = small_vessel(scene, np.random.default_rng(rng.integers(2**62)), int(rng.choice(3, p=[0.5, 0.35, 0.15])))
    scene.settle()
    aged()
    if present and rng.uniform() < 0.7:  # fluid pressed into the white matter around the horns
        near = scene.at_moved(scene.head.ventricle)
        halo = np.clip((3.5 - near) / 3, 0, 1) * (scene.tissue == WHITE) * np.float32(rng.uniform(0.5, 0.9))
        scene.lesions.append(Layer(tuple(slice(0, n) for n in scene.shape), LEUKOARAIOSIS, halo.astype(np.float32)))  # type: ignore[arg-type]
    channels = {name: channel(scene, name, patient.tissues, patient.scanner, patient.look) for name in ("T1", "T2", "FLAIR")}
    case = finish(patient, channels, category=int(present), findings=(finding("hydrocephalus", present),))
    case.truth.update(evans_index=evans_index(scene, case.structures, case.sides), age_years=round(patient.age_years, 1))
    return case


def global_atrophy(ask: Ask) -> SimulatedCase:
    """Brains of an age, shrunken ones, and wide ventricles under pressure, which are no atrophy however little brain is left."""
    patient, sex = person(ask, (45, 90))
    rng, scene = patient.disease, patient.scene
    kind = str(rng.choice(("of the age", "shrunken", "hydrocephalus"), p=[0.35, 0.45, 0.2]))
    if kind == "hydrocephalus":
        grow_old(patient, float(rng.uniform(5, 11)), filled=float(rng.uniform(0.35, 0.6)))
    elif kind == "shrunken":
        lost = float(rng.uniform(0.3, 1.2))
        grow_old(patient, 4 * lost, 0.8 * lost, (0.3 * lost, 0.3 * lost))
    else:
        grow_old(patient)
    aged = small_vessel(scene, np.random.default_rng(rng.integers(2**62)), int(rng.choice(4, p=[0.35, 0.35, 0.22, 0.08])))
    scene.settle()
    aged()
    case = finish(patient, t1_of(patient))
    share = brain_share(case.structures)
    present = kind != "hydrocephalus" and share < SMALL_BRAIN
    case.truth.update(age_years=round(patient.age_years, 1), sex=sex, brain_share=round(share, 3), kind=kind)
    return replace(case, category=int(present), findings=(replace(finding("atrophy", present), id="f1"),))
