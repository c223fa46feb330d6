"""Every imaging head, one row each: what it reads, what it answers, how it learns, what it is measured against."""
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.errors import InputError
from data.model_files import MODELS
from data.simulate.case import STRUCTURES
from vision.heads import floors

WEIGHTS = MODELS / "heads"


@dataclass(frozen=True)
class Head:
    """A row. Channels and outputs are named as in `data.simulate.recipes.RECIPES`.

    task decides how a case is drawn, learnt and scored (vision.heads.tasks.TASKS):
        outline    one mask an output, or one class a point where `exclusive`
        detect     as outline in two stages: candidates, then a judge of each
        image      one image an output, from `start` on where the answer is a change of an input
        category   one class a volume
        tissues    one class a volume, from how much there is of each tissue, and next to what
        picture    one class a picture
        volumes    one class a patient, from volumes, age and sex
        rebuild    an image from raw data, one output an undersampling
        series     the networks in a time series
        program    has programs of its own, named in `programs`
    """

    name: str
    what: str
    task: str
    recipe: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    metric: str                         # key of the figure that stands for the row
    bar: str
    published: str = ""                 # figure of the 2018 review or the set's own baseline, with its source
    floor: Callable[..., Any] | None = None
    floor_name: str = ""
    also: tuple[tuple[str, Callable[..., Any]], ...] = ()      # further methods to compare with
    parts: tuple[str, ...] = ()         # further figures that the bar names, or that belong beside the row's own
    modality: str = "MR"
    network: str = "unet"
    width: int = 12
    loss: str = "cross-entropy+dice"
    exclusive: bool = False
    start: str = ""                     # image: the input the answer is a change of
    series: int = 1                     # maps in a channel that is a series
    dimensions: int = 2                 # of a network of outlines or tissues: 3 reads a volume whole, on the grid that it was taught
    tissues_of: str = ""                # tissues: the row whose shipped net outlines them: the classes alone are fitted and ship
    ordered: bool = False               # tissues: the classes are stages of one disease
    better: str = "higher"              # of `metric`
    options: dict[str, Any] = field(default_factory=dict)      # keywords of the recipe
    real: str = ""                      # reader of real images in data.head_images.READERS, "" where there is none
    programs: tuple[str, str] | None = None     # (training, evaluation) of a row with programs of its own
    weights: str = ""                   # folder under data/models of such a row
    caveat: str = ""                    # told with each answer
    pair: str = ""                      # the row that answers the same patients under the other treatment

    @property
    def folder(self) -> Path:
        """Where the shipped weights and figures lie."""
        return MODELS / self.weights if self.weights else WEIGHTS / self.name


REVIEW = "2018 review"
PATTERN = ("taught on simulated heads alone, no patient was measured, and of one healthy man's head the pattern is answered (docs/heads.md): "
           "no evidence in one person")
CLASSED = ("category", "tissues", "picture", "volumes")        # tasks that answer with a class
TREATED = "beats the diffusion-perfusion mismatch rule and the shallow network; shows the treatment effect that the simulator put in"
OUTLINED = "simulated Dice >= 0.90, contrast-agnostic; real scans that packages ship: pictures, and volumes in the plausible range"
SHALLOW = (("shallow network", floors.shallow_network),)
SENSING = (("compressed sensing (total variation)", floors.compressed_sensing), ("U-Net", floors.plain_unet))
BLOOD = ("epidural", "subdural", "subarachnoid", "intraparenchymal", "intraventricular")
FINDINGS = {"task": "program", "programs": ("vision.train_findings", "vision.evaluate_findings"), "weights": "findings", "modality": "CT",
            "network": "encoder and picture net", "loss": "cross-entropy+dice"}

