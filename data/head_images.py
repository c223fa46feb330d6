"""Real images for the heads: a department's own patients (NIfTI), and the public sets that the heads are judged on."""
import csv
import io
import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.optimize import linear_sum_assignment

from data.diffusion import SIX, anisotropy, fit, signals_of
from data.errors import InputError, OutputError
from data.images import read_nifti
from data.labelled_pictures import read_rows


@dataclass(frozen=True)
class ImageCase:
    """As data.simulate.case.SimulatedCase, of a real patient."""

    patient: str
    channels: dict[str, NDArray[np.float32]]
    masks: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    structures: NDArray[np.uint8] | None = None
    category: int | None = None
    spacing_mm: tuple[float, float, float] = (5.0, 1.8, 1.8)
    truth: dict[str, Any] = field(default_factory=dict)
    site: str = ""                      # the hospital
    group: str = ""                     # of near-duplicates

    @property
    def kept_whole(self) -> str:
        """What no split may part: near-duplicates where a set says which they are, else the patient."""
        return f"group {self.group}" if self.group else self.patient


def own_cases(folder: Path, inputs: Sequence[str], outputs: Sequence[str], modality: str) -> list[ImageCase]:
    """A folder a patient: CHANNEL.nii.gz for each input, OUTPUT.nii.gz for each mask or image target, and what is known in patient.json.

    patient.json: category (a name of the outputs, or its place among them from 0), age_years, sex, volumes_ml.
    Raises InputError naming the patient's folder and the file that is missing, cannot be read or lies on another grid.
    """
    cases = []
    for place in sorted(p for p in folder.iterdir() if p.is_dir()):
        channels, masks, spacing = {}, {}, (1.0, 1.0, 1.0)
        numbers = known_of(place, outputs)
        for name in (*inputs, *outputs):
            path = next((p for p in (place / f"{name}.nii.gz", place / f"{name}.nii") if p.exists()), None)
            if path is None:
                if name in outputs and "category" in numbers:
                    continue
                raise InputError(f"{place.name} has no {name}.nii.gz; each patient's folder needs {', '.join((*inputs, *outputs))}")
            volume = read_nifti(path).volumes[0]
            shape = next(iter(channels.values())).shape if channels else volume.pixels.shape
            if volume.pixels.shape != shape:
                raise InputError(f"{place.name}/{name} is {volume.pixels.shape}, the first channel {shape}; bring them to one grid")
            assert volume.spacing_mm is not None
            spacing = volume.spacing_mm
            channels[name] = volume.pixels
            if name in outputs:
                masks[name] = (volume.pixels > 0.5).astype(np.uint8)
        cases.append(ImageCase(place.name, channels, masks, None, numbers.get("category"), spacing,
                               {k: v for k, v in numbers.items() if k != "category"}))
    if not cases:
        raise InputError(f"{folder} holds no folder of a patient; one folder each, with {', '.join(inputs)} as NIfTI")
    return cases


def known_of(place: Path, outputs: Sequence[str]) -> dict[str, Any]:
    path = place / "patient.json"
    if not path.exists():
        return {}
    try:
        numbers = dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{place.name}/patient.json is no JSON object ({type(error).__name__}); write category, age_years, sex") from None
    category = numbers.get("category")
    if category in outputs:
        numbers["category"] = list(outputs).index(category)
    elif category is not None and not (isinstance(category, int) and 0 <= category < len(outputs)):
        raise InputError(f"category in {place.name}/patient.json is {category!r}, expected one of {', '.join(outputs)}, or 0 to {len(outputs) - 1}")
    return numbers


def read_lgg_flair(folder: Path, complete: bool = False) -> list[ImageCase]:
    """TCGA-LGG: T1, FLAIR and T1CE side by side, one case a patient; `complete` leaves out those whose missing sequences are copies of FLAIR."""
    rows = read_rows(folder / "index.csv", {"row", "case", "site", "slice", "pre_is_flair", "post_is_flair"})
    masks = np.unpackbits(np.load(folder / "masks128.npz")["masks"], axis=-1)
    patients: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        patients.setdefault(row["case"], []).append(row)
    cases = []
    with zipfile.ZipFile(folder / "strips.zip") as archive:
        for patient, own in patients.items():
            if complete and any(row["pre_is_flair"] == "1" or row["post_is_flair"] == "1" for row in own):
                continue
            own.sort(key=lambda row: int(row["slice"]))
            strips = np.stack([read_grey(archive.read(f"{int(row['row']):04d}.jpg")) for row in own])
            thirds = np.split(strips.astype(np.float32), 3, axis=2)
            mask = np.stack([masks[int(row["row"])] for row in own]).astype(np.uint8)
            cases.append(ImageCase(patient, dict(zip(("T1", "FLAIR", "T1CE"), thirds, strict=True)), {"lesion": mask}, site=own[0]["site"]))
    return cases


