"""What a head does by its kind: the network, how a batch is drawn, what it learns by, how a case is answered and scored."""
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional

from data.simulate.case import STRUCTURES
from vision.heads import Head
from vision.heads.attention import SliceAttention
from vision.heads.augment import Rng, cut, look, look_whole, move, move_whole
from vision.heads.channels import width_of
from vision.heads.clinical import VALUES, Clinical, patient_values
from vision.heads.examples import Example
from vision.heads.infer import NEIGHBOURS, planes, through, whole
from vision.heads.next_time import STRETCH, NextTime, match_maps
from vision.heads.picture_class import PictureClass
from vision.heads.plain_unet import PlainConfig, PlainUNet
from vision.heads.tissue_class import TissueClass, values_of
from vision.heads.two_stage import TwoStage, candidates, patches
from vision.heads.unet import UNet, UNetConfig
from vision.heads.unrolled import Unrolled, UnrolledConfig
from vision.losses import classes_loss, image_loss, outline_loss
from vision.metrics import dice, image_error

SIZE = 96                   # points a side of what a network learns from
SLICES = 16                 # of a volume that a classifier sees at once
NUMBERS = 0.5               # weight of the volumes that a classifier is taught beside its classes
WHOLE_STAGES = 3            # halvings of a net that reads a whole volume
TISSUES = len(STRUCTURES) + 1   # kinds of tissue that it tells apart: background, structures, lesion
JUDGED = 240                # cases whose candidates the judge of a detector learns from
VIEWS, VIEWED = 4, 2000     # of each case, and of all, that the last layer of a classifier learns from
TAUGHT_SLICES = 4           # of a volume in a training step
MEASURED = 0.25             # spread of the error, in usual spreads, that is added to a patient's values in training
CLASS_SIZE = 128            # points a side that a classifier sees of a slice: all of it
LEFT_OUT = 0.3              # greatest share of a patient's values that are left out in training: a department measures some of them only
TINTED = 0.25               # spread of the logarithm of a tissue's brightness that is added in training
LIKELY = 0.5                # probability from which a point belongs to an outline
TRUE_SPOT = 0.3             # a candidate is true when so much of its cube's middle, or any of its points, lies in the truth
FALSE_A_SUBJECT = 1.0       # false positives at which the sensitivity of a detector is told
Batch = dict[str, Tensor]
Scores = dict[str, float]


@dataclass(frozen=True)
class Task:
    """`validation` in a case's scores is what training stops by, lower is better."""

    build: Callable[[Head], nn.Module]
    draw: Callable[[Head, Sequence[Example], Rng, int, str], Batch]     # of a number of cases, on a device
    loss: Callable[[Head, nn.Module, Batch], Tensor]
    predict: Callable[[Head, nn.Module, Example, str], Any]
    score: Callable[[Head, Any, Example], Scores]
    batch: int = 8
    peak: float = 2e-3          # rate of learning at its highest
    second: "Second | None" = None
    close: Callable[[Head, nn.Module, Sequence[Example], str], None] | None = None     # what is fitted once, to the training cases, at the end


@dataclass(frozen=True)
class Second:
    """A second stage, taught from what the first makes of the training cases: `pool` once, then steps of `draw` and `loss`."""

    pool: Callable[[Head, nn.Module, Sequence[Example], str, int], Batch]
    draw: Callable[[Batch, Rng], Batch]
    loss: Callable[[nn.Module, Batch], Tensor]
    epoch: int                  # steps between validations


def maps_in(head: Head) -> int:
    return sum(width_of(name, head.series) for name in head.inputs)


def config_of(head: Head, outputs: int, neighbours: int = NEIGHBOURS) -> UNetConfig:
    return UNetConfig(maps_in(head) * (2 * neighbours + 1), outputs, width=head.width, widest=3 * head.width)


def near(example: Example, s: int) -> list[NDArray[Any]]:
    """The slice and its neighbours, as `stack_neighbours` orders them."""
    inputs, last = example["inputs"], example["inputs"].shape[1] - 1
    at = [min(max(s + k, 0), last) for k in range(-NEIGHBOURS, NEIGHBOURS + 1)]
    return [inputs[c, k] for c in range(len(inputs)) for k in at]


# ---------------------------------------------------------------- outlines

def build_outline(head: Head) -> nn.Module:
    outputs = len(head.outputs) + head.exclusive
    net = UNet(config_of(head, outputs) if head.dimensions == 2 else whole_config(head, outputs))
    if not head.exclusive:
        assert net.answer.bias is not None
        nn.init.constant_(net.answer.bias, -3.0)            # what is looked for is rare
    return net


