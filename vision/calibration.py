"""Are probabilities kept? Of what is given a probability of 0.7, seven in ten should be true (Guo, arXiv 1706.04599)."""
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vision.heads import CLASSED, Head
from vision.heads.examples import Example
from vision.heads.tasks import truth_masks
from vision.metrics import with_interval

BINS = 10
LEAST = 0.01            # a point given less is not counted: nearly all of a volume is, and would hide the rest
OF = {"outline": f"points given {LEAST:.0%} or more", "detect": "candidates",
      **dict.fromkeys(CLASSED, "patients, the class given")}
Counts = NDArray[np.float64]        # (BINS, 3): how many, sum of their probabilities, how many are true


def counts_of(head: Head, answer: Any, example: Example) -> Counts:
    """One case; points of an outline, candidates of a detector by the judge's chance, the likeliest class of a patient."""
    if head.task == "outline":
        inside = answer >= LEAST
        return binned(answer[inside], truth_masks(head, example)[inside])
    if head.task == "detect":
        truth = np.asarray(example["targets"])[0] > 0
        return binned(answer.chance, np.array([truth[answer.labels == k].any() for k in answer.index], bool))
    assert head.task in OF, f"{head.name} gives no probabilities"
    return binned(answer[[answer.argmax()]], np.array([int(answer.argmax()) == int(example.facts["category"])]))


def binned(probability: NDArray[np.floating], true: NDArray[np.bool_]) -> Counts:
    index = np.clip((probability * BINS).astype(int), 0, BINS - 1)
    return np.stack([np.bincount(index, weight, BINS) for weight in (None, probability.astype(np.float64), true.astype(np.float64))], 1).astype(float)


def calibration(head: Head, cases: Sequence[Counts]) -> dict[str, Any]:
    """`ece` with its 95 % interval over patients; `bins`: [mean probability, share that is true, how many], empty ones left out."""
    total = np.sum(cases, axis=0)
    if not total[:, 0].sum():
        return {}
    return {"of": OF[head.task], "ece": with_interval(cases, lambda drawn: error_of(np.sum(drawn, axis=0))),
            "bins": [[round(float(p / n), 4), round(float(t / n), 4), int(n)] for n, p, t in total if n]}


def error_of(total: Counts) -> float:
    """Expected calibration error: how far the share that is true lies from the mean probability, weighed by how many."""
    return float(np.abs(total[:, 2] - total[:, 1]).sum() / max(total[:, 0].sum(), 1.0))
