"""What a class was read from: parts of the images hidden, or values left out, in turn; how far its probability falls (Zeiler, arXiv 1311.2901)."""
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from vision.heads.clinical import VALUES, with_shares
from vision.heads.examples import Example
from vision.heads.infer import resample

Floats = NDArray[np.float32]
Box = tuple[slice, slice, slice]
Answer = Callable[[Example], Floats]        # probability of each class

BOXES = (5, 5, 5)           # over the head, by axis; a second set lies half a box further
FEW_BOXES = (3, 3, 3)       # where each answer takes a net of three dimensions
SLICES_MAX = 16
AIR = 0.1                   # of the 99th percentile: what is darker is no head


def occlusion(answer: Answer, example: Example, slices_max: int = SLICES_MAX, parts: tuple[int, int, int] = BOXES) -> tuple[int, Floats]:
    """The likeliest class, and (S, H, W) by how much its probability falls when the place is hidden (below zero: it rises).

    A box is hidden by giving its points, head only, the head's median in the channel, with a soft edge: what stands out is gone, no edge is new.
    Of a volume with more than `slices_max` slices so many are hidden in and answered from, evenly spread.
    """
    likeliest, whole = int(answer(example).argmax()), example["inputs"].shape[1]
    edges = np.linspace(0, whole, min(slices_max, whole) + 1)
    inputs = np.asarray(example["inputs"], np.float32)[:, ((edges[:-1] + edges[1:]) / 2).astype(int)]
    head = head_of(inputs)
    before = answer(Example({"inputs": inputs}, example.facts))
    grey = [float(np.median(channel[head])) if head.any() else 0.0 for channel in inputs]
    fall, times = np.zeros(inputs.shape[1:], np.float32), np.zeros(inputs.shape[1:], np.float32)
    for box in boxes(head, parts):
        if not head[box].any():
            continue
        soft = soft_box(inputs.shape[1:], box) * head
        hidden = np.stack([channel + soft * (level - channel) for channel, level in zip(inputs, grey, strict=True)])
        after = answer(Example({"inputs": hidden}, example.facts))
        fall += soft * float(before[likeliest] - after[likeliest])
        times += soft
    heat = fall / np.maximum(times, 1e-6)
    return likeliest, resample(heat[None], (whole, *heat.shape[1:]))[0]


def head_of(inputs: Floats) -> NDArray[np.bool_]:
    """Where the head is, its cavities included."""
    bright = (np.abs(inputs) > AIR * np.quantile(np.abs(inputs), 0.99, axis=(1, 2, 3), keepdims=True)).any(0)
    return np.stack([ndimage.binary_fill_holes(plane) for plane in bright])


def boxes(head: NDArray[np.bool_], parts: tuple[int, int, int] = BOXES) -> Iterator[Box]:
    """Two sets of boxes that each cover the head, the second shifted by half a box."""
    if not head.any():
        return
    sides = []
    for axis, count in enumerate(parts):
        held = np.flatnonzero(head.any(tuple(a for a in range(3) if a != axis)))
        sides.append((int(held[0]), int(held[-1]) + 1, max(1, -(-(int(held[-1]) + 1 - int(held[0])) // count))))
    for shift in (0, 1):
        begins = [range(low - shift * (step // 2), high, step) for low, high, step in sides]
        for corner in product(*begins):
            yield tuple(slice(max(0, at), at + step) for at, (_, _, step) in zip(corner, sides, strict=True))  # type: ignore[misc]  # of three


def soft_box(shape: tuple[int, ...], box: Box) -> Floats:
    """1 inside, falling to 0 over a sixth of the box in the plane; slices are hidden whole."""
    planes = np.zeros(shape[1:], np.float32)
    planes[box[1:]] = 1
    side = min(s.stop - s.start for s in box[1:])
    soft = np.zeros(shape, np.float32)
    soft[box[0]] = ndimage.gaussian_filter(planes, side / 6)
    return soft


def left_out(answer: Callable[[dict[str, Any]], Floats], numbers: Mapping[str, Any]) -> tuple[int, dict[str, float]]:
    """The likeliest class of a patient's values, and by how much its probability falls without each of them; the last one left cannot go."""
    before = answer(dict(numbers))
    likeliest, falls = int(before.argmax()), {}
    volumes = dict(numbers.get("volumes_ml") or {})
    known = with_shares(volumes)            # both hippocampi are one value; a share goes with its volume
    given = [name for name, _, _ in VALUES if not name.endswith(" share") and (name in known or numbers.get(name) not in (None, ""))]
    for name in given if len(given) > 1 else ():
        kept = {k: v for k, v in volumes.items() if k.removesuffix(" right").removesuffix(" left") != name}
        rest = {k: v for k, v in numbers.items() if k != name} | {"volumes_ml": kept}
        falls[name] = round(float(before[likeliest] - answer(rest)[likeliest]), 3)
    return likeliest, dict(sorted(falls.items(), key=lambda row: -abs(row[1])))