def draw_outline(head: Head, examples: Sequence[Example], rng: Rng, batch: int, device: str = "cpu") -> Batch:
    """Half of the slices hold something, one output as often as another, and are looked at there."""
    if head.dimensions == 3:
        return draw_whole(head, examples, rng, batch, device)
    stacks, centres = [], np.zeros((batch, 2))
    for i in range(batch):
        example, place = draw_slice(head, examples, rng, wanted=i % 2 == 0)
        targets = example["targets"]
        stacks.append(torch.from_numpy(np.stack([*near(example, place[0]), *targets[:, place[0]]]).astype(np.float32)))
        centres[i] = centre_of(place, targets.shape[2:], rng)
    same = max(s.shape[-2] for s in stacks), max(s.shape[-1] for s in stacks)
    stack = torch.stack([functional.pad(s, (0, same[1] - s.shape[-1], 0, same[0] - s.shape[-2])) for s in stacks]).to(device)
    kinds = stack.shape[1] - maps_in(head) * (2 * NEIGHBOURS + 1)
    moved = move(stack, centres, SIZE, rng, codes=kinds)
    image, targets = moved[:, :-kinds], moved[:, -kinds:]
    return {"image": look(image, rng, maps_in(head)), "targets": targets[:, 0].long() if head.exclusive else targets}


def draw_slice(head: Head, examples: Sequence[Example], rng: Rng, wanted: bool) -> tuple[Example, tuple[int, int, int] | tuple[int]]:
    for _ in range(8):
        example = examples[rng.integers(len(examples))]
        targets = example["targets"]
        if not wanted:
            return example, (int(rng.integers(targets.shape[1])),)
        kind = int(rng.integers(len(head.outputs)))
        held = slices_with(head, example, kind)
        if len(held):
            s = int(held[rng.integers(len(held))])
            points = np.argwhere(targets[0, s] == kind + 1 if head.exclusive else targets[kind, s])
            row, col = points[rng.integers(len(points))]
            return example, (s, int(row), int(col))
    return example, (int(rng.integers(targets.shape[1])),)


def slices_with(head: Head, example: Example, kind: int) -> NDArray[np.int64]:
    held = example.facts.setdefault("held", {})
    if kind not in held:
        targets = example["targets"]
        held[kind] = np.flatnonzero((targets[0] == kind + 1 if head.exclusive else targets[kind]).any((1, 2)))
    return held[kind]


def centre_of(place: tuple[int, ...], shape: tuple[int, ...], rng: Rng) -> tuple[float, float]:
    """(column, row) in -1..1 of the middle of the square that is drawn: near the point, and within the slice."""
    found = []
    for axis, length in ((2, shape[1]), (1, shape[0])):
        room = max(0.0, 1 - SIZE / length)
        wish = (place[axis] + 0.5) / length * 2 - 1 + rng.normal(0, 0.15) if len(place) == 3 else rng.uniform(-1, 1) * room
        found.append(float(np.clip(wish, -room, room)) + float(rng.normal(0, 0.04)))
    return found[0], found[1]


def loss_outline(head: Head, net: nn.Module, batch: Batch) -> Tensor:
    logits = net(batch["image"])
    return classes_loss(logits, batch["targets"]) if head.exclusive else outline_loss(logits, batch["targets"])


def outline_finish(head: Head) -> Callable[[Tensor], Tensor]:
    return (lambda x: torch.softmax(x, 1)[:, 1:]) if head.exclusive else torch.sigmoid


def predict_outline(head: Head, net: nn.Module, example: Example, device: str) -> NDArray[np.float32]:
    return through(net, example["inputs"], net.config.stride, device, outline_finish(head), flips=True)


def masks_of(head: Head, probability: NDArray[np.float32]) -> NDArray[np.bool_]:
    if not head.exclusive:
        return probability > LIKELY
    code = np.concatenate([1 - probability.sum(0, keepdims=True), probability]).argmax(0)
    return np.stack([code == k + 1 for k in range(len(head.outputs))])


def truth_masks(head: Head, example: Example) -> NDArray[np.bool_]:
    targets = np.asarray(example["targets"])
    return np.stack([targets[0] == k + 1 for k in range(len(head.outputs))]) if head.exclusive else targets > 0


