"""Figures of the heads: overlap, image error, classes, and bootstrap intervals over patients."""
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vision.losses import ssim_map

DRAWS = 500
LOWER_IS_BETTER = ("rmse", "mae", "nmse", "ece", "volume_error_ml", "false_", "mimics_taken")     # how the names of such figures begin


def is_better(figure: str, value: float, other: float) -> bool:
    return value < other if figure.startswith(LOWER_IS_BETTER) else value > other


def dice(found: NDArray[Any], truth: NDArray[Any]) -> float:
    """Both empty: 1."""
    total = int(found.sum()) + int(truth.sum())
    return 1.0 if total == 0 else 2 * int((found.astype(bool) & truth.astype(bool)).sum()) / total


def image_error(image: NDArray[np.float32], truth: NDArray[np.float32], inside: NDArray[np.bool_]) -> dict[str, float]:
    """SSIM, PSNR (dB), RMSE in % of the mean and mean absolute error inside the head; arrays (S, H, W) of one unit.

    The value range of SSIM and PSNR is that of the truth inside: its 99.5th percentile less its 0.5th.
    """
    a, b = image[inside].astype(np.float64), truth[inside].astype(np.float64)
    low, high = np.quantile(b, (0.005, 0.995))
    span = max(float(high - low), 1e-6)
    similar = ssim_map(torch.from_numpy(image)[:, None].float(), torch.from_numpy(truth)[:, None].float(), span)[:, 0].numpy()
    rmse = float(np.sqrt(((a - b) ** 2).mean()))
    return {"ssim": float(similar[inside].mean()), "psnr": 20 * float(np.log10(span / max(rmse, 1e-9))), "rmse": rmse,
            "rmse_percent": 100 * rmse / max(abs(float(b.mean())), 1e-9), "mae": float(np.abs(a - b).mean()),
            "nmse": float(((a - b) ** 2).sum() / max((b**2).sum(), 1e-12))}


def class_figures(probability: NDArray[np.float64], truth: NDArray[np.int64]) -> dict[str, float]:
    """Accuracy, mean one-against-rest AUC, log loss and calibration error of (N, classes)."""
    right = probability.argmax(1) == truth
    sure = probability.max(1)
    bins = np.clip((sure * 10).astype(int), 0, 9)
    ece = sum(abs(right[bins == k].mean() - sure[bins == k].mean()) * (bins == k).mean() for k in range(10) if (bins == k).any())
    aucs = [area_under(probability[:, k], truth == k) for k in range(probability.shape[1])]
    known = [a for a in aucs if a is not None]
    return {"accuracy": float(right.mean()), "auc": float(np.mean(known)) if known else float("nan"), "ece": float(ece),
            "log_loss": float(-np.log(np.maximum(probability[np.arange(len(truth)), truth], 1e-9)).mean())}


def area_under(score: NDArray[Any], positive: NDArray[np.bool_]) -> float | None:
    """AUC by ranks; None where there is but one class."""
    from scipy.stats import rankdata

    count = int(positive.sum())
    if count in (0, len(positive)):
        return None
    return float((rankdata(score)[positive].sum() - count * (count + 1) / 2) / (count * (len(positive) - count)))


def bootstrap(values: Sequence[Any], figure: Callable[[list[Any]], float], seed: int = 0, draws: int = DRAWS) -> tuple[float, float, float]:
    """(figure, low, high): 95 % interval by drawing patients again."""
    rng, rows = np.random.default_rng(seed), list(values)
    again = [figure([rows[i] for i in rng.integers(len(rows), size=len(rows))]) for _ in range(draws if len(rows) > 1 else 0)]
    known = [v for v in again if np.isfinite(v)]
    low, high = np.quantile(known, (0.025, 0.975)) if known else (float("nan"),) * 2
    return float(figure(rows)), float(low), float(high)


def with_interval(values: Sequence[Any], figure: Callable[[list[Any]], float], digits: int = 4) -> list[float]:
    """`bootstrap` as a file keeps it: [figure, low, high]; without limits where one patient gives none, [] where there is no figure."""
    value, *limits = (round(v, digits) for v in bootstrap(values, figure))
    if not np.isfinite(value):
        return []
    return [value, *limits] if np.isfinite(limits).all() else [value]
