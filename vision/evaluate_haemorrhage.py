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
ALIKE = 0.01                    # of the picture: two brains that differ by less are of one size


def main(name: str = "ct_haemorrhage", data: Path | None = None, out: Path | None = None, size: int | None = None, seed: int = 0,
         device: str = "cpu", date: str = "", report: Callable[..., None] = lambda *a, **k: None) -> dict[str, Any]:
    """AUC of each seed, the mean over seeds and of the mean answer, on `head_ct` and on PHE-SICH slices matched for the brain's size.

    Args:
        data: folder with head_ct, phe_sich and synthseg_labelmaps.
        size: simulated studies.
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
    for k in range(SEEDS):
        pool = simulated_pool(slices, np.random.default_rng(seed + k))
        net = train_body([pool], STEPS, seed + k, device=device, report=report)
        answers.append(picture_logits(net.to(device), torch.from_numpy(images), device))
        report(k + 1, SEEDS, phase="seeds", **{key[:8]: auc(answers[-1], real, own) for key, own in sets.items()})
    grey = images.reshape(len(images), -1).mean(1)
    asked = "".join(f" --{word} {value}" for word, value in (("data", data), ("size", size)) if value)
    figures: dict[str, Any] = {"head": name, "date": date, "command": f"wetread evaluate {name}{asked}", "metric": "auc"}
    for key, own in sets.items():
        values = [auc(a, real, own) for a in answers]
        figures[f"real {key}, simulation alone: mean and range of {SEEDS} seeds"] = {
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
    """Pairs of a slice with and one without blood whose brains fill as much of the picture, to within ALIKE: size alone then tells nothing."""
    brain = {i: float(((images[i] > 0.25) & (images[i] < 0.7)).mean()) for i in own}
    free, kept = [i for i in own if not real[i].bleeds], []
    for i in np.random.default_rng(seed).permutation([i for i in own if real[i].bleeds]).tolist():
        near = min(free, key=lambda k: abs(brain[k] - brain[i]), default=None)
        if near is not None and abs(brain[near] - brain[i]) <= ALIKE:
            free.remove(near)
            kept += [i, near]
    return sorted(kept)
