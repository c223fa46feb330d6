"""Every kind of case that can be simulated, in one table, and the one entry: `simulate`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from data.errors import SimulatorError
from data.simulate import ct_cases, image_cases, lesion_cases, population_cases, raw_cases, series_cases
from data.simulate.case import Recipe, SimulatedCase
from data.simulate.scene import Ask, check

GRADES = ("none", "mild", "moderate", "severe")

ROWS = (
    # ---------------------------------------------------------------- CT
    Recipe(
        "ct_haemorrhage",
        "head CT with or without blood (data.simulator); size's slices are not kept: the head's own number is",
        ("CT",),
        ("epidural", "subdural", "subarachnoid", "intraparenchymal", "intraventricular", "fracture"),
        ("no haemorrhage", "haemorrhage"),
        ("midline_shift_mm",),
        "CT",
        (28, 160, 160),
        (5.0, 1.4375, 1.4375),
        ("kind", "extent"),
    ),
    Recipe(
        "ct_oedema",
        "intraparenchymal haematoma with its perihaematomal oedema",
        ("CT",),
        ("intraparenchymal", "oedema"),
        (),
        ("age_hours",),
        "CT",
        (24, 160, 160),
        (5.0, 1.4375, 1.4375),
    ),
    Recipe(
        "ct_classes",
        "normal ageing, a lesion (infarct, tumour or blood) or the Alzheimer pattern",
        ("CT",),
        ("lesion",),
        ("normal ageing", "lesion", "alzheimer"),
        ("age_years",),
        "CT",
        (24, 128, 128),
        (5.0, 1.8, 1.8),
    ),
    Recipe(
        "low_dose_ct",
        "the same slices at a low and at the full dose, noise made in the projections; NOISELESS is the limit",
        ("LOW_DOSE", "FULL_DOSE", "NOISELESS"),
        (),
        (),
        ("dose_share",),
        "CT",
        (4, 256, 256),
        (5.0, 0.9, 0.9),
    ),
    # ---------------------------------------------------------------- tumours
    Recipe(
        "tumour_type",
        "one MR picture plane (axial, coronal or sagittal; mostly T1 with gadolinium) with at most one tumour",
        ("MR",),
        ("tumour",),
        ("glioma", "meningioma", "none", "pituitary"),
        ("sequence", "plane"),
        "MR",
        (1, 128, 128),
        (5.0, 1.7, 1.7),
    ),
    Recipe(
        "tumour_segmentation",
        "glioma, metastases or meningioma with oedema, core, enhancement, necrosis; masks are nested (whole > core > enhancing)",
        ("T1", "T1CE", "T2", "FLAIR"),
        ("whole", "core", "enhancing", "necrosis", "oedema"),
        ("glioma", "metastases", "meningioma"),
        (),
        "MR",
        (24, 128, 128),
        (4.0, 1.8, 1.8),
        ("kind",),
    ),
    Recipe(
        "flair_lesions",
        "FLAIR lesion of a glioma (mostly low grade) beside the age's own white-matter disease, which is not in the mask",
        ("T1", "FLAIR", "T1CE"),
        ("lesion", "white_matter_disease"),
        ("none", "lesion"),
        (),
        "MR",
        (20, 128, 128),
        (5.0, 1.8, 1.8),
    ),
    Recipe(
        "ms_plaques",
        "multiple sclerosis: periventricular, juxtacortical, infratentorial plaques, some enhancing",
        ("T1", "FLAIR", "T2", "T1CE"),
        ("lesion", "enhancing"),
        ("none", "plaques"),
        ("count",),
        "MR",
        (24, 128, 128),
        (4.0, 1.8, 1.8),
    ),
    Recipe(
        "white_matter_disease",
        "small-vessel white-matter disease, Fazekas 0 to 3",
        ("T1", "FLAIR", "T2"),
        ("lesion",),
        GRADES,
        ("fazekas", "age_years"),
        "MR",
        (24, 128, 128),
        (4.0, 1.8, 1.8),
    ),
    # ---------------------------------------------------------------- stroke, vessels
    Recipe(
        "dwi_infarct",
        "acute infarct (territorial, lacunar, embolic) or none; hyperacute to chronic by `hours`",
        ("DWI", "ADC", "FLAIR"),
        ("infarct",),
        ("none", "infarct"),
        ("hours", "territory", "volume_ml"),
        "MR",
        (24, 128, 128),
        (5.0, 1.8, 1.8),
        ("hours",),
    ),
    Recipe(
        "final_infarct",
        "infarct core, penumbra, and the final infarct of the same patient with and without treatment",
        ("DWI", "ADC", "FLAIR", "CBF", "CBV", "MTT", "TMAX"),
        ("core", "penumbra", "final", "final_treated", "final_untreated"),
        ("untreated", "treated"),
        ("treated", "hours", "reperfused"),
        "MR",
        (20, 96, 96),
        (6.0, 2.4, 2.4),
        ("treated",),
    ),
    Recipe(
        "microbleeds",
        "susceptibility-weighted magnitude with microbleeds and their mimics (calcification, vessels); PHASE in radians",
        ("SWI", "PHASE"),
        ("microbleed", "mimic"),
        (),
        ("microbleeds", "mimics"),
        "MR",
        (32, 192, 192),
        (2.0, 1.0, 1.0),
    ),
    # ---------------------------------------------------------------- anatomy, populations
    Recipe(
        "structures",
        "any contrast (SynthSeg-like random tissue contrast, or a real sequence's) for `SimulatedCase.structures`; T1 of the same head",
        ("IMAGE", "T1"),
        (),
        (),
        ("contrast", "volumes_ml"),
        "MR",
        (32, 128, 128),
        (1.5, 1.5, 1.5),
        ("contrast",),
    ),
    Recipe(
        "ad_classes",
        "T1 of a normal elder, stable MCI, MCI that converts, Alzheimer's disease; volumes as FreeSurfer would give them",
        ("T1",),
        (),
        ("normal", "mci_stable", "mci_converter", "alzheimer"),
        ("age_years", "sex", "volumes_ml", "mta_grade"),
        "MR",
        (64, 96, 96),
        (2.0, 2.0, 2.0),
    ),
    Recipe(
        "schizophrenia_pattern",
        "T1: larger ventricles, thinner frontal and temporal cortex, smaller hippocampus; effects of a group, weak in one person",
        ("T1",),
        (),
        ("control", "schizophrenia"),
        ("age_years", "sex", "volumes_ml"),
        "MR",
        (64, 96, 96),
        (2.0, 2.0, 2.0),
    ),
    Recipe(
        "huntington_pattern",
        "T1: striatal atrophy, controls, premanifest and manifest gene carriers",
        ("T1",),
        (),
        ("control", "premanifest", "manifest"),
        ("age_years", "sex", "volumes_ml"),
        "MR",
        (64, 96, 96),
        (2.0, 2.0, 2.0),
    ),
    Recipe(
        "hydrocephalus",
        "T1 and T2 with enlarged ventricles, tight at the vertex, or normal",
        ("T1", "T2", "FLAIR"),
        (),
        ("normal", "hydrocephalus"),
        ("evans_index", "age_years"),
        "MR",
        (24, 128, 128),
        (4.0, 1.8, 1.8),
    ),
    Recipe(
        "fmri_networks",
        "resting BOLD series with known networks; truth: time_courses (networks, time), maps (networks, slices, rows, columns), names",
        ("BOLD",),
        (),
        (),
        ("time_courses", "maps", "names", "repetition_s"),
        "MR",
        (20, 48, 48),
        (6.0, 4.5, 4.5),
        ("time",),
    ),
    # ---------------------------------------------------------------- image to image
    Recipe(
        "asl_boost",
        "one noisy ASL repetition, six averaged, CBF without noise, with PD and T2 of the same head",
        ("ASL", "ASL_SIX", "CBF", "PD", "T2"),
        (),
        (),
        ("label_efficiency",),
        "MR",
        (12, 96, 96),
        (6.0, 2.4, 2.4),
    ),
    Recipe(
        "super_resolution",
        "a low-resolution scan laid on the high-resolution grid, and the high-resolution one",
        ("LOW", "HIGH"),
        (),
        (),
        ("factor", "contrast"),
        "MR",
        (24, 160, 160),
        (1.2, 1.2, 1.2),
        ("factor",),
    ),
    Recipe(
        "seven_tesla",
        "the same head at 3 T and at 7 T (own T1 and T2*, more signal, B1 shading, finer)",
        ("T1_3T", "T1_7T"),
        (),
        (),
        (),
        "MR",
        (24, 160, 160),
        (1.2, 1.2, 1.2),
    ),
    Recipe(
        "dti_few_directions",
        "b0 and diffusion-weighted images, few directions; FA, MD (1e-6 mm2/s) and DIRECTION are the truth without noise",
        ("DIFFUSION", "FA", "MD", "DIRECTION"),
        ("brain",),
        (),
        ("gradients", "b_s_mm2", "snr"),
        "MR",
        (8, 96, 96),
        (2.4, 2.4, 2.4),
        ("directions",),
    ),
    Recipe(
        "t1_to_t2", "T1 and T2 of the same head, sometimes with a lesion", ("T1", "T2"), ("lesion",), (), (), "MR", (24, 128, 128), (3.0, 1.8, 1.8)
    ),
    Recipe(
        "mr_to_ct",
        "T1, T2 and CT (HU) of the same head with its skull, air and soft tissue",
        ("T1", "T2", "CT"),
        ("bone", "air", "soft"),
        (),
        (),
        "MR",
        (24, 144, 144),
        (3.0, 1.7, 1.7),
    ),
    Recipe(
        "mr_to_pet",
        "T1, FLAIR and FDG-PET (SUVR), some with the Alzheimer or a frontotemporal pattern of hypometabolism",
        ("T1", "FLAIR", "PET"),
        (),
        ("normal", "alzheimer", "frontotemporal"),
        ("age_years",),
        "MR",
        (24, 96, 96),
        (4.0, 2.4, 2.4),
    ),
    # ---------------------------------------------------------------- raw data
    Recipe(
        "reconstruction_cartesian",
        "truth: kspace complex64 (coils, slices, rows, columns), sensitivities likewise, mask_4x, mask_8x (rows,): phase lines kept",
        ("TARGET",),
        (),
        (),
        ("kspace", "sensitivities", "mask_4x", "mask_8x", "noise_sd"),
        "MR",
        (4, 160, 160),
        (5.0, 1.4, 1.4),
        ("coils",),
    ),
    Recipe(
        "reconstruction_radial",
        "truth: kspace complex64 (coils, slices, samples), trajectory (samples, 2) in cycles a pixel (row, column), density (samples,)",
        ("TARGET",),
        (),
        (),
        ("kspace", "sensitivities", "trajectory", "density", "noise_sd"),
        "MR",
        (2, 128, 128),
        (5.0, 1.8, 1.8),
        ("coils", "spokes"),
    ),
    Recipe(
        "reconstruction_spiral",
        "as reconstruction_radial, on interleaved spirals",
        ("TARGET",),
        (),
        (),
        ("kspace", "sensitivities", "trajectory", "density", "noise_sd"),
        "MR",
        (2, 128, 128),
        (5.0, 1.8, 1.8),
        ("coils", "interleaves"),
    ),
    Recipe("triage", "no images: the reading day is a queue simulation over findings and arrival times", modality=""),
)
RECIPES = {row.name: row for row in ROWS}

MAKERS: dict[str, Callable[[Ask], SimulatedCase]] = {
    "tumour_segmentation": lesion_cases.tumour_segmentation,
    "flair_lesions": lesion_cases.flair_lesions,
    "ms_plaques": lesion_cases.ms_plaques,
    "white_matter_disease": lesion_cases.white_matter_disease,
    "tumour_type": lesion_cases.tumour_type,
    "dwi_infarct": lesion_cases.dwi_infarct,
    "final_infarct": lesion_cases.final_infarct,
    "microbleeds": lesion_cases.microbleeds,
    "ct_haemorrhage": ct_cases.ct_haemorrhage,
    "ct_oedema": ct_cases.ct_oedema,
    "ct_classes": ct_cases.ct_classes,
    "low_dose_ct": ct_cases.low_dose_ct,
    "ad_classes": population_cases.ad_classes,
    "schizophrenia_pattern": population_cases.schizophrenia_pattern,
    "huntington_pattern": population_cases.huntington_pattern,
    "hydrocephalus": population_cases.hydrocephalus,
    "fmri_networks": series_cases.fmri_networks,
    "dti_few_directions": series_cases.dti_few_directions,
    "mr_to_ct": image_cases.mr_to_ct,
    "mr_to_pet": image_cases.mr_to_pet,
    "structures": image_cases.structures,
    "t1_to_t2": image_cases.t1_to_t2,
    "super_resolution": image_cases.super_resolution,
    "seven_tesla": image_cases.seven_tesla,
    "asl_boost": image_cases.asl_boost,
    "reconstruction_cartesian": raw_cases.reconstruction_cartesian,
    "reconstruction_radial": raw_cases.reconstruction_radial,
    "reconstruction_spiral": raw_cases.reconstruction_spiral,
}


def simulate(
    recipe: str,
    seed: int,
    *,
    size: tuple[int, int, int] | None = None,
    spacing_mm: tuple[float, float, float] | None = None,
    anatomy: Path | str | None = None,
    held_out: bool = False,
    slices: tuple[int, int] | int | None = None,
    **options: Any,
) -> SimulatedCase:
    """One simulated case; the same arguments give the same bytes.

    Args:
        size, spacing_mm: (slices, rows, columns) of the grid; None for the recipe's own.
        anatomy: None for the embedded MNI152 head, a label map file, or a folder of them (one is drawn; its last four are kept for held-out cases).
        held_out: other random numbers, held-out heads of the folder, scanner settings outside the training range.
        slices: (start, stop) to compute only these of the grid's slices, or a number of slices laid around the lesion.
        options: those of the recipe's row.
    Raises: SimulatorError for an unknown recipe or option, a grid that cannot be made, an anatomy that cannot be read.
    """
    if recipe not in RECIPES:
        raise SimulatorError(f"recipe is '{recipe}', expected one of {', '.join(RECIPES)}")
    if recipe not in MAKERS:
        raise SimulatorError(f"recipe '{recipe}' has no images; it is simulated by its own evaluation")
    row = RECIPES[recipe]
    unknown = sorted(set(options) - set(row.options))
    if unknown:
        raise SimulatorError(f"option '{unknown[0]}' does not belong to {recipe}, expected one of: {', '.join(row.options) or 'none'}")
    ask = Ask(recipe, int(seed), tuple(size or row.size), tuple(spacing_mm or row.spacing_mm), anatomy, bool(held_out), slices, options)  # type: ignore[arg-type]
    check(ask)
    return MAKERS[recipe](ask)
