"""What all makers of cases share: the patient at the start, the case at the end."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.records import Finding
from data.simulate.anatomy import WHITE
from data.simulate.case import STRUCTURES, Floats, SimulatedCase
from data.simulate.scene import Ask, Scene, key_of
from data.simulate.signal import Layer, Look, draw_look, mask_of
from data.simulate.tissue import Tissues, draw_tissues


@dataclass
class Patient:
    """One patient on the table: the scene, own tissue values, the scanner's look, and separate random streams for disease and sequences."""

    scene: Scene
    tissues: Tissues
    look: Look
    disease: np.random.Generator
    scanner: np.random.Generator
    age_years: float


def start(
    ask: Ask,
    plane: str = "axial",
    steady: bool = False,
    noise: tuple[float, float] = (0.008, 0.045),
    ages: tuple[float, float] = (18, 90),
    tesla: float | None = None,
    spread: float = 1.0,
) -> Patient:
    scene = Scene(ask, plane, steady)
    keys = [ask.seed, key_of(ask.recipe), 7 + ask.held_out]
    person, disease, scanner = (np.random.default_rng([*keys, i]) for i in range(3))
    age = float(person.uniform(*ages))
    tissues = draw_tissues(person, spread * (1.5 if ask.held_out else 1.0))
    if ask.options.get("age_years") is not None:
        age = float(ask.options["age_years"])
        unripe = float(np.exp(-age / 0.7))  # of myelin: T1 and T2 then lie beyond those of grey matter. Paus 2001 (Brain Res Bull 54:255)
        tissues.t1[WHITE], tissues.t2[WHITE] = tissues.t1[WHITE] * (1 + 1.4 * unripe), tissues.t2[WHITE] * (1 + 1.8 * unripe)
    if tesla is None:
        tesla = float(scanner.choice((1.5, 3.0)))
    return Patient(scene, tissues.at_field(tesla), draw_look(scanner, ask.held_out, noise), disease, scanner, age)


def grow_old(
    patient: Patient,
    extra_ventricles_mm: float = 0.0,
    extra_sulci_mm: float = 0.0,
    extra_hippocampus_mm: tuple[float, float] = (0.0, 0.0),
    regional_mm: Callable[[list[Floats]], Floats] | None = None,
    filled: float | None = None,
) -> None:
    """Displace for the patient's age, with the spread between people of one age."""
    rng = np.random.default_rng([patient.scene.ask.seed, 5])
    age = patient.age_years
    ventricles = (age - 52) * 0.03 + rng.normal(0, 0.8) + extra_ventricles_mm
    sulci = sulci_mm(age, extra_sulci_mm, rng)
    shared, left = max(0.0, (age - 60) * 0.009) + rng.normal(0, 0.12), rng.normal(0, 0.06)
    hippocampus = (max(0.0, shared + extra_hippocampus_mm[0]), max(0.0, shared + left + extra_hippocampus_mm[1]))
    if filled is None:
        filled = filled_sulci(age, extra_sulci_mm, rng)
    patient.scene.age(ventricles, sulci, hippocampus, filled, regional_mm)


def sulci_mm(age_years: float, extra_mm: float, rng: np.random.Generator) -> float:
    return max(0.0, (age_years - 50) * 0.009 + float(rng.normal(0, 0.12)) + extra_mm)


def filled_sulci(age_years: float, extra_mm: float, rng: np.random.Generator) -> float:
    """How far the sulci of the young are closed."""
    return max(0.0, (40 - age_years) / 60 + float(rng.normal(0, 0.08))) if extra_mm <= 0 else 0.0


def finish(
    patient: Patient,
    channels: dict[str, Floats],
    found: dict[str, list[Layer]] | None = None,
    masks: dict[str, NDArray[np.uint8]] | None = None,
    names: tuple[str, ...] = (),
    level: float = 0.5,
    category: int | None = None,
    findings: tuple[Finding, ...] = (),
    truth: dict[str, Any] | None = None,
    modality: str = "MR",
) -> SimulatedCase:
    """The case; masks named but not found are empty."""
    scene = patient.scene
    made = {name: mask_of(scene, (found or {}).get(name, []), level) for name in names}
    made.update(masks or {})
    numbered = tuple(replace(f, id=f"f{i + 1}") for i, f in enumerate(findings))
    return SimulatedCase(
        scene.ask.recipe,
        scene.ask.seed,
        {name: np.ascontiguousarray(image, np.float32) for name, image in channels.items()},
        made,
        scene.structures(),
        scene.sides(),
        scene.affine(),
        tuple(float(s) for s in scene.ask.spacing_mm),
        modality,
        category,  # type: ignore[arg-type]
        numbered,
        truth or {},
        scene.head.name,
        scene.ask.held_out,
    )


def volumes_of(case_structures: NDArray[np.uint8], voxel_ml: float) -> dict[str, float]:
    counts = np.bincount(case_structures.ravel(), minlength=len(STRUCTURES))
    return {name: round(float(n) * voxel_ml, 2) for name, n in zip(STRUCTURES, counts, strict=True) if name != "background"}