ROWS = (
    # ---------------------------------------------------------------- CT
    Head("ct_haemorrhage", "haemorrhage present in a head CT, and its kind", recipe="ct_haemorrhage", inputs=("CT",),
         outputs=BLOOD, metric="auc", parts=("accuracy",),
         bar="real: simulation alone, mean of five seeds, AUC >= 0.97 on head_ct and on size-matched phe_sich slices; simulation and real, 5 folds "
             "by group: AUC >= 0.99, accuracy >= 0.96",
         published=f"98 % of 20 cases, transfer from 80 ({REVIEW}); small CNN from scratch 0.978 / 0.93", floor_name="mean grey", **{**FINDINGS,
         "programs": ("vision.train_findings", "vision.evaluate_haemorrhage")}),
    Head("ct_haemorrhage_outlines", "outlines of the blood on head CT, mL by kind", recipe="ct_haemorrhage", inputs=("CT",),
         outputs=BLOOD, metric="dice", parts=tuple(f"dice {kind}" for kind in BLOOD),
         bar="simulated Dice >= 0.88 per subtype, thin subdural and epidural blood included",
         **FINDINGS),
    Head("perihaematomal_oedema", "oedema around an intraparenchymal haematoma on CT, mL", "outline", "ct_oedema", ("CT",), ("oedema",), "dice",
         "real phe_sich (its masks are oedema, not blood): Dice >= 0.55 by patient", "Dice 0.39 (PHE-SICH-CT-IDS repository)", floors.threshold,
         "a threshold", modality="CT",
         real="phe_sich"),
    Head("ct_classes", "normal ageing, a lesion or the Alzheimer pattern on CT", "category", "ct_classes", ("CT",),
         ("normal ageing", "lesion", "alzheimer"), "accuracy", "simulated accuracy >= 0.93", f"88 % ({REVIEW})", floors.grey_levels,
         "grey levels, logistic regression",
         modality="CT", network="slices", loss="cross-entropy", parts=("auc",)),
    Head("low_dose_ct", "noise taken out of a low-dose CT", "image", "low_dose_ct", ("LOW_DOSE",), ("FULL_DOSE",), "ssim",
         "SSIM, PSNR, error against BM3D or non-local means", "", floors.non_local_means, "non-local means", modality="CT", loss="l1+ssim",
         start="LOW_DOSE", parts=("psnr", "mae")),
    # ---------------------------------------------------------------- tumours, lesions
    Head("tumour_type", "glioma, meningioma, pituitary tumour or none on one MR picture: a demonstration, 'none' is readable from the sequence",
         "picture", "tumour_type", ("MR",), ("glioma", "meningioma", "none", "pituitary"), "accuracy",
         "real tumor4, split by group: accuracy >= 0.92",
         "small CNN 0.76-0.83", floors.grey_levels, "grey levels, logistic regression", network="picture net", loss="cross-entropy", real="tumor4"),
    Head("tumour_segmentation", "whole tumour, core and enhancing part on MR, mL", "outline", "tumour_segmentation", ("T1", "T1CE", "T2", "FLAIR"),
         ("whole", "core", "enhancing"), "dice", "simulated Dice: whole >= 0.90, core >= 0.85, enhancing >= 0.82", f"0.72-0.87 ({REVIEW})",
         floors.threshold, "a threshold",
         width=20, parts=("dice whole", "dice core", "dice enhancing")),
    Head("flair_lesions", "lesion on FLAIR, mL", "outline", "flair_lesions", ("FLAIR",), ("lesion",), "dice",
         "real lgg_flair, 5 folds by patient: mean Dice >= 0.88; taught sites DU + HT, tested on CS + FG: >= 0.84; simulation only >= 0.65",
         f"0.88 ({REVIEW}); small U-Net 0.78", floors.threshold,
         "a threshold",
         real="lgg_flair"),
    Head("white_matter_lesions", "small-vessel white-matter lesions on FLAIR, mL", "outline", "white_matter_disease", ("FLAIR",), ("lesion",), "dice",
         "simulated Dice >= 0.70", "", floors.threshold, "a threshold"),
    Head("microbleeds", "microbleeds on SWI, counted", "detect", "microbleeds", ("SWI",), ("microbleed",), "sensitivity",
         ">= 0.95 at <= 1 false positive a subject simulated, mimics included", f"93 % at 3 false positives a subject ({REVIEW})", floors.dark_spots,
         "dark round spots",
         network="two stages", parts=("false_positives_a_case", "mimics_taken")),
    # ---------------------------------------------------------------- stroke
    Head("dwi_infarct", "acute infarct on DWI, mL, in two stages", "detect", "dwi_infarct", ("DWI", "ADC"), ("infarct",), "dice",
         "simulated: >= 0.97 detected, Dice >= 0.80", f"94 % detected, Dice 0.67 ({REVIEW})", floors.threshold, "a threshold", network="two stages",
         parts=("detected", "false_positives_a_case", "clean")),
    Head("chronic_infarct", "infarct older than a month on FLAIR, mL", "outline", "chronic_infarct", ("FLAIR",), ("infarct",), "dice",
         "simulated Dice >= 0.80", "", floors.threshold, "a threshold", parts=("detected", "false_ml")),
    Head("final_infarct_untreated", "final infarct from DWI and perfusion if the vessel is not reopened, mL", "outline", "final_infarct",
         ("DWI", "ADC", "CBF", "CBV", "MTT", "TMAX"), ("final_untreated",), "dice", TREATED,
         f"better than the mismatch rule and a shallow network ({REVIEW})", floors.mismatch, "Tmax > 6 s", width=10,
         also=SHALLOW, pair="final_infarct_treated"),
    Head("final_infarct_treated", "final infarct from DWI and perfusion if the vessel is reopened, mL", "outline", "final_infarct",
         ("DWI", "ADC", "CBF", "CBV", "MTT", "TMAX"), ("final_treated",), "dice", TREATED,
         f"better than the mismatch rule and a shallow network ({REVIEW})", floors.mismatch, "ADC < 620e-6 mm2/s", width=10,
         also=SHALLOW, pair="final_infarct_untreated"),
    # ---------------------------------------------------------------- anatomy, populations
    Head("structures", "grey and white matter, CSF, ventricles, deep nuclei, hippocampus on any MR contrast, mL", "outline", "structures", ("IMAGE",),
         STRUCTURES[1:], "dice", OUTLINED, "", floors.brightness_classes, "brightness classes", exclusive=True, width=16,
         parts=tuple(f"dice {name}" for name in STRUCTURES[1:])),
    Head("t1_structures", "grey and white matter, CSF, ventricles, deep nuclei, hippocampus on a T1 of the whole head, mL", "outline", "ad_classes",
         ("T1",), STRUCTURES[1:], "dice", OUTLINED.replace(", contrast-agnostic", ""), "", floors.brightness_classes, "brightness classes",
         network="unet, three dimensions", exclusive=True, width=16, dimensions=3, parts=tuple(f"dice {name}" for name in STRUCTURES[1:])),
    Head("ad_stages", "normal, stable MCI, converting MCI or Alzheimer's disease on T1", "tissues", "ad_classes", ("T1",),
         ("normal", "mci_stable", "mci_converter", "alzheimer"), "accuracy", "better than volumes alone",
         f"AUC 0.97 / 63 % / 54 % for 2 / 3 / 4 classes ({REVIEW})",
         floors.volume_regression, "volumes, logistic regression", network="tissues and neighbours", loss="cross-entropy", width=16,
         dimensions=3, tissues_of="t1_structures", ordered=True, parts=("auc", "auc normal against alzheimer", "ece")),
    Head("ad_volumes", "normal, stable MCI, converting MCI or Alzheimer's disease from volumes, age and sex", "volumes", "ad_classes", (),
         ("normal", "mci_stable", "mci_converter", "alzheimer"), "accuracy",
         "real OASIS-1 (volumes, age, sex; no MMSE), dementia or not: AUC >= 0.725",
         "AUC 0.725 (OASIS-1, volumes and age)",
         floors.volume_regression, "volumes, logistic regression", network="logistic regression", loss="cross-entropy", real="oasis",
         parts=("auc", "auc normal against alzheimer", "accuracy, MCI as one")),
    Head("schizophrenia_pattern", "schizophrenia-like pattern of brain shape on T1: of a group, weak in one person", "tissues",
         "schizophrenia_pattern",
         ("T1",), ("control", "schizophrenia"), "auc", "simulated truth: better than volumes alone", f"named in the {REVIEW}, no figure",
         floors.volume_regression,
         "volumes, logistic regression", network="tissues and neighbours", loss="cross-entropy+dice", width=16, dimensions=3, caveat=PATTERN,
         parts=("accuracy", "ece")),
    Head("huntington_pattern", "Huntington-like striatal atrophy on T1", "tissues", "huntington_pattern", ("T1",),
         ("control", "premanifest", "manifest"),
         "accuracy", "simulated truth: better than volumes alone", f"named in the {REVIEW}, no figure", floors.volume_regression,
         "volumes, logistic regression",
         network="tissues and neighbours", loss="cross-entropy+dice", width=16, dimensions=3, caveat=PATTERN, parts=("auc", "ece")),
    Head("fmri_networks", "resting networks by an autoencoder of the next time point", "series", "fmri_networks", ("BOLD",), ("networks",),
         "map_correlation",
         "simulated truth: against ICA (scikit-learn) for the networks", f"named in the {REVIEW}, no figure", floors.independent_components,
         "ICA (scikit-learn)", network="next time point",
         loss="mse", also=(("ICA, its maps cut as the head's are", floors.components_cut),)),
    # ---------------------------------------------------------------- image to image
    Head("asl_boost", "six ASL repetitions' quality from one, with PD and T2", "image", "asl_boost", ("ASL", "PD", "T2"), ("ASL_SIX",),
         "rmse_percent",
         "RMSE 29.3 % -> 10.8 %: same or better ratio (2.7)", f"29.3 % -> 10.8 % ({REVIEW})", floors.as_it_is, "one repetition", loss="l1+ssim",
         start="ASL",
         better="lower", width=10, parts=("ssim",)),
    Head("super_resolution", "a high-resolution MR image from a low-resolution one", "image", "super_resolution", ("LOW",), ("HIGH",), "ssim",
         "SSIM, PSNR, error against bicubic", "", floors.bicubic, "bicubic", loss="l1+ssim", start="LOW",
         also=(("sinc, as the scanner lays it", floors.as_it_is),), parts=("psnr", "mae")),
    Head("seven_tesla", "a 7T-like T1 from one at 3T", "image", "seven_tesla", ("T1_3T",), ("T1_7T",), "ssim",
         "SSIM, PSNR, error against linear mapping",
         "",
         floors.voxel_regression, "voxel-wise regression", loss="l1+ssim+adversarial", start="T1_3T", parts=("psnr", "mae")),
    Head("dti_few_directions", "FA and MD from six diffusion directions", "image", "dti_few_directions", ("DIFFUSION",), ("FA", "MD"), "rmse_fa",
         "FA and MD from 12 times fewer directions; on dipy's real crops FA RMSE with 6 directions <= 0.13",
         "least squares 0.264 (dipy small_64D, 6 directions)", floors.tensor_fit, "least squares tensor",
         loss="l1",
         series=7, options={"directions": 6}, better="lower", real="dipy", parts=("rmse_md", "ssim_fa", "ssim_md")),
    Head("t1_to_t2", "a T2-like image from T1", "image", "t1_to_t2", ("T1",), ("T2",), "ssim", "against the best voxel-wise regression", "",
         floors.voxel_regression, "voxel-wise regression", loss="l1+ssim", width=10, parts=("psnr", "mae")),
    Head("t2_to_t1", "a T1-like image from T2", "image", "t1_to_t2", ("T2",), ("T1",), "ssim", "against the best voxel-wise regression", "",
         floors.voxel_regression, "voxel-wise regression", loss="l1+ssim", width=10, parts=("psnr", "mae")),
    Head("t1_to_flair", "a FLAIR-like image from T1 before and after gadolinium", "image", "flair_lesions", ("T1", "T1CE"), ("FLAIR",), "ssim",
         "real lgg_flair, complete cases: SSIM, and Dice of the frozen lesion segmenter on the synthetic FLAIR >= 0.75 of that on the real one", "",
         floors.voxel_regression, "voxel-wise regression",
         loss="l1+ssim+adversarial", real="lgg_flair"),
    Head("mr_to_ct", "a CT-like image from T1 and T2, HU", "image", "mr_to_ct", ("T1", "T2"), ("CT",), "mae",
         "against the best voxel-wise regression (HU error in bone, soft tissue, air)",
         "",
         floors.voxel_regression, "voxel-wise regression", loss="l1", better="lower", width=10, parts=("mae_bone", "mae_soft", "mae_air")),
    Head("mr_to_pet", "an FDG-PET-like image from T1 and FLAIR, SUVR", "image", "mr_to_pet", ("T1", "FLAIR"), ("PET",), "rmse_percent",
         "against the best voxel-wise regression", "", floors.voxel_regression, "voxel-wise regression", loss="l1+ssim", better="lower", width=10,
         parts=("ssim",)),
    # ---------------------------------------------------------------- raw data
    Head("reconstruction_cartesian", "an image from 4 and 8 times fewer Cartesian lines, several coils", "rebuild", "reconstruction_cartesian",
         ("kspace",),
         ("4x", "8x"), "ssim", "better than zero-filled, compressed sensing and U-Net", "", floors.zero_filled, "zero-filled", network="unrolled",
         loss="l1+ssim", also=SENSING,
         parts=("ssim 4x", "ssim 8x", "nmse 4x", "nmse 8x")),
    Head("reconstruction_radial", "an image from few radial spokes, several coils", "rebuild", "reconstruction_radial", ("kspace",), ("radial",),
         "ssim",
         "better than gridding, compressed sensing and U-Net", "", floors.zero_filled, "gridding", network="unrolled", loss="l1+ssim", also=SENSING,
         parts=("nmse",)),
    Head("reconstruction_spiral", "an image from few spiral arms, several coils", "rebuild", "reconstruction_spiral", ("kspace",), ("spiral",),
         "ssim",
         "better than gridding, compressed sensing and U-Net", "", floors.zero_filled, "gridding", network="unrolled", loss="l1+ssim", also=SENSING,
         parts=("nmse",)),
    # ---------------------------------------------------------------- what is done with them
    Head("triage", "a replayed reading day: how long a critical study waits", "program", "triage", (), ("minutes to a critical study",),
         "minutes_saved",
         "time to a critical study against first in, first out, by queue simulation", "", floor_name="first in, first out", modality="",
         network="none", loss="none",
         programs=("", "vision.triage")),
)
HEADS = {row.name: row for row in ROWS}


def head_named(name: str) -> Head:
    if name not in HEADS:
        raise InputError(f"NAME is '{name}', expected one of {', '.join(HEADS)}")
    return HEADS[name]
