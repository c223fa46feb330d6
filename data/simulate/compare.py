"""How far simulated pictures are from real ones: a page of both side by side, and a classifier two-sample test on patches.

The test trains a classifier to tell patches of simulated from patches of real pictures and gives its AUC on pictures it has not seen:
0.5 would mean that it cannot tell them apart, 1.0 that it always can. Lopez-Paz and Oquab 2017 (ICLR). `rests_on` is the same AUC from one
kind of feature alone: what gives the simulation away.
"""

import csv
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

from data.errors import InputError, SimulatorError
from data.images import open_study
from data.simulate.recipes import RECIPES, simulate

Floats = NDArray[np.float32]
SIDE = 128  # pictures are laid on SIDE x SIDE pixels before they are compared
PATCH = 24
CT_WINDOW = (0.0, 80.0)
FEATURES = {"grey": slice(0, 7), "edges": slice(7, 10), "spectrum": slice(10, 22), "layout": slice(22, 38)}  # columns of patch_features


def real_pictures(path: Path, count: int, seed: int, strip: tuple[int, int] = (1, 0)) -> tuple[list[Floats], list[str]]:
    """Up to `count` grey pictures and the patient of each: zip or folder of PNG or JPEG, NIfTI, DICOM folder.

    The patient is that of a table beside the pictures (`patients_beside`), else the first part of the file's name.
    `strip` (n, i): each picture is n tiles side by side, take the i-th (0 first).
    """
    rng = np.random.default_rng(seed)
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist; give a folder or zip of pictures, a NIfTI or a DICOM folder")
    found: list[tuple[Floats, str]] = []
    patients = patients_beside(path)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as file:
            names = [n for n in file.namelist() if n.lower().endswith((".png", ".jpg", ".jpeg"))]
            for name in rng.permutation(names)[: 4 * count]:
                grey = np.asarray(Image.open(io.BytesIO(file.read(name))).convert("L"), np.float32)
                found.append((grey, patients.get(bare(name)) or group_of(name)))
    else:
        files = (
            sorted(p for p in path.rglob("*") if p.is_file() and p.name.lower().endswith((".png", ".jpg", ".jpeg", ".nii", ".nii.gz")))
            if path.is_dir()
            else [path]
        )
        volumes = [p for p in files if p.name.lower().endswith((".nii", ".nii.gz"))]
        if not files:
            volumes = [path]  # a DICOM folder
        for one in volumes:
            for volume in open_study(one).volumes:
                low, high = CT_WINDOW if volume.units == "HU" else (0.0, float(np.quantile(volume.pixels, 0.998)))
                for plane in volume.pixels[len(volume.pixels) // 4 : 7 * len(volume.pixels) // 8]:
                    found.append((np.clip((plane - low) / max(high - low, 1e-6), 0, 1).astype(np.float32), one.name))
        pictures = [p for p in files if p not in volumes]
        for one in [pictures[i] for i in rng.permutation(len(pictures))[: 4 * count]]:
            found.append((np.asarray(Image.open(one).convert("L"), np.float32), patients.get(bare(one.name)) or group_of(one.name)))
    n, i = strip
    kept = [(grey[:, grey.shape[1] * i // n : grey.shape[1] * (i + 1) // n], group) for grey, group in found]
    kept = [(fitted(grey), group) for grey, group in kept if has_head(grey)]
    if len(kept) < 8:
        raise InputError(f"{path} gave {len(kept)} pictures with a head in them, at least 8 are needed; give more")
    order = rng.permutation(len(kept))[:count]
    return [kept[j][0] for j in order], [kept[j][1] for j in order]


def has_head(picture: NDArray) -> bool:
    """Something bright that fills more than an eighth and leaves the corners dark."""
    bright = picture > 0.15 * max(float(np.quantile(picture, 0.99)), 1e-6)
    corner = max(2, min(picture.shape) // 12)
    return bool(bright.mean() > 0.12 and max(bright[:corner, :corner].mean(), bright[-corner:, -corner:].mean()) < 0.5 and picture.std() > 0)


def patients_beside(path: Path) -> dict[str, str]:
    """Picture -> patient from a CSV in the folder or one above it: its first column names the picture, `patient`, `case` or `group` the patient."""
    for table in sorted({*path.glob("*.csv"), *path.parent.glob("*.csv")}):
        with table.open(newline="") as file:
            rows = list(csv.DictReader(file))
        columns = list(rows[0]) if rows else []
        whose = next((c for c in ("patient", "case", "group") if c in columns), None)
        if whose:
            return {bare(row[columns[0]]): row[whose] for row in rows}
    return {}


def bare(name: str) -> str:
    """Without suffix and leading zeros, as tables count pictures."""
    return Path(name).with_suffix("").as_posix().lstrip("0") or "0"


def group_of(name: str) -> str:
    stem = Path(name).stem
    return "_".join(stem.split("_")[:3]) if stem.count("_") > 2 else stem.split("_")[0][:12]


def simulated_pictures(
    recipe: str, channel: str, count: int, seed: int, anatomy: Path | None = None, stripped: bool = False
) -> tuple[list[Floats], list[str]]:
    """One middle or lesion slice of each of `count` cases, in the channel's window; `stripped` leaves only the brain, as many real sets do."""
    row = RECIPES.get(recipe)
    if row is None or channel not in row.channels:
        raise SimulatorError(f"recipe '{recipe}' has no channel '{channel}', expected {', '.join(row.channels) if row else ', '.join(RECIPES)}")
    pictures = []
    for i in range(count):
        case = simulate(recipe, seed + i, anatomy=anatomy, slices=1 if row.size[0] > 1 else None)
        plane = case.channels[channel][0]
        if stripped:
            plane = plane * ndimage.binary_closing(case.structures[0] > 0, iterations=1)
        low, high = CT_WINDOW if row.modality == "CT" else (0.0, float(np.quantile(plane, 0.998)))
        pictures.append(fitted(np.clip((plane - low) / max(high - low, 1e-6), 0, 1)))
    return pictures, [f"simulated {i}" for i in range(count)]


def fitted(picture: NDArray) -> Floats:
    """The head cut out, laid on a square of SIDE pixels, brightest tissue near 1."""
    picture = np.asarray(picture, np.float32)
    picture = picture / max(float(np.quantile(picture, 0.995)), 1e-6)
    head = ndimage.binary_opening(picture > 0.15, iterations=2)
    rows, columns = np.nonzero(head.any(1))[0], np.nonzero(head.any(0))[0]
    if len(rows) < 8 or len(columns) < 8:
        rows, columns = np.arange(picture.shape[0]), np.arange(picture.shape[1])
    cut = picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = 0.94 * SIDE / max(cut.shape)
    cut = ndimage.zoom(ndimage.gaussian_filter(cut, max(0.0, 0.4 / scale - 0.4)), scale, order=1)[:SIDE, :SIDE]
    out = np.zeros((SIDE, SIDE), np.float32)
    top, left = (SIDE - cut.shape[0]) // 2, (SIDE - cut.shape[1]) // 2
    out[top : top + cut.shape[0], left : left + cut.shape[1]] = np.clip(cut, 0, 1.3)
    return out


def patch_features(picture: Floats, rng: np.random.Generator, count: int = 12) -> NDArray[np.float64]:
    """(count, features) of patches within the head: grey distribution, edges, spectrum by rings, and a coarse copy of the patch."""
    inside = ndimage.uniform_filter((picture > 0.12).astype(np.float32), PATCH) > 0.9
    inside[: PATCH // 2] = inside[-PATCH // 2 :] = inside[:, : PATCH // 2] = inside[:, -PATCH // 2 :] = False
    spots = np.argwhere(inside)
    if not len(spots):
        return np.zeros((0, 0))
    rows = []
    y, x = np.indices((PATCH, PATCH))
    ring = np.hypot((y + PATCH // 2) % PATCH - PATCH // 2, (x + PATCH // 2) % PATCH - PATCH // 2).astype(int)
    for r, c in spots[rng.integers(len(spots), size=count)]:
        patch = picture[r - PATCH // 2 : r + PATCH // 2, c - PATCH // 2 : c + PATCH // 2]
        power = np.abs(np.fft.fft2((patch - patch.mean()) * np.outer(np.hanning(PATCH), np.hanning(PATCH)))) ** 2
        spectrum = np.log(np.bincount(ring.ravel(), power.ravel())[:12] / np.bincount(ring.ravel())[:12] + 1e-6)
        edges = np.hypot(*np.gradient(patch))
        rows.append(
            [
                patch.mean(),
                patch.std(),
                *np.quantile(patch, (0.05, 0.25, 0.5, 0.75, 0.95)),
                *np.quantile(edges, (0.25, 0.5, 0.9)),
                *spectrum,
                *ndimage.zoom(patch, 4 / PATCH, order=1).ravel(),
            ]
        )
    return np.array(rows)


def two_sample_test(simulated: list[Floats], real: list[Floats], real_groups: list[str], seed: int = 0) -> dict[str, Any]:
    """AUC of telling simulated from real, by patch and by picture, five folds with each patient (group) in one fold."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import GroupKFold

    rng = np.random.default_rng(seed)
    features, labels, groups, pictures = [], [], [], []
    for i, (picture, label, group) in enumerate(
        [*((p, 0, f"simulated {j}") for j, p in enumerate(simulated)), *((p, 1, g) for p, g in zip(real, real_groups, strict=True))]
    ):
        rows = patch_features(picture, rng)
        if rows.size:
            features.append(rows)
            labels += [label] * len(rows)
            groups += [group] * len(rows)
            pictures += [i] * len(rows)
    x, y, where = np.concatenate(features), np.array(labels), np.array(pictures)
    names = {g: i for i, g in enumerate(dict.fromkeys(groups))}
    folds = min(5, len({g for g, label in zip(groups, labels, strict=True) if label}))
    if folds < 2:
        folds, by = 5, where  # one patient only: pictures of one head on both sides, said in the answer
    else:
        by = np.array([names[g] for g in groups])
    splits = list(GroupKFold(folds, shuffle=True, random_state=seed).split(x, y, by))

    def told(columns: slice, rounds: int) -> NDArray[np.float64]:
        scores = np.zeros(len(y))
        for train, test in splits:
            model = HistGradientBoostingClassifier(max_iter=rounds, random_state=seed).fit(x[train][:, columns], y[train])
            scores[test] = model.predict_proba(x[test][:, columns])[:, 1]
        return scores

    scores = told(slice(None), 120)
    each = np.array([(scores[where == i].mean(), y[where == i][0]) for i in np.unique(where)])
    return {
        "auc_patches": round(float(roc_auc_score(y, scores)), 3),
        "auc_pictures": round(float(roc_auc_score(each[:, 1], each[:, 0])), 3),
        "rests_on": {name: round(float(roc_auc_score(y, told(columns, 60))), 3) for name, columns in FEATURES.items()},
        "simulated": len(simulated),
        "real": len(real),
        "real_patients": len(set(real_groups)),
        "patches": len(y),
        "folds_by": "patient" if by is not where else "picture",
    }


def page(rows: list[tuple[str, list[Floats]]], path: Path, columns: int = 8) -> None:
    """A PNG with a labelled row of pictures (0..1) each."""
    gap, label = 2, 14
    sheet = Image.new("L", (columns * (SIDE + gap), len(rows) * (SIDE + gap + label)))
    pen = ImageDraw.Draw(sheet)
    for r, (title, pictures) in enumerate(rows):
        top = r * (SIDE + gap + label)
        pen.text((3, top + 1), title, fill=255)
        for c, picture in enumerate(pictures[:columns]):
            sheet.paste(Image.fromarray((np.clip(picture, 0, 1) * 255).astype(np.uint8)), (c * (SIDE + gap), top + label))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def compare(
    recipe: str,
    channel: str,
    real: Path,
    out: Path,
    count: int,
    seed: int = 1,
    anatomy: Path | None = None,
    strip: tuple[int, int] = (1, 0),
    brain_only: bool = False,
    blur_px: float = 0.0,
) -> dict[str, Any]:
    """The two-sample test; writes comparison.json and comparison.png (real pictures below simulated: share it only where they may be shared).

    blur_px: both are blurred by a Gaussian of so many of SIDE pixels, so that resolution and noise tell little.
    """
    theirs, groups = real_pictures(real, count, seed, strip)
    ours, _ = simulated_pictures(recipe, channel, count, seed, anatomy, brain_only)
    theirs, ours = ([ndimage.gaussian_filter(p, blur_px) if blur_px else p for p in pictures] for pictures in (theirs, ours))
    given = {"recipe": recipe, "channel": channel, "anatomy": "folder" if anatomy else "MNI152", "blur_px": blur_px}
    answer = {**given, **two_sample_test(ours, theirs, groups, seed)}
    page([("simulated", ours[:8]), ("real", theirs[:8]), ("simulated", ours[8:16]), ("real", theirs[8:16])], Path(out) / "comparison.png")
    (Path(out) / "comparison.json").write_text(json.dumps(answer, indent=1) + "\n")
    return answer


WINDOWS = {
    "CT": CT_WINDOW,
    "LOW_DOSE": CT_WINDOW,
    "FULL_DOSE": CT_WINDOW,
    "NOISELESS": CT_WINDOW,
    "ADC": (0, 2200),
    "MD": (0, 2200),
    "FA": (0, 0.9),
    "CBF": (0, 90),
    "CBV": (0, 8),
    "MTT": (0, 16),
    "TMAX": (0, 12),
    "PET": (0, 1.8),
    "PHASE": (-1.5, 1.5),
    "ASL": (-20, 110),
    "ASL_SIX": (-20, 110),
}


def gallery(path: Path, anatomy: Path | None = None, seed: int = 1, columns: int = 10) -> None:
    """Every channel of one case of every recipe, at the slice with most lesion, then its masks in shades of grey; recipes follow one another."""
    gap, label, cell = 4, 14, SIDE
    strips: list[list[tuple[str, list[Floats]]]] = [[]]
    for name, row in RECIPES.items():
        if not row.channels:
            continue
        case = simulate(name, seed, anatomy=anatomy)
        masks = [m for m in case.masks.values() if m.any()]
        z = int(np.argmax(masks[0].sum((1, 2)))) if masks else case.structures.shape[0] // 2
        pictures = []
        for channel, pixels in case.channels.items():
            plane = pixels[z] if pixels.ndim == 3 else np.abs(pixels[0, z])
            low, high = WINDOWS.get(channel, (0.0, float(np.quantile(plane, 0.998))))
            pictures.append(squared((plane - low) / max(high - low, 1e-6)))
        if masks:
            shades = np.zeros(case.structures.shape[1:], np.float32)
            for i, mask in enumerate(case.masks.values()):
                shades[mask[z] > 0] = 0.35 + 0.65 * (i + 1) / len(case.masks)
            pictures.append(squared(shades))
        if sum(len(p) for _, p in strips[-1]) + len(pictures) > columns:
            strips.append([])
        strips[-1].append((name, pictures))
    sheet = Image.new("L", (columns * cell + gap * 4, len(strips) * (cell + label + gap)))
    pen = ImageDraw.Draw(sheet)
    for r, strip in enumerate(strips):
        left, top = 0, r * (cell + label + gap)
        for name, pictures in strip:
            pen.text((left + 3, top + 1), name, fill=255)
            for picture in pictures:
                sheet.paste(Image.fromarray((np.clip(picture, 0, 1) * 255).astype(np.uint8)), (left, top + label))
                left += cell
            left += gap
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def squared(picture: NDArray) -> Floats:
    scale = SIDE / max(picture.shape)
    return np.clip(ndimage.zoom(picture, scale, order=1), 0, 1)[:SIDE, :SIDE].astype(np.float32)
