"""Pictures of a training and of a test: the loss, and the best, the median and the worst case."""
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vision.heads import Head
from vision.heads.examples import Example
from vision.heads.tasks import Scores, detected_mask, masks_of, truth_masks


def plot_history(history: Sequence[dict[str, float]], path: Path) -> None:
    pyplot = drawing()
    figure, axes = pyplot.subplots(figsize=(6, 3), layout="constrained")
    axes.plot([row["step"] for row in history], [row["loss"] for row in history], label="loss")
    seen = [row for row in history if "validation" in row]
    axes.plot([row["step"] for row in seen], [row["validation"] for row in seen], label="validation")
    axes.set(xlabel="step", ylim=(0, None))
    axes.legend()
    figure.savefig(path, dpi=90)
    pyplot.close(figure)


def plot_examples(head: Head, examples: Sequence[Example], answers: Sequence[Any], rows: Sequence[Scores], path: Path) -> None:
    """Best, median, worst by what training stops by, a row each: input, truth, answer."""
    pyplot = drawing()
    order = np.argsort([row["validation"] for row in rows])
    chosen = [int(order[0]), int(order[len(order) // 2]), int(order[-1])]
    figure, axes = pyplot.subplots(3, 3, figsize=(6.6, 6.9), layout="constrained")
    for line, i, word in zip(axes, chosen, ("best", "median", "worst"), strict=True):
        planes = pictures_of(head, examples[i], answers[i])
        for k, (axis, title) in enumerate(zip(line, ("input", "truth", "answer"), strict=True)):
            axis.axis("off")
            if k < len(planes):
                image, overlay = planes[k]
                axis.imshow(image, cmap="gray", vmin=0, vmax=max(float(np.quantile(image, 0.995)), 1e-3))
                if overlay is not None:
                    axis.imshow(np.ma.masked_equal(overlay, 0), cmap="tab10", vmin=0, vmax=9, alpha=0.55, interpolation="nearest")
            axis.set_title(f"{word}: {title}" if k else f"{word} ({rows[i]['validation']:.3g})", fontsize=8)
    figure.savefig(path, dpi=80)
    pyplot.close(figure)


def pictures_of(head: Head, example: Example, answer: Any) -> list[tuple[NDArray[Any], NDArray[Any] | None]]:
    if head.task in ("outline", "detect"):
        truth = truth_masks(head, example)
        found = detected_mask(answer)[None] if head.task == "detect" else masks_of(head, answer)
        s = int(truth.sum((0, 2, 3)).argmax()) if truth.any() else int(found.sum((0, 2, 3)).argmax())
        image = np.asarray(example["inputs"][0, s], np.float32)
        return [(image, None), (image, layers(truth[:, s])), (image, layers(found[:, s]))]
    if head.task == "image":
        s = int(np.asarray(example["inside"]).sum((1, 2)).argmax())
        low = min(0.0, float(np.quantile(example["targets"][0, s], 0.02))) if head.modality == "CT" or "CT" in head.outputs else 0.0
        return [(np.asarray(p, np.float32) - low, None) for p in (example["inputs"][0, s], example["targets"][0, s], answer[0, s])]
    if head.task == "rebuild":
        s = example["start"].shape[1] // 2
        return [(np.abs(example["start"][-1, s]), None), (np.asarray(example["targets"][0, s]), None), (answer[-1, s], None)]
    if head.task in ("category", "tissues", "picture"):
        return [(np.asarray(example["inputs"][0, example["inputs"].shape[1] // 2], np.float32), None)]
    return []


def plot_reliability(parts: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Share that is true by the probability given, a line a part of the figures; on the diagonal, probabilities are kept."""
    pyplot = drawing()
    figure, axis = pyplot.subplots(figsize=(3.6, 3.6), layout="constrained")
    axis.plot((0, 1), (0, 1), color="0.7", linewidth=1)
    for name, part in parts.items():
        sure, true, _ = zip(*part["bins"], strict=True)
        axis.plot(sure, true, marker="o", markersize=3, label=f"{name}: ECE {part['ece'][0]:.3f}")
    axis.set(xlabel=f"probability ({part['of']})", ylabel="share that is true", xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axis.legend(fontsize=7)
    figure.savefig(path, dpi=90)
    pyplot.close(figure)


def plot_heat(image: NDArray[np.float32], heat: NDArray[np.float32], name: str, path: Path, window: tuple[float, float] | None = None) -> None:
    """The three slices, apart from each other, in which hiding a part changes the probability of class `name` most; both (S, H, W)."""
    pyplot = drawing()
    most, limit = np.abs(heat).max((1, 2)), max(float(np.abs(heat).max()), 1e-3)
    chosen: list[int] = []
    for s in np.argsort(-most):
        if len(chosen) < 3 and all(abs(int(s) - c) >= max(1, len(heat) // 8) for c in chosen):
            chosen.append(int(s))
    figure, axes = pyplot.subplots(1, len(chosen), figsize=(2.6 * len(chosen) + 1.0, 2.9), layout="constrained", squeeze=False)
    low, high = window or (float(v) for v in np.quantile(image, (0.01, 0.995)))
    for axis, s in zip(axes[0], sorted(chosen), strict=True):
        axis.imshow(image[s], cmap="gray", vmin=low, vmax=max(high, low + 1e-6))
        # what counts for nothing stays clear, so that the image is seen beneath
        shown = axis.imshow(heat[s], cmap="coolwarm", vmin=-limit, vmax=limit, alpha=np.clip(np.abs(heat[s]) / limit, 0, 0.6))
        axis.set_title(f"slice {s + 1}", fontsize=8)
        axis.axis("off")
    figure.colorbar(shown, ax=axes[0].tolist(), shrink=0.8).set_label(f"fall of the probability of\n{name} when hidden", fontsize=8)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def layers(masks: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Later masks on top of earlier ones."""
    code = np.zeros(masks.shape[1:], np.int64)
    for k, mask in enumerate(masks):
        code[mask] = k + 1
    return code


def drawing() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot
