"""Measure the findings model: fresh simulated studies through the whole path, real pictures where given, floors beside it."""
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from data.simulator import TYPES, list_anatomies, simulate_head_ct
from vision.findings import Answers, FindingModel, area_under, measure, probability, run
from vision.train_findings import load_pictures
from vision.transforms import channels_from_picture


def main(data: Path | None = None, out: Path | None = None, studies: int = 60, seed: int = 500, device: str = "cpu", folder: Path | None = None,
         pictures: Path | None = None, picture_half: int | None = 1, anatomy: Path | None = None,
         report: Callable[..., None] = lambda *a, **k: None, **_: Any) -> dict[str, Any]:
    """Figures as a dict, written to out/figures.json when `out` is given; `data` is a folder of pictures like `pictures`."""
    model = FindingModel.load(folder, device)
    figures: dict[str, Any] = {"model": model.version, "simulated": on_simulated(model, studies, seed, anatomy, report)}
    if pictures or data:
        figures["pictures"] = on_pictures(model, Path(pictures or data or "."), picture_half)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
        plot(figures, out / "findings.png")
    return figures


def on_simulated(model: FindingModel, studies: int, seed: int, anatomy: Path | None, report: Callable[..., None]) -> dict[str, Any]:
    """Truth against the findings graph, study by study; seeds and, with `anatomy`, heads that training did not see."""
    heads = list_anatomies(anatomy) if anatomy else ("",)
    heads = heads[round(len(heads) * 0.8):] or heads
    rows: dict[str, list[tuple[float, bool, bool]]] = {}
    sides, volumes, shifts, stated, floor = [], [], [], [], []
    for i in range(studies):
        made = simulate_head_ct(seed * 100_000 + i, anatomy=heads[i % len(heads)] or None)
        found = {f.code: f for f in model.find(made.study).findings}
        for wanted in made.findings:
            got = found[wanted.code]
            rows.setdefault(wanted.code, []).append((got.probability, got.present, wanted.present))
            if got.present and wanted.present:
                if wanted.side and got.side:
                    sides.append(got.side == wanted.side)
                if wanted.volume_ml and got.volume_ml:
                    volumes.append((got.volume_ml, wanted.volume_ml))
            if got.band == "state":
                stated.append(got.present == wanted.present)
        shift = found["midline_shift"].size_mm or 0.0
        shifts.append((shift, made.shift_mm))
        hu = made.volume.pixels
        floor.append((float(((hu > 50) & (hu < 90)).sum()), any(f"{t}" in made.masks for t in TYPES)))
        report(i + 1, studies, phase="simulated studies")
    result: dict[str, Any] = {"studies": studies, "findings": {}}
    for code, answers in rows.items():
        p, present, truth = (np.array(column) for column in zip(*answers, strict=True))
        result["findings"][code] = {
            "auc": area_under(p, truth),
            "accuracy": share(present == truth), "sensitivity": share(present[truth]), "specificity": share(~present[~truth]),
            "cases": int(truth.sum()), "floor_accuracy_constant": round(float(max(truth.mean(), 1 - truth.mean())), 3)}
    bright, bleeding = (np.array(column, float) for column in zip(*floor, strict=True))
    pairs, moved = np.array(volumes or [(0, 0)], float), np.array(shifts)
    return result | {
        "side_accuracy": share(np.array(sides)), "stated_right": share(np.array(stated)),
        "volume_error_ml_median": round(float(np.median(np.abs(pairs[:, 0] - pairs[:, 1]))), 2),
        "shift_error_mm_mean": round(float(np.abs(moved[:, 0] - moved[:, 1]).mean()), 2),
        "shift_error_mm_constant_zero": round(float(moved[:, 1].mean()), 2),
        "floor_auc_bright_pixels": area_under(bright, bleeding)}


def on_pictures(model: FindingModel, folder: Path, half: int | None = None) -> dict[str, Any]:
    """Real pictures: AUC with a bootstrap interval by group, accuracy at one half."""
    images, labels, groups, _ = load_pictures(folder, half)
    p = picture_probabilities(model, images)
    rng = np.random.default_rng(0)
    names = np.unique(groups)
    draws = []
    for _ in range(400):
        index = np.concatenate([np.flatnonzero(groups == g) for g in rng.choice(names, len(names))])
        if (value := area_under(p[index], labels[index])) is not None:
            draws.append(value)
    bleeding = labels > 0.5
    grey = images.reshape(len(images), -1)
    return {"pictures": len(labels), "groups": len(names), "source": folder.name, "auc": area_under(p, labels),
            "auc_95": [round(float(v), 3) for v in np.quantile(draws, (0.025, 0.975))], "accuracy": share((p >= 0.5) == bleeding),
            "sensitivity": share(p[bleeding] >= 0.5), "specificity": share(p[~bleeding] < 0.5),
            "floor_accuracy_constant": round(float(max(labels.mean(), 1 - labels.mean())), 3),
            "floor_auc_mean_grey": area_under(grey.mean(1).astype(float), labels),
            "shuffled_images_auc": area_under(p[rng.permutation(len(p))], labels)}


def picture_probabilities(model: FindingModel, images: NDArray[np.float32]) -> NDArray[np.float64]:
    """Probability of any haemorrhage for pictures on the grid."""
    answers = run(model.net, channels_from_picture(torch.from_numpy(images)), model.device)
    fits = model.calibration["picture"]["any"]
    one = [Answers(*(part[i:i + 1] for part in (answers.logits, answers.outlines, answers.halves, answers.deep))) for i in range(len(images))]
    return np.array([probability(fits, measure(a, None).evidence["any"]) for a in one])


def share(right: NDArray[Any]) -> float | None:
    return round(float(right.mean()), 3) if len(right) else None


def plot(figures: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = figures["simulated"]["findings"]
    axes = pyplot.subplots(figsize=(8, 3.6), layout="constrained")[1]
    axes.barh(list(rows), [row["auc"] or 0 for row in rows.values()], color="#3b6ea5")
    axes.set(xlim=(0.5, 1), xlabel="AUC, simulated studies of unseen seeds")
    if "pictures" in figures:
        axes.axvline(figures["pictures"]["auc"], color="#b5462f", label="any haemorrhage, real pictures")
        axes.legend()
    pyplot.savefig(path, dpi=110)
    pyplot.close("all")