def score_outline(head: Head, probability: NDArray[np.float32], example: Example) -> Scores:
    """Dice of each output that is there; what is found where there is nothing, mL; whether what is there is found at all."""
    found, truth = masks_of(head, probability), truth_masks(head, example)
    scores: Scores = {}
    for k, name in enumerate(head.outputs):
        size = f" {name}" if len(head.outputs) > 1 else ""
        if truth[k].any():
            scores[f"dice{size}"] = dice(found[k], truth[k])
            scores[f"volume_error_ml{size}"] = abs(int(found[k].sum()) - int(truth[k].sum())) * example.voxel_ml
            scores[f"detected{size}"] = float((found[k] & truth[k]).any())
        else:
            scores[f"false_ml{size}"] = int(found[k].sum()) * example.voxel_ml
    overlaps = [v for k, v in scores.items() if k.startswith("dice")]
    if overlaps:
        scores["dice"] = float(np.mean(overlaps))
    scores["validation"] = 1 - scores["dice"] if overlaps else min(1.0, sum(v for k, v in scores.items() if k.startswith("false_ml")) / 20)
    return scores


# ---------------------------------------------------------------- two stages

def build_detect(head: Head) -> nn.Module:
    net = TwoStage(config_of(head, len(head.outputs)), maps_in(head))
    assert net.map.answer.bias is not None
    nn.init.constant_(net.map.answer.bias, -3.0)
    return net


@dataclass(frozen=True)
class Spots:
    """Candidates of a case: probability map, the map of spots, and each one's label, centre, chance by the judge."""

    probability: NDArray[np.float32]
    labels: NDArray[np.int32]
    index: list[int]
    centres: list[tuple[int, int, int]]
    chance: NDArray[np.float32]


def propose(net: nn.Module, example: Example, device: str) -> Spots:
    assert isinstance(net, TwoStage)
    probability = planes(net, example["inputs"], net.map.config.stride, device, torch.sigmoid, flips=True)[0]
    found, labels = candidates(probability)
    return Spots(probability, labels, [c.label for c in found], [c.centre for c in found], np.array([c.peak for c in found], np.float32))


def judge_patches(example: Example, spots: Spots) -> tuple[Tensor, NDArray[np.bool_]]:
    """(cubes, which are true) of a case's candidates; cubes of the truth itself are added, so that there is always one of each."""
    truth = np.asarray(example["targets"])[0] > 0
    right = [bool(truth[spots.labels == k].any()) for k in spots.index]
    real, count = ndimage.label(truth, np.ones((3, 3, 3)))
    middles = [tuple(int(v) for v in c) for c in ndimage.center_of_mass(truth, real, range(1, count + 1))] if count else []
    cubes = patches(np.asarray(example["inputs"], np.float32), spots.probability, [*spots.centres, *middles])
    return cubes, np.array([*right, *([True] * len(middles))], bool)


def candidates_of(head: Head, net: nn.Module, examples: Sequence[Example], device: str, seed: int) -> Batch:
    net.eval()
    found = [judge_patches(example, propose(net, example, device)) for example in examples[:JUDGED]]
    return {"cubes": torch.cat([cubes for cubes, _ in found]), "right": torch.from_numpy(np.concatenate([right for _, right in found]))}


def draw_judge(pool: Batch, rng: Rng, batch: int = 24) -> Batch:
    cubes, right = pool["cubes"], pool["right"].numpy()
    sides = [np.flatnonzero(right == (i % 2 == 0)) for i in range(batch)]
    index = [int(side[rng.integers(len(side))]) if len(side) else int(rng.integers(len(right))) for side in sides]
    drawn = cubes[index].clone()
    for axis in (-1, -2, -3):
        drawn = torch.stack([c.flip(axis) if rng.uniform() < 0.5 else c for c in drawn])
    # another scanner's brightness and noise, not of the last channel, the first stage's answer
    seen = drawn[:, :-1]
    gain, lift = (torch.from_numpy(rng.uniform(-1, 1, (batch, seen.shape[1]))).float()[:, :, None, None, None] for _ in range(2))
    noise = torch.from_numpy(rng.standard_normal(seen.shape).astype(np.float32)) * 0.05
    drawn[:, :-1] = seen * (1 + 0.25 * gain) + 0.15 * lift + noise
    return {"cubes": drawn, "right": torch.from_numpy(right[index]).float()}


def loss_judge(net: nn.Module, batch: Batch) -> Tensor:
    assert isinstance(net, TwoStage)
    return functional.binary_cross_entropy_with_logits(net.judged(batch["cubes"]), batch["right"])


def predict_detect(head: Head, net: nn.Module, example: Example, device: str) -> Spots:
    """Candidates, each with the judge's chance that it is one."""
    spots = propose(net, example, device)
    if not spots.index:
        return spots
    cubes = patches(np.asarray(example["inputs"], np.float32), spots.probability, spots.centres)
    assert isinstance(net, TwoStage)
    with torch.inference_mode():
        chance = torch.sigmoid(torch.cat([net.judged(cubes[i:i + 32].to(device)).float().cpu() for i in range(0, len(cubes), 32)])).numpy()
    return Spots(spots.probability, spots.labels, spots.index, spots.centres, chance)