def read_phe_sich(folder: Path) -> list[ImageCase]:
    """PHE-SICH: CT slices in a brain window (taken as 0 to 80 HU) with oedema outlines, one case a patient."""
    rows = read_rows(folder / "index.csv", {"slice", "patient", "k", "phe_px512"})
    patients: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        patients.setdefault(row["patient"], []).append(row)
    cases = []
    with zipfile.ZipFile(folder / "images.zip") as archive:
        for patient, own in patients.items():
            own.sort(key=lambda row: int(row["k"]))
            grey = np.stack([read_grey(archive.read(f"{row['slice']}.jpg")) for row in own]).astype(np.float32) / 255
            mask = np.zeros(grey.shape, np.uint8)
            for i, row in enumerate(own):
                if int(row["phe_px512"]):
                    outline = Image.fromarray(read_grey(archive.read(f"{row['slice']}_phe.png"))).resize(grey.shape[:0:-1], Image.Resampling.NEAREST)
                    mask[i] = np.asarray(outline) > 127
            hu = np.where(grey > 0.97, 900, np.where(grey > 0.02, grey * 80, -1000)).astype(np.float32)
            cases.append(ImageCase(patient, {"CT": hu}, {"oedema": mask}, spacing_mm=(5.0, 1.2, 1.2)))
    return cases


def read_tumor4(folder: Path) -> list[ImageCase]:
    """One MR picture a case; near-duplicates share a group."""
    kinds = ("glioma", "meningioma", "notumor", "pituitary")
    rows = read_rows(folder / "index.csv", {"file", "label", "group"})
    with zipfile.ZipFile(folder / "images.zip") as archive:
        return [ImageCase(row["file"], {"MR": read_grey(archive.read(row["file"])).astype(np.float32)[None]}, category=kinds.index(row["label"]),
                          spacing_mm=(5.0, 1.9, 1.9), group=row["group"]) for row in rows]


def read_oasis(folder: Path) -> list[ImageCase]:
    """OASIS-1 from the age of 60: volumes, age and sex; category 1 is any dementia (CDR above 0). MMSE is left out: it is what the CDR rests on."""
    cases = []
    with (folder / "oasis_cross-sectional.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if row["CDR"] in ("", "N/A") or int(row["Age"]) < 60:
                continue
            intracranial = float(row["eTIV"])
            numbers = {"age_years": float(row["Age"]), "sex": row["M/F"],
                       "volumes_ml": {"intracranial": intracranial, "brain": intracranial * float(row["nWBV"])}}
            cases.append(ImageCase(row["ID"], {}, category=int(float(row["CDR"]) > 0), truth=numbers))
    return cases


def read_dipy(folder: Path) -> list[ImageCase]:
    """A crop of a real brain in 64 diffusion directions that dipy ships (no folder needed); a case is six of them, the truth the tensor of all.

    The six are brought to the six that the head knows: six signals and b0 are one tensor, and the other way round. Empty without dipy.
    """
    spec = find_spec("dipy")
    if spec is None or not spec.submodule_search_locations:
        return []
    place = Path(spec.submodule_search_locations[0]) / "data" / "files"
    series = np.asarray(nibabel.load(place / "small_64D.nii").dataobj, np.float32).transpose(3, 2, 1, 0)  # type: ignore[attr-defined]  # nibabel's own types miss it
    b, ways = np.loadtxt(place / "small_64D.bval"), np.nan_to_num(np.loadtxt(place / "small_64D.bvec"))
    fa, md = anisotropy(fit(series, ways, b))
    brain = (series[0] > 0.1 * np.quantile(series[0], 0.95)).astype(np.uint8)
    rng, cases = np.random.default_rng(0), []
    known, strength = np.concatenate([[[0.0, 0.0, 0.0]], SIX]), np.concatenate([[0.0], np.full(6, 1000.0)])
    for k in range(8):
        six = [0, *spread_six(ways, rng)]
        signals = signals_of(fit(series[six], ways[six], b[six]), known, strength)
        cases.append(ImageCase(f"small_64D-{k}", {"DIFFUSION": signals, "FA": fa, "MD": 1000 * md}, {"brain": brain}, spacing_mm=(2.0, 2.0, 2.0),
                               truth={"gradients": np.c_[known, strength].astype(np.float32)}))
    return cases


def spread_six(ways: NDArray[np.float64], rng: np.random.Generator) -> list[int]:
    """Six measured directions nearest to the usual six, turned at random."""
    turned = SIX @ np.linalg.qr(rng.standard_normal((3, 3)))[0]
    near = np.abs(turned @ ways.T)
    near[:, ~ways.any(1)] = -1
    return linear_sum_assignment(-near)[1].tolist()


def read_grey(raw: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(raw)) as image:
        return np.asarray(image.convert("L"))


READERS: dict[str, tuple[str, Callable[..., list[ImageCase]]]] = {       # name -> (folder below --data, reader)
    "lgg_flair": ("lgg_flair", read_lgg_flair),
    "phe_sich": ("phe_sich", read_phe_sich),
    "tumor4": ("tumor4", read_tumor4),
    "oasis": ("oasis_csv", read_oasis),
    "dipy": ("", read_dipy),
}


def real_cases(name: str, data: Path) -> list[ImageCase]:
    """The public set `name` under `data`; empty where it does not lie there."""
    below, reader = READERS[name]
    return reader(data / below) if (data / below).is_dir() else []


def write_nifti(path: Path, values: NDArray[Any], affine: NDArray[np.float64] | None) -> None:
    """(slices, rows, columns) with a DICOM affine of (column, row, slice) to LPS mm; without one, 1 mm."""
    lps = np.eye(4) if affine is None else affine
    image = nibabel.Nifti1Image(np.ascontiguousarray(values.transpose(2, 1, 0)), np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps)
    try:
        nibabel.save(image, path)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise OutputError(f"{path} cannot be written ({error.strerror}); make room or name another folder") from None
