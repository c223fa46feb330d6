"""Real head CT pictures with haemorrhage labels: a folder with labels.csv, or patients' slices with oedema outlines (PHE-SICH)."""
import csv
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from data.errors import InputError

NEAR = 2            # slices this close to a bleeding one may bleed too: no label
MIN_BLOOD = 20      # pixels of 192 x 192 from which a slice counts as bleeding


@dataclass(frozen=True)
class LabelledPicture:
    name: str
    group: str                          # never split: near-duplicates, or slices of one patient
    bleeds: bool | None                 # None: not known
    grey: NDArray[np.uint8]
    blood: NDArray[np.bool_] | None = None      # where; None: nobody knows
    turned: bool = False                # the head may lie on any side

    @property
    def plane(self) -> NDArray[np.float32]:
        """(1, rows, columns) in 0..1."""
        return self.grey[None].astype(np.float32) / np.float32(255)


def read_labelled_pictures(folder: Path) -> list[LabelledPicture]:
    """Every labelled set in `folder` itself or just below it, in the order of their names; empty when there is none."""
    found: list[LabelledPicture] = []
    for place in [folder, *sorted(p for p in folder.iterdir() if p.is_dir())]:
        if (place / "labels.csv").exists():
            found += read_table(place)
        elif (place / "index.csv").exists() and "phe_px512" in (place / "index.csv").read_text().split("\n", 1)[0]:
            found += read_oedema(place)
    return found


def read_rows(path: Path, columns: set[str]) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or not columns <= set(rows[0]):
        raise InputError(f"{path.name} has columns {sorted(rows[0]) if rows else []}; expected {', '.join(sorted(columns))}")
    return rows


def read_table(folder: Path) -> list[LabelledPicture]:
    """labels.csv (file, hemorrhage, group) beside the pictures, or beside their folder img."""
    images = folder / "img" if (folder / "img").is_dir() else folder
    return [LabelledPicture(row["file"], f"{folder.name}:{row['group']}", row["hemorrhage"] == "1", read_grey((images / row["file"]).read_bytes()))
            for row in read_rows(folder / "labels.csv", {"file", "hemorrhage", "group"})]


def read_oedema(folder: Path) -> list[LabelledPicture]:
    """index.csv (slice, patient, k, phe_px512) and images.zip: blood is the bright thing in the brain that the outlined oedema touches."""
    rows = read_rows(folder / "index.csv", {"slice", "patient", "k", "phe_px512"})
    outlined: dict[str, list[int]] = {}
    for row in rows:
        if int(row["phe_px512"]):
            outlined.setdefault(row["patient"], []).append(int(row["k"]))
    found = []
    with zipfile.ZipFile(folder / "images.zip") as archive:
        for row in rows:
            grey = read_grey(archive.read(f"{row['slice']}.jpg"))
            away = min((abs(int(row["k"]) - k) for k in outlined.get(row["patient"], [])), default=99)
            blood = np.zeros(grey.shape, bool) if away > NEAR else None
            if away == 0:
                oedema = Image.fromarray(read_grey(archive.read(f"{row['slice']}_phe.png"))).resize(grey.shape[::-1], Image.Resampling.NEAREST)
                blood = bright_beside(grey, np.asarray(oedema) > 127)
                blood = blood if blood.sum() >= MIN_BLOOD else None
            bleeds = None if blood is None else bool(blood.any())
            found.append(LabelledPicture(row["slice"], f"{folder.name}:{row['patient']}", bleeds, grey, blood, turned=True))
    return found


def bright_beside(grey: NDArray[np.uint8], oedema: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Spots inside the skull, brighter than the brain, that the oedema touches."""
    image = grey / np.float32(255)
    skull = ndimage.binary_closing(np.pad(image > 0.9, 8), iterations=3)[8:-8, 8:-8]
    inside = ndimage.binary_erosion(ndimage.binary_fill_holes(skull) & ~skull, iterations=3)
    if not inside.any():
        return inside
    smooth = ndimage.gaussian_filter(image, 0.8)
    bright = ndimage.binary_opening(inside & (smooth > np.median(image[inside]) + 0.1))
    spots, _ = ndimage.label(bright)
    touched = np.unique(spots[ndimage.binary_dilation(oedema, iterations=3)])
    return np.isin(spots, touched[touched > 0])


def read_grey(raw: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(raw)) as image:
        return np.asarray(image.convert("L"))


def folds(groups: list[str], count: int) -> NDArray[np.int64]:
    """A fold for each picture: no group is split, each set is spread over all folds alike."""
    names = sorted(set(groups))
    order = np.random.default_rng(0).permutation(len(names))
    by_set: dict[str, int] = {}
    fold = {}
    for i in order:
        kind = names[i].split(":")[0]
        fold[names[i]] = by_set.get(kind, 0) % count
        by_set[kind] = by_set.get(kind, 0) + 1
    return np.array([fold[g] for g in groups])