def detected_mask(spots: Spots, chance: float = LIKELY) -> NDArray[np.bool_]:
    """The points likely in themselves of the candidates that the judge lets pass, at least the surest points of each."""
    kept = [k for k, c in zip(spots.index, spots.chance, strict=True) if c >= chance]
    inside = np.isin(spots.labels, kept)
    return inside & (spots.probability > 0.4)


def score_detect(head: Head, spots: Spots, example: Example) -> Scores:
    """Counts for the pooled figures, Dice where something is there; a lesion is found when a kept candidate touches it."""
    truth = np.asarray(example["targets"])[0] > 0
    real, count = ndimage.label(truth, np.ones((3, 3, 3)))
    kept = [k for k, c in zip(spots.index, spots.chance, strict=True) if c >= LIKELY]
    touched = {int(v) for v in np.unique(real[np.isin(spots.labels, kept)])} - {0}
    false = sum(not truth[spots.labels == k].any() for k in kept)
    scores: Scores = {"lesions": float(count), "lesions_found": float(len(touched)), "false_positives": float(false)}
    if "mimics" in example.arrays:
        mimics = np.asarray(example["mimics"]) > 0
        scores["mimics_taken"] = float(sum(bool(mimics[spots.labels == k].any()) and not truth[spots.labels == k].any() for k in kept))
    found = detected_mask(spots)
    if count:
        scores |= {"dice": dice(found, truth), "detected": float(bool(touched)),
                   "volume_error_ml": abs(int(found.sum()) - int(truth.sum())) * example.voxel_ml}
    else:
        scores |= {"false_ml": int(found.sum()) * example.voxel_ml, "clean": float(not kept)}
    scores["validation"] = 1 - scores.get("dice", 0.0 if kept else 1.0) + 0.1 * min(false, 5)
    return scores


# ---------------------------------------------------------------- images

def build_image(head: Head) -> nn.Module:
    net = UNet(config_of(head, len(head.outputs)))
    if start_maps(head):
        nn.init.zeros_(net.answer.weight)
        assert net.answer.bias is not None
        nn.init.zeros_(net.answer.bias)                     # begin by giving the input back
    return net


