"""Measure what simulation alone teaches: picture nets of five seeds that saw no real head CT, judged on two real sets."""
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from data.errors import InputError
from data.labelled_pictures import LabelledPicture, read_labelled_pictures
from data.simulator import list_anatomies
from vision.evaluate_findings import area_under
from vision.train_findings import make_slices
from vision.train_pictures import all_on_grid, picture_logits, simulated_pool, train_body

STUDIES, SEEDS, STEPS = 260, 5, 400
BINS = 8                        # of brain size, in which slices with and without blood are made as many as each other


def main(name: str = "ct_haemorrhage", data: Path | None = None, out: Path | None = None, size: int | None = None, seed: int = 0,
         device: str = "cpu", epochs: int | None = None, date: str = "", workers: int | None = None,
         report: Callable[..., None] = lambda *a, **k: None) -> dict[str, Any]:
    """AUC of each seed, the mean over seeds and of the mean answer, on `head_ct` and on PHE-SICH slices matched for the brain's size.

    Args:
        data: folder with head_ct, phe_sich and synthseg_labelmaps.
        size: simulated studies. epochs: seeds.
    """
    real = [p for p in read_labelled_pictures(Path(data)) if p.bleeds is not None] if data else []
    if not real:
        raise InputError("--data holds no labelled head CT pictures (head_ct, phe_sich); simulation alone is judged on real ones")
    assert data is not None
    anatomy = Path(data) / "synthseg_labelmaps"
    place = anatomy if anatomy.is_dir() else None
    slices = make_slices(size or STUDIES, seed + 1, place, slice(0, len(list_anatomies(place))), report)
    images = all_on_grid(real)
    sets = {"head_ct": [i for i, p in enumerate(real) if p.group.startswith("head_ct:")],
            "phe_sich, matched for brain size": matched([i for i, p in enumerate(real) if p.group.startswith("phe_sich:")], real, images)}
    answers = []
    for k in range(epochs or SEEDS):
        pool = simulated_pool(slices, np.random.default_rng(seed + k))
        net = train_body([pool], STEPS, seed + k, device=device, report=report)
        answers.append(picture_logits(net.to(device), torch.from_numpy(images), device))
        report(k + 1, epochs or SEEDS, phase="seeds", **{key[:8]: auc(answers[-1], real, own) for key, own in sets.items()})
    grey = images.reshape(len(images), -1).mean(1)
    asked = "".join(f" --{word} {value}" for word, value in (("data", data), ("size", size), ("epochs", epochs)) if value)
    figures: dict[str, Any] = {"head": name, "date": date, "command": f"wetread evaluate {name}{asked}", "metric": "auc"}
    for key, own in sets.items():
        values = [auc(a, real, own) for a in answers]
        figures[f"real {key}, simulation alone"] = {
            "cases": len(own), "head": {"auc": [round(float(np.mean(values)), 4), min(values), max(values)],
                                        "auc of the mean answer": [auc(np.mean(answers, 0), real, own)]},
            "seeds": values, "floors": {"mean grey": {"auc": [max(auc(grey, real, own), 1 - auc(grey, real, own))]}}}
    if out is not None:
        Path(out).mkdir(parents=True, exist_ok=True)
        (Path(out) / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    return figures


def auc(values: NDArray[Any], real: Sequence[LabelledPicture], own: Sequence[int]) -> float:
    return round(float(area_under(np.asarray(values, float)[own], np.array([float(bool(real[i].bleeds)) for i in own])) or 0.0), 4)


def matched(own: Sequence[int], real: Sequence[LabelledPicture], images: NDArray[np.float32], seed: int = 0) -> list[int]:
    """As many slices with blood as without in each bin of brain size, drawn once: size alone then tells nothing."""
    index = np.array(own)
    if not len(index):
        return []
    brain = ((images[index] > 0.25) & (images[index] < 0.7)).mean((1, 2))
    bleeds = np.array([bool(real[i].bleeds) for i in index])
    bins = np.digitize(brain, np.quantile(brain[bleeds], np.linspace(0, 1, BINS + 1)[1:-1]))
    rng, kept = np.random.default_rng(seed), []
    for b in np.unique(bins):
        sides = [np.flatnonzero((bins == b) & (bleeds == wanted)) for wanted in (False, True)]
        for side in sides:
            kept += [int(index[i]) for i in rng.permutation(side)[: min(map(len, sides))]]
    return sorted(kept)
