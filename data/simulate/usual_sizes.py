"""What is usual at an age, and what it takes to give a head those sizes.

The labelled heads are people of all ages, some with dementia: their hippocampi are 0.27 to 0.66 % of the inner skull. A disease laid over a head's
own size would call people healthy who have the hippocampus of a patient, and sixteen heads are no population. So a person gets a size first.
"""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from data.simulate.anatomy import HIPPOCAMPUS, VENTRICLE, read_head
from data.simulate.build import Patient, filled_sulci, sulci_mm
from data.simulate.case import STRUCTURES, Floats
from data.simulate.scene import widening

SKULL_ML = 1500.0
# (age in years, both hippocampi in mL within SKULL_ML). Level and spread: 3.8 (0.46) mL a side (Turk J Med Sci 2019, 49:1476); the fall with age is
# steeper from the sixties on (Nobis 2019, NeuroImage Clin 23:101904).
HIPPOCAMPI = ((20.0, 7.9), (50.0, 7.7), (65.0, 7.3), (75.0, 6.8), (90.0, 5.9))
# (age in years, all ventricles in mL). 16 mL in the twenties, 25 in the forties (Chung 2006, Neurosci Lett 395:155); a fifth more each decade, more
# from the sixth on (Kaye 1992, J Am Geriatr Soc 40:225).
VENTRICLES = ((20.0, 15.0), (25.0, 16.0), (45.0, 24.0), (60.0, 30.0), (75.0, 40.0), (90.0, 54.0))
HIPPOCAMPI_SPREAD, SIDES_SPREAD, VENTRICLES_SPREAD = 0.1, 0.03, 0.3     # of the logarithm, at one age
# both, below what nineteen in twenty people of 75 have: small at any age, as the old have the smallest
SMALL_HIPPOCAMPI_ML = float(np.interp(75.0, *zip(*HIPPOCAMPI, strict=True))) * float(np.exp(-1.645 * HIPPOCAMPI_SPREAD))
# share of the brain in all inside the skull, below what nineteen in twenty people of 70 to 80 without dementia have: 0.69 of 35 in OASIS-1 (nWBV:
# Fotenos 2005, Neurology 64:1032), less 0.07, as all fluid of the base counts here (Colin27, 27 years old, has 0.77; OASIS 0.85 at that age)
SMALL_BRAIN = 0.62
REACH_MM = 22.0                                     # what grows or shrinks with a hippocampus
PUSHES_MM = np.linspace(-8.0, 14.0, 45)


def grow_usual(patient: Patient, ventricles_ratio: float = 1.0, hippocampus_lost: tuple[float, float] = (0.0, 0.0), extra_sulci_mm: float = 0.0,
               regional_mm: Callable[[list[Floats]], Floats] | None = None, filled: float | None = None) -> None:
    """As `grow_old`, but from sizes that are usual at the age: ventricles `ventricles_ratio` as large, each hippocampus less the share lost."""
    rng = np.random.default_rng([patient.scene.ask.seed, 9])
    scene, age = patient.scene, patient.age_years
    skull, hippocampi, rim = sizes_of(scene.source)
    wanted_ml = usual(HIPPOCAMPI, age) / 2 * float(np.exp(rng.normal(0, HIPPOCAMPI_SPREAD))) * skull / SKULL_ML
    for centre, own_ml in hippocampi:
        grown = float(np.cbrt(wanted_ml * np.exp(rng.normal(0, SIDES_SPREAD)) / own_ml))
        scene.shrink(centre, REACH_MM, 1 - min(max(grown, 0.75), 1.35))
    ventricles_ml = usual(VENTRICLES, age) * float(np.exp(rng.normal(0, VENTRICLES_SPREAD))) * ventricles_ratio * skull / SKULL_ML
    pushed = float(np.interp(ventricles_ml, widths_of(scene.source), PUSHES_MM))
    sulci = sulci_mm(age, extra_sulci_mm, rng)
    if filled is None:
        filled = filled_sulci(age, extra_sulci_mm, rng)
    lost_mm = tuple(float(np.quantile(rim, min(max(lost, 0.0), 0.9))) if lost > 0 else 0.0 for lost in hippocampus_lost)
    scene.age(pushed, sulci, (lost_mm[0], lost_mm[1]), filled, regional_mm)


def hippocampi_ml(structures: NDArray[np.uint8], sides: NDArray[np.uint8]) -> float:
    """Both, in an inner skull of SKULL_ML."""
    return float((structures == STRUCTURES.index("hippocampus")).sum()) / max(float((sides > 0).sum()), 1.0) * SKULL_ML


def brain_share(structures: NDArray[np.uint8]) -> float:
    """Of brain and fluid."""
    counts = np.bincount(structures.ravel(), minlength=len(STRUCTURES)).astype(float)
    fluid = counts[STRUCTURES.index("CSF")] + counts[STRUCTURES.index("ventricles")]
    return 1 - float(fluid / max(counts[1:].sum(), 1.0))


def usual(table: tuple[tuple[float, float], ...], age_years: float) -> float:
    return float(np.interp(age_years, *zip(*table, strict=True)))


@lru_cache(maxsize=24)
def sizes_of(source: str) -> tuple[float, tuple[tuple[NDArray[np.float64], float], ...], NDArray[np.float32]]:
    """(inner skull in mL, (middle in head mm, mL) of each hippocampus, depths of the hippocampi's voxels below their surface in mm, sorted)."""
    head = read_head(source)
    at = np.argwhere(head.tissue == HIPPOCAMPUS)
    right = head.lateral(list(at.T.astype(np.float32))) > 0
    rim = np.sort(head.rim[tuple(at.T)].astype(np.float32) / 64)
    sides = tuple((at[side].mean(0), float(side.sum()) / 1000) for side in (right, ~right))
    return float((head.depth > 0).sum()) * 0.008, sides, rim


@lru_cache(maxsize=24)
def widths_of(source: str) -> tuple[float, ...]:
    """mL of the ventricles at each of PUSHES_MM."""
    head = read_head(source)
    here = (head.ventricle < 24) & (head.depth > 0)
    near, depth = head.ventricle[here].astype(np.float32), head.depth[here].astype(np.float32)
    height = head.standard([axis.astype(np.float32) * 2 for axis in np.nonzero(here)])[2]
    border = near - np.sign(near)               # the coarse field counts from the middle of the next voxel, 2 mm wide
    own_ml, at_rest_ml = float((head.tissue == VENTRICLE).sum()) / 1000, float((border < 0).sum()) * 0.008
    return tuple(float((border < widening(push, near, depth, height)).sum()) * 0.008 * own_ml / at_rest_ml for push in PUSHES_MM)