def draw_image(head: Head, examples: Sequence[Example], rng: Rng, batch: int, device: str = "cpu") -> Batch:
    stacks = []
    size = min(SIZE, *(min(e["inputs"].shape[-2:]) // 16 * 16 for e in examples[:1]))
    while len(stacks) < batch:
        example = examples[rng.integers(len(examples))]
        s = int(rng.integers(example["inputs"].shape[1]))
        if example["inside"][s].any():
            stacks.append(np.stack([*near(example, s), *example["targets"][:, s]]).astype(np.float32))
    pieces = torch.cat([cut(torch.from_numpy(stack)[None], size, rng) for stack in stacks]).to(device)
    kinds = len(head.outputs)
    return {"image": pieces[:, :-kinds], "targets": pieces[:, -kinds:]}


def start_maps(head: Head) -> list[int]:
    """Channels of `stack_neighbours` that hold what each output is a change of: the input in `start`, or FA and MD of a diffusion series."""
    if head.inputs == ("DIFFUSION",) and maps_in(head) > head.series:
        return [m * (2 * NEIGHBOURS + 1) + NEIGHBOURS for m in range(head.series, maps_in(head))]
    if not head.start:
        return []
    before = sum(width_of(name, head.series) for name in head.inputs[:head.inputs.index(head.start)])
    return [before * (2 * NEIGHBOURS + 1) + NEIGHBOURS]


class Made(nn.Module):
    """The U-Net, and the input that its answer is added to."""

    def __init__(self, head: Head, net: nn.Module) -> None:
        super().__init__()
        self.net, self.at = net, start_maps(head)
        self.config = net.config

    def forward(self, image: Tensor) -> Tensor:
        answer = self.net(image)
        return answer + image[:, self.at].to(answer.dtype) if self.at else answer


def loss_image(head: Head, net: nn.Module, batch: Batch) -> Tensor:
    made = Made(head, net)(batch["image"])
    batch["made"] = made
    return image_loss(made, batch["targets"], head.loss)


def predict_image(head: Head, net: nn.Module, example: Example, device: str) -> NDArray[np.float32]:
    return planes(Made(head, net), example["inputs"], net.config.stride, device, flips=True)


def score_image(head: Head, made: NDArray[np.float32], example: Example) -> Scores:
    truth, inside = np.asarray(example["targets"], np.float32), np.asarray(example["inside"]) > 0
    scores: Scores = {}
    for k, name in enumerate(head.outputs):
        scale = float(example.facts["scales"][name]) if name in ("CT", "FULL_DOSE") else 1.0
        figures = image_error(made[k] * scale, truth[k] * scale, inside)
        scores |= {f"{key}_{name.lower()}" if len(head.outputs) > 1 else key: value for key, value in figures.items()}
        if name == "CT":
            for tissue, low, high in (("bone", 250, 4000), ("soft", -200, 250), ("air", -2000, -200)):
                part = (truth[k] * scale >= low) & (truth[k] * scale < high) & (inside | (tissue == "air"))
                if part.any():
                    scores[f"mae_{tissue}"] = float(np.abs(made[k] - truth[k])[part].mean() * scale)
    main = head.metric if head.metric in scores else "ssim"
    scores["validation"] = scores[main] if head.better == "lower" else 1 - scores[main]
    return scores


# ---------------------------------------------------------------- classes

def build_category(head: Head) -> nn.Module:
    return SliceAttention(config_of(head, len(head.outputs), neighbours=0), kinds=TISSUES, numbers=len(VALUES))


def slices_at(example: Example, rng: Rng | None, part: float = 0.5, slices: int = SLICES) -> list[int]:
    """`slices` of a case, evenly spread, or as many as there are; `part` of the way from each to the next unless drawn."""
    count = example["inputs"].shape[1]
    edges = np.linspace(0, count, min(slices, count) + 1)
    return [int(rng.uniform(a, b)) if rng is not None else min(int(a + part * (b - a)), count - 1) for a, b in pairwise(edges)]


def slices_of(example: Example, at: Sequence[int]) -> NDArray[np.float32]:
    """(slices, maps, H, W)."""
    return np.asarray(example["inputs"], np.float32)[:, at].transpose(1, 0, 2, 3)


def draw_category(head: Head, examples: Sequence[Example], rng: Rng, batch: int, device: str = "cpu", slices: int = TAUGHT_SLICES) -> Batch:
    """Classes alike; the slices of a volume are turned and lit alike. Tissue that nobody knows has the code TISSUES.

    Of cases with fewer slices more are drawn, so that a batch holds as many slices.
    """
    batch *= max(1, slices // examples[0]["inputs"].shape[1])
    classes = [[e for e in examples if e.facts["category"] == k] for k in range(len(head.outputs))]
    classes = [c for c in classes if c]
    stacks, labels, numbers = [], [], []
    for _ in range(batch):
        own = classes[rng.integers(len(classes))]
        example = own[rng.integers(len(own))]
        at = slices_at(example, rng, slices=slices)
        image = slices_of(example, at)
        tissue = np.asarray(example["targets"])[0, at] if "targets" in example.arrays else np.full(image[:, 0].shape, TISSUES)
        stacks.append(np.concatenate([image.reshape(-1, *image.shape[2:]), tissue.astype(np.float32)]))
        labels.append(int(example.facts["category"]))
        known = example.facts["numbers"]
        numbers.append(patient_values(known) if "volumes_ml" in known else np.zeros(2 * len(VALUES), np.float32))
    count, maps = tissue.shape[0], image.shape[1]
    stack = torch.from_numpy(np.stack(stacks)).to(device)
    moved = move(stack, rng.normal(0, 0.04, (batch, 2)), side_of(*stack.shape[-2:]), rng, codes=count)
    seen = look(moved[:, :-count], rng, 1).unflatten(1, (count, maps))
    return {"image": seen, "tissue": moved[:, -count:].long(), "labels": torch.tensor(labels), "numbers": torch.from_numpy(np.stack(numbers))}


def side_of(height: int, width: int) -> int:
    return min(CLASS_SIZE, -(-max(height, width) // 16) * 16)


def loss_category(head: Head, net: nn.Module, batch: Batch) -> Tensor:
    assert isinstance(net, SliceAttention)
    seen = net.see(batch["image"])
    verdict = net.weigh(seen.features)
    values, known = batch["numbers"].chunk(2, 1)
    missed = (((verdict.numbers - values) ** 2) * known).sum() / known.sum().clamp_min(1)
    loss = functional.cross_entropy(verdict.logits, batch["labels"], label_smoothing=0.05) + NUMBERS * missed
    loss = loss + functional.cross_entropy(net.last(torch.cat([verdict.logits, seen.tissue], 1)), batch["labels"], label_smoothing=0.05)
    tissue = batch["tissue"].flatten(0, 1)
    if (tissue < TISSUES).all():
        loss = loss + 4 * classes_loss(seen.kinds.float(), tissue)
    return loss


def answers_of(head: Head, net: nn.Module, examples: Sequence[Example], device: str, seed: int) -> Batch:
    """What the taught network makes of each whole case, changed in VIEWS ways: the last layer then learns from it in no time."""
    assert isinstance(net, SliceAttention)
    net.eval()
    rng, found = np.random.default_rng([seed, 1]), []
    while sum(len(labels) for _, labels in found) < min(VIEWS * len(examples), VIEWED):
        batch = draw_category(head, examples, rng, 4, device, SLICES)
        with torch.inference_mode():
            seen = net.see(batch["image"])
            found.append((torch.cat([net.weigh(seen.features).logits, seen.tissue], 1).float().cpu(), batch["labels"]))
    return {"answers": torch.cat([a for a, _ in found]).clone(), "labels": torch.cat([labels for _, labels in found])}


def draw_answers(pool: Batch, rng: Rng) -> Batch:
    index = torch.from_numpy(rng.integers(len(pool["labels"]), size=64))
    return {name: values[index] for name, values in pool.items()}


def loss_answers(net: nn.Module, batch: Batch) -> Tensor:
    assert isinstance(net, SliceAttention)
    small = 0.01 * net.last.weight.square().sum()               # few cases, and what the network answered of its own training cases is too sure
    return functional.cross_entropy(net.last(batch["answers"]), batch["labels"], label_smoothing=0.05) + small


def predict_category(head: Head, net: nn.Module, example: Example, device: str) -> NDArray[np.float32]:
    """The mean over mirrored and over interleaved sets of slices, so that all of a volume is seen (of more than 64 slices, 64)."""
    sets = min(4, -(-example["inputs"].shape[1] // SLICES))
    found = []
    with torch.inference_mode():
        for part in (np.arange(sets) + 0.5) / sets:
            volume = torch.from_numpy(slices_of(example, slices_at(example, None, float(part))))
            high, wide = (-n % 16 for n in volume.shape[-2:])
            volume = functional.pad(volume, (0, wide, 0, high))
            found.append(net(torch.stack([volume, volume.flip(-1)]).to(device)).logits.float())
    return torch.softmax(torch.cat(found), 1).mean(0).cpu().numpy()


def score_category(head: Head, probability: NDArray[np.float32], example: Example) -> Scores:
    label = int(example.facts["category"])
    return {"validation": float(-np.log(max(float(probability[label]), 1e-6))), "label": float(label)} | {
        f"p{k}": float(p) for k, p in enumerate(probability)}


# ---------------------------------------------------------------- classes from tissues

def as_tissues(head: Head) -> Head:
    """The row as one that outlines the tissues, each point one."""
    return replace(head, outputs=STRUCTURES[1:], exclusive=True)


def build_tissues(head: Head) -> nn.Module:
    return TissueClass(whole_config(head, len(STRUCTURES)), len(head.outputs))


def whole_config(head: Head, outputs: int) -> UNetConfig:
    return UNetConfig(maps_in(head), outputs, head.width, 3 * head.width, stages=WHOLE_STAGES, dimensions=3)


def draw_whole(head: Head, examples: Sequence[Example], rng: Rng, batch: int, device: str = "cpu") -> Batch:
    """Whole volumes, the smaller ones with air behind them."""
    drawn = [examples[i] for i in rng.integers(len(examples), size=batch)]
    stride = 2**WHOLE_STAGES
    side = [-(-max(e["inputs"].shape[axis] for e in drawn) // stride) * stride for axis in (1, 2, 3)]

    def stacked(name: str) -> Tensor:
        arrays = [torch.from_numpy(np.array(e[name])).to(device).float() for e in drawn]
        return torch.stack([functional.pad(a, [n for axis in (3, 2, 1) for n in (0, side[axis - 1] - a.shape[axis])]) for a in arrays])

    image, codes = move_whole(stacked("inputs"), stacked("targets"), rng)
    return {"image": look_whole(image, codes, int(codes.max()) + 1, rng, TINTED), "targets": codes[:, 0].long()}


def loss_tissues(head: Head, net: nn.Module, batch: Batch) -> Tensor:
    assert isinstance(net, TissueClass)
    return classes_loss(net.unet(batch["image"]), batch["targets"])


def tissues_in(net: nn.Module, example: Example, device: str, flips: bool = True) -> Tensor:
    """(tissues, S, H, W) probabilities on `device`."""
    assert isinstance(net, TissueClass)
    return whole(net.unet, example["inputs"], net.config.stride, device, lambda x: torch.softmax(x, 1)[:, 1:], flips)


def values_in(net: nn.Module, example: Example, device: str, flips: bool = True) -> Tensor:
    return values_of(tissues_in(net, example, device, flips), example.facts["spacing_mm"])


def fit_tissues(head: Head, net: nn.Module, examples: Sequence[Example], device: str) -> None:
    assert isinstance(net, TissueClass)
    values = torch.stack([values_in(net.eval(), example, device) for example in examples])
    net.fit(values, torch.tensor([int(e.facts["category"]) for e in examples], device=device), head.ordered)


def class_of(net: nn.Module, values: Tensor) -> NDArray[np.float32]:
    with torch.inference_mode():
        return torch.softmax(net(values[None]), 1)[0].cpu().numpy()


def predict_tissues(head: Head, net: nn.Module, example: Example, device: str) -> NDArray[np.float32]:
    return class_of(net, values_in(net, example, device))


# ---------------------------------------------------------------- classes of single pictures

def build_picture(head: Head) -> nn.Module:
    return PictureClass(len(head.outputs))


def draw_picture(head: Head, examples: Sequence[Example], rng: Rng, batch: int, device: str = "cpu") -> Batch:
    """Classes alike, a picture each, turned and lit as another scanner might."""
    classes = [c for c in ([e for e in examples if e.facts["category"] == k] for k in range(len(head.outputs))) if c]
    pictures, labels = [], []
    for _ in range(batch):
        own = classes[rng.integers(len(classes))]
        example = own[rng.integers(len(own))]
        inputs = example["inputs"]
        pictures.append(torch.from_numpy(np.asarray(inputs[0, [int(rng.integers(inputs.shape[1]))]], np.float32)))
        labels.append(int(example.facts["category"]))
    side = side_of(max(p.shape[1] for p in pictures), max(p.shape[2] for p in pictures))
    squares = torch.stack([fit_square(p, side) for p in pictures]).to(device)
    moved = move(squares, rng.normal(0, 0.04, (batch, 2)), side, rng)
    return {"pictures": look(moved, rng), "labels": torch.tensor(labels)}


def fit_square(picture: Tensor, side: int) -> Tensor:
    """(1, H, W) in the middle of a square, made smaller where it must."""
    longest = max(picture.shape[1:])
    if longest > side:
        picture = functional.interpolate(picture[None], scale_factor=side / longest, mode="bilinear", antialias=True)[0]
    high, wide = side - picture.shape[1], side - picture.shape[2]
    return functional.pad(picture, (wide // 2, wide - wide // 2, high // 2, high - high // 2))


def loss_picture(head: Head, net: nn.Module, batch: Batch) -> Tensor:
    return functional.cross_entropy(net(batch["pictures"])[:, 0], batch["labels"], label_smoothing=0.05)


def predict_picture(head: Head, net: nn.Module, example: Example, device: str) -> NDArray[np.float32]:
    """The mean over the picture and its mirror image."""
    with torch.inference_mode():
        pictures = torch.from_numpy(np.asarray(example["inputs"][0], np.float32))[None].to(device)
        logits = torch.cat([net(pictures), net(pictures.flip(-1))], 1)[0].float()
    return torch.softmax(logits, 1).mean(0).cpu().numpy()


# ---------------------------------------------------------------- volumes, age and sex

def build_volumes(head: Head) -> nn.Module:
    return Clinical(len(head.outputs))


def draw_volumes(head: Head, examples: Sequence[Example], rng: Rng, batch: int, device: str = "cpu") -> Batch:
    index = rng.integers(len(examples), size=batch)
    values = np.stack([patient_values(examples[i].facts["numbers"]) for i in index])
    values[:, :len(VALUES)] += rng.normal(0, MEASURED, (batch, len(VALUES))) * values[:, len(VALUES):]
    kept = rng.uniform(size=(batch, len(VALUES))) >= rng.uniform(0, LEFT_OUT, (batch, 1))
    values *= np.concatenate([kept, kept], 1)
    return {"values": torch.from_numpy(values).float(), "labels": torch.tensor([int(examples[i].facts["category"]) for i in index])}


def loss_volumes(head: Head, net: nn.Module, batch: Batch) -> Tensor:
    return functional.cross_entropy(net(batch["values"]), batch["labels"])


def predict_volumes(head: Head, net: nn.Module, example: Example, device: str) -> NDArray[np.float32]:
    with torch.inference_mode():
        values = torch.from_numpy(patient_values(example.facts["numbers"])).float()[None]
        return torch.softmax(net(values.to(device)), 1)[0].cpu().numpy()


# ---------------------------------------------------------------- raw data

def build_rebuild(head: Head) -> nn.Module:
    return PlainUNet(PlainConfig()) if head.network == "unet" else Unrolled(UnrolledConfig())


def draw_rebuild(head: Head, examples: Sequence[Example], rng: Rng, batch: int, device: str = "cpu") -> Batch:
    """One slice of one undersampling each, scaled so that its brightest point is about 1."""
    rows: list[tuple[Any, ...]] = []
    for _ in range(batch):
        example = examples[rng.integers(len(examples))]
        s, f = int(rng.integers(example["start"].shape[1])), int(rng.integers(len(example["start"])))
        start, truth = np.asarray(example["start"][f, s]), np.asarray(example["targets"][0, s], np.float32)
        scale = float(np.abs(start).max()) + 1e-12
        rows.append((start / scale, np.asarray(example["coils"][:, s]), np.asarray(example["kernels"][f]), truth / scale))
    start, coils, kernels, truth = (torch.from_numpy(np.stack(column)) for column in zip(*rows, strict=True))
    return {"start": start, "coils": coils, "kernels": kernels, "targets": truth[:, None]}


def loss_rebuild(head: Head, net: nn.Module, batch: Batch) -> Tensor:
    made = net(batch["start"], batch["coils"], batch["kernels"]).abs()[:, None]
    return 5 * image_loss(made, batch["targets"], head.loss)


def predict_rebuild(head: Head, net: nn.Module, example: Example, device: str) -> NDArray[np.float32]:
    """(undersamplings, S, H, W) magnitude."""
    answer = np.zeros(example["start"].shape, np.float32)
    with torch.inference_mode():
        for f, s in np.ndindex(*answer.shape[:2]):
            parts = (example["start"][f, s], example["coils"][:, s], example["kernels"][f])
            answer[f, s] = net(*(torch.from_numpy(np.array(p))[None].to(device) for p in parts)).abs()[0].cpu().numpy()
    return answer


def score_rebuild(head: Head, made: NDArray[np.float32], example: Example) -> Scores:
    truth, inside = np.asarray(example["targets"], np.float32)[0], np.asarray(example["inside"]) > 0
    scores: Scores = {}
    for k, name in enumerate(head.outputs[: len(made)]):
        figures = image_error(made[k], truth, inside)
        scores |= {f"{key} {name}" if len(head.outputs) > 1 else key: value for key, value in figures.items() if key in ("ssim", "psnr", "nmse")}
    scores["ssim"] = float(np.mean([v for k, v in scores.items() if k.startswith("ssim")]))
    scores["validation"] = 1 - scores["ssim"]
    return scores


# ---------------------------------------------------------------- series

def build_series(head: Head) -> nn.Module:
    return NextTime()


def draw_series(head: Head, examples: Sequence[Example], rng: Rng, batch: int, device: str = "cpu") -> Batch:
    """Stretches of series, each brought to the points the net knows."""
    stretches = []
    for _ in range(batch):
        coarse = examples[rng.integers(len(examples))]["coarse"]
        begin = int(rng.integers(max(1, len(coarse) - STRETCH)))
        stretches.append(np.asarray(coarse[begin:begin + STRETCH], np.float32))
    return {"series": torch.from_numpy(np.stack(stretches))}


def loss_series(head: Head, net: nn.Module, batch: Batch) -> Tensor:
    assert isinstance(net, NextTime)
    return net.loss(batch["series"])


def predict_series(head: Head, net: nn.Module, example: Example, device: str) -> NDArray[np.float32]:
    """(networks, points): how each point of the brain follows each network."""
    assert isinstance(net, NextTime)
    return net.maps(torch.from_numpy(np.asarray(example["coarse"], np.float32)).to(device), np.asarray(example["series"], np.float32))


def score_series(head: Head, maps: NDArray[np.float32], example: Example) -> Scores:
    matched = match_maps(maps, np.asarray(example["maps"]))
    return {"map_correlation": float(matched.mean()), "validation": 1 - float(matched.mean())}


TASKS = {
    "outline": Task(build_outline, draw_outline, loss_outline, predict_outline, score_outline),
    "detect": Task(build_detect, draw_outline, loss_outline, predict_detect, score_detect, second=Second(candidates_of, draw_judge, loss_judge, 100)),
    "image": Task(build_image, draw_image, loss_image, predict_image, score_image),
    "category": Task(build_category, draw_category, loss_category, predict_category, score_category, batch=4,
                     second=Second(answers_of, draw_answers, loss_answers, 500)),
    "tissues": Task(build_tissues, draw_whole, loss_tissues, predict_tissues, score_category, batch=2, close=fit_tissues),
    "picture": Task(build_picture, draw_picture, loss_picture, predict_picture, score_category, batch=32, peak=6e-4),
    "volumes": Task(build_volumes, draw_volumes, loss_volumes, predict_volumes, score_category, batch=64, peak=1e-2),
    "rebuild": Task(build_rebuild, draw_rebuild, loss_rebuild, predict_rebuild, score_rebuild, batch=2),
    "series": Task(build_series, draw_series, loss_series, predict_series, score_series, batch=4),
}
