"""Train the encoder and its heads: simulated head CT, whole studies generated once, slices augmented as CT and as pictures."""
import csv
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from data.errors import InputError
from data.model_files import MODELS, save_model
from data.simulator import TYPES, list_anatomies, simulate_head_ct
from vision.encoder import Encoder, EncoderConfig
from vision.heads import HEADS
from vision.transforms import FIELD_MM, PICTURE_HEAD, SIZE, WINDOWS, window

OUTLINES = (*TYPES, "fracture")                 # segment head
SLICE_CODES = ("any", *TYPES, "fracture")       # classify head
OUTPUTS = {"classify": len(SLICE_CODES), "segment": len(OUTLINES), "midline": 3}
VERSION = "findings-1"
MIN_PIXELS = 12                                 # a slice counts as bleeding from this many pixels (25 mm2)


class FindingNet(nn.Module):
    """Encoder and every head; config first in the model folder."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.encoder = Encoder(config)
        self.heads = nn.ModuleDict({name: HEADS[name](config.channels_out, outputs) for name, outputs in OUTPUTS.items()})

    def forward(self, image: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        features = self.encoder(image)
        return {name: head(features) for name, head in self.heads.items()}, features.deep


# ---------------------------------------------------------------- data

class Slices:
    """Simulated studies as slices in memory: HU int16, labels uint8 (low nibble outline 1.., high nibble half 1 right, 2 left)."""

    def __init__(self, hu: NDArray[np.int16], labels: NDArray[np.uint8], counts: NDArray[np.int64], shift_mm: NDArray[np.float64],
                 slice_mm: NDArray[np.float64]) -> None:
        self.hu, self.labels, self.counts, self.shift_mm, self.slice_mm = hu, labels, counts, shift_mm, slice_mm
        self.study = np.repeat(np.arange(len(counts)), counts)
        low = labels & 15
        sizes = np.stack([(low == i + 1).sum((1, 2)) for i in range(len(OUTLINES))], 1)
        sizes[:, :5] *= sizes[:, :5] >= MIN_PIXELS
        self.present = np.concatenate([(sizes[:, :5].sum(1, keepdims=True) > 0), sizes > 0], 1).astype(np.float32)
        self.start = np.concatenate([[0], np.cumsum(counts)])
        healthy = np.flatnonzero(self.present.max(1) == 0)
        found = [np.flatnonzero(self.present[:, k] > 0) for k in range(1, 7)]
        self.pools = [healthy, *(pool if len(pool) else healthy for pool in found)]

    def __len__(self) -> int:
        return len(self.hu)


def make_slices(studies: int, seed: int, anatomy: Path | None, kept_heads: slice, report: Callable[..., None]) -> Slices:
    heads = list_anatomies(anatomy)[kept_heads] if anatomy else ("",)
    hu, labels, counts, shifts, thick = [], [], [], [], []
    for i in range(studies):
        rng = np.random.default_rng([seed, i, 7])
        source = "" if rng.uniform() < 0.15 else str(heads[rng.integers(len(heads))])
        study = simulate_head_ct(seed * 100_000 + i, rows=SIZE, field_mm=FIELD_MM, slice_mm=float(rng.choice([3.0, 4.0, 5.0, 5.0])),
                                 anatomy=source or None)
        label = study.halves << 4
        for k, name in enumerate(OUTLINES):
            if name in study.masks:
                label[study.masks[name] > 0] = (label[study.masks[name] > 0] & 240) | (k + 1)
        hu.append(study.volume.pixels.astype(np.int16))
        labels.append(label)
        counts.append(len(label))
        shifts.append(study.shift_mm)
        thick.append(study.volume.spacing_mm[0] if study.volume.spacing_mm else 5.0)
        report(i + 1, studies, phase="simulate")
    return Slices(np.concatenate(hu), np.concatenate(labels), np.array(counts), np.array(shifts), np.array(thick))


def load_pictures(folder: Path, half: int | None = None) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64], list[str]]:
    """Real pictures with labels.csv (file, hemorrhage, group): (images 0..1 on the grid, labels, groups, names); half 0 or 1 by group."""
    from PIL import Image

    from data.records import Volume
    from vision.transforms import grid_for, to_grid

    with (folder / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"file", "hemorrhage", "group"} <= set(rows[0]):
        raise InputError(f"labels.csv has columns {sorted(rows[0]) if rows else []}; expected file, hemorrhage, group")
    groups = sorted({int(r["group"]) for r in rows})
    order = np.random.default_rng(0).permutation(len(groups))
    side = {groups[g]: int(i % 2) for i, g in enumerate(order)}
    images, labels, kept, names = [], [], [], []
    for row in rows:
        if half is not None and side[int(row["group"])] != half:
            continue
        path = folder / "img" / row["file"] if (folder / "img").is_dir() else folder / row["file"]
        grey = np.asarray(Image.open(path).convert("L"), np.float32)[None] / 255
        volume = Volume(pixels=grey, spacing_mm=None, affine=None, units="1")
        images.append(to_grid(grey, grid_for(volume), 0.0)[0].clamp(0, 1).numpy())
        labels.append(float(row["hemorrhage"]))
        kept.append(int(row["group"]))
        names.append(row["file"])
    return np.stack(images), np.array(labels, np.float32), np.array(kept), names


# ---------------------------------------------------------------- augmentation

def augment(data: Slices, index: NDArray[np.int64], rng: np.random.Generator, picture: NDArray[np.bool_] | None = None,
            plain: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """(channels (B, 5, S, S), outlines (B, 6, S, S), halves (B, S/2, S/2) 0 outside 1 image-left 2 image-right) of the slices named."""
    batch = len(index)
    if picture is None:
        picture = rng.uniform(size=batch) < 0.4
    first, last = data.start[data.study[index]], data.start[data.study[index] + 1] - 1
    hu = torch.from_numpy(np.stack([data.hu[np.maximum(index - 1, first)], data.hu[index], data.hu[np.minimum(index + 1, last)]], 1)).float()
    labels = torch.from_numpy(data.labels[index])
    low, half = labels & 15, labels >> 4
    # In the image the patient's right (1) is on the left: 1 is already image-left.
    maps = torch.stack([(low == i + 1).float() for i in range(len(OUTLINES))], 1)
    if plain:
        return as_channels(hu, picture, None), maps, half[:, ::2, ::2].long()
    angle = torch.from_numpy(np.radians(rng.normal(0, 9, batch))).float()
    scale = torch.from_numpy(rng.uniform(0.9, 1.12, batch)).float()
    for b in np.flatnonzero(picture):
        scale[b] = head_scale(hu[b, 1]) / float(rng.uniform(0.88, 1.1))
    mirror = torch.from_numpy(np.where(rng.uniform(size=batch) < 0.5, -1.0, 1.0)).float()
    squeeze = torch.from_numpy(np.where(picture, rng.uniform(0.9, 1.1, batch), rng.uniform(0.97, 1.03, batch))).float()
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    move = torch.from_numpy(rng.uniform(-0.09, 0.09, (batch, 2))).float()
    theta = torch.stack([torch.stack([mirror * cos * squeeze, -sin, move[:, 0]], 1), torch.stack([mirror * sin * squeeze, cos, move[:, 1]], 1)], 1)
    places = functional.affine_grid(theta, [batch, 1, SIZE, SIZE], align_corners=False)
    hu = functional.grid_sample(hu + 1000, places, align_corners=False) - 1000
    maps = (functional.grid_sample(maps, places, align_corners=False) > 0.5).float()
    half = functional.grid_sample(half[:, None].float(), places, mode="nearest", align_corners=False)[:, 0]
    half = torch.where((mirror < 0)[:, None, None] & (half > 0), 3 - half, half)
    return as_channels(hu, picture, rng), maps, half[:, ::2, ::2].long()


def head_scale(hu: Tensor) -> float:
    """Zoom that makes the longer side of the head PICTURE_HEAD pixels."""
    bright = hu > -300
    rows, columns = torch.nonzero(bright.sum(1) > 3), torch.nonzero(bright.sum(0) > 3)
    if len(rows) < 8 or len(columns) < 8:
        return 1.0
    return max(float(rows[-1] - rows[0]), float(columns[-1] - columns[0])) / PICTURE_HEAD


def as_channels(hu: Tensor, picture: NDArray[np.bool_], rng: np.random.Generator | None) -> Tensor:
    """(B, 3, S, S) HU of below, here, above -> five channels; pictures know only a windowed grey."""
    below, here, above = hu.unbind(1)
    if rng is None:
        image = torch.stack([window(here, *WINDOWS["brain"]), window(here, *WINDOWS["blood"]), window(here, *WINDOWS["bone"]),
                             window(below, *WINDOWS["brain"]), window(above, *WINDOWS["brain"])], 1)
        image[torch.from_numpy(picture), 1:] = 0
        return image
    batch = len(hu)
    shift, gain = rng.normal(0, 1.5, batch), rng.uniform(0.96, 1.04, batch)
    level, width = np.full(batch, 40.0), np.full(batch, 80.0)
    level[picture], width[picture] = rng.uniform(28, 48, picture.sum()), rng.uniform(60, 150, picture.sum())
    at, lw, ww = (torch.from_numpy(v).float()[:, None, None] for v in (shift, level, width))
    grain = torch.from_numpy(rng.uniform(0, 3.5, batch)).float()[:, None, None]
    here = here * torch.from_numpy(gain).float()[:, None, None] + at + torch.randn_like(here) * grain
    image = torch.stack([((here - lw + ww / 2) / ww).clamp(0, 1), window(here, *WINDOWS["blood"]), window(here, *WINDOWS["bone"]),
                         window(below + at, *WINDOWS["brain"]), window(above + at, *WINDOWS["brain"])], 1)
    for b in range(batch):
        if picture[b]:
            image[b, 1:] = 0
            image[b, 0] = like_a_picture(image[b, 0], rng)
        else:       # any of the helping channels may be missing
            gone = rng.uniform(size=3) < (0.15, 0.15, 0.3)
            image[b, 1] *= float(~gone[0])
            image[b, 2] *= float(~gone[1])
            image[b, 3:] *= float(~gone[2])
    return image


def like_a_picture(grey: Tensor, rng: np.random.Generator) -> Tensor:
    """What the web does to a slice: gamma, blur, blocks, letters, black or grey margins."""
    grey = grey ** float(rng.uniform(0.75, 1.35))
    if rng.uniform() < 0.4:
        factor = float(rng.uniform(0.5, 0.9))
        small = functional.interpolate(grey[None, None], scale_factor=factor, mode="bilinear", antialias=True)
        grey = functional.interpolate(small, size=grey.shape, mode="bilinear")[0, 0]
    if rng.uniform() < 0.3:     # sharpened
        grey = (grey + float(rng.uniform(0.3, 1.0)) * (grey - functional.avg_pool2d(grey[None, None], 3, 1, 1)[0, 0])).clamp(0, 1)
    if rng.uniform() < 0.3:
        block = functional.interpolate(torch.randn(1, 1, SIZE // 8, SIZE // 8) * 0.02, size=grey.shape, mode="nearest")[0, 0]
        grey = (grey + block).clamp(0, 1)
    if rng.uniform() < 0.3:     # a raised or lowered grey scale
        grey = grey * float(rng.uniform(0.8, 1.0)) + float(rng.uniform(0, 0.12))
    for _ in range(int(rng.integers(0, 4)) if rng.uniform() < 0.5 else 0):
        r, c = (int(rng.choice([rng.integers(0, 14), rng.integers(SIZE - 22, SIZE - 8)])) for _ in range(2))
        letter = torch.from_numpy((rng.uniform(size=(4, 3)) > 0.4).astype(np.float32)).repeat_interleave(2, 0).repeat_interleave(2, 1)
        grey[r:r + 8, c:c + 6] = torch.maximum(grey[r:r + 8, c:c + 6], letter)
    if rng.uniform() < 0.15:
        edge = int(rng.integers(2, 14))
        grey[:edge] = 0
        grey[-edge:] = 0
    return grey


def pick(data: Slices, batch: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Half of a batch bleeds or is broken, kinds alike; the rest is healthy slices, from the base to the vertex."""
    pools = [data.pools[rng.integers(1, 7) if i % 2 else 0] for i in range(batch)]
    return np.array([pool[rng.integers(len(pool))] for pool in pools])


# ---------------------------------------------------------------- training

def loss_of(answers: dict[str, Tensor], present: Tensor, outlines: Tensor, halves: Tensor) -> Tensor:
    outline = answers["segment"]
    weight = torch.full((outline.shape[1], 1, 1), 3.0, device=outline.device)
    crossed = functional.binary_cross_entropy_with_logits(outline, outlines, pos_weight=weight)
    soft = torch.sigmoid(outline)
    overlap = 2 * (soft * outlines).sum((0, 2, 3)) + 50
    dice = 1 - overlap / (soft.sum((0, 2, 3)) + outlines.sum((0, 2, 3)) + 50)
    classes = functional.binary_cross_entropy_with_logits(answers["classify"], present)
    return 4 * crossed + 0.6 * dice.mean() + classes + 0.5 * functional.cross_entropy(answers["midline"], halves)


def main(data: Path | None = None, out: Path | None = None, studies: int = 400, epochs: int | None = None, seed: int = 0, device: str = "cpu",
         resume: bool = False, anatomy: Path | None = None, report: Callable[..., None] = lambda *a, **k: None, base: Path | None = None,
         pictures: Path | None = None, picture_half: int | None = None, minutes: float | None = None, slices: Slices | None = None,
         held_out: Slices | None = None, batch: int = 24, steps_an_epoch: int = 100, config: EncoderConfig | None = None) -> dict[str, Any]:
    """Train and write a model folder.

    Args:
        data: a folder of real pictures with labels.csv to mix in (same as `pictures`).
        picture_half: train only on that half of the groups (0 or 1), so that the other can measure; None takes all.
        anatomy: folder of label maps; the last fifth of the heads is held out for the calibration.
        minutes: stop by the clock; the learning rate falls to nothing by then.
    """
    out = Path(out or MODELS / "findings")
    out.mkdir(parents=True, exist_ok=True)
    epochs = epochs or 30
    pictures = pictures or data
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    count = len(list_anatomies(anatomy))
    cut = max(1, round(count * 0.8))
    slices = slices or make_slices(studies, seed + 1, anatomy, slice(0, cut), report)
    held_out = held_out or make_slices(max(12, studies // 4), seed + 90, anatomy, slice(cut if count > 1 else 0, None), report)
    real = load_pictures(pictures, picture_half) if pictures else None
    config = config or EncoderConfig()
    net = FindingNet(config).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(net.parameters(), 1e-9, weight_decay=0.02)
    checkpoint, begun, step, steps = out / "checkpoint.safetensors", time.monotonic(), 0, epochs * steps_an_epoch
    if base is not None:
        net.load_state_dict(load_net(base)[0].state_dict())
    if resume and checkpoint.exists():
        step = restore(checkpoint, net, optimiser)
    running = 0.0
    first_step = step
    while step < steps:
        rate = schedule(step / steps if minutes is None else max((time.monotonic() - begun) / (60 * minutes), step / steps))
        if rate is None:
            break
        for group in optimiser.param_groups:
            group["lr"] = rate
        net.train()
        images, present, outlines, halves = next(batches(slices, batch, rng))
        answers, _ = net(images.to(device, memory_format=torch.channels_last))
        loss = loss_of(answers, present.to(device), outlines.to(device), halves.to(device))
        if real is not None and step % 3 == 0:
            loss = loss + picture_loss(net, real, rng, batch // 2, device)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 2.0)
        optimiser.step()
        running = 0.97 * running + 0.03 * float(loss.detach()) if step > first_step else float(loss.detach())
        step += 1
        if step % steps_an_epoch == 0:
            keep(checkpoint, net, optimiser, step)
            report(step, steps, loss=running, minutes=(time.monotonic() - begun) / 60)
    from vision.findings import calibrate

    net.eval().cpu()
    calibration, figures = calibrate(net, held_out, report)
    tensors = {k: v.numpy().astype(np.float16) if v.is_floating_point() else v.numpy() for k, v in net.state_dict().items()}
    settings = {"version": VERSION, "encoder": vars(config), "calibration": calibration}
    named = "SynthSeg label maps (BBillot/SynthSeg, Apache-2.0), MNI152 (nilearn)" if anatomy else "MNI152 (nilearn)"
    card = {"name": VERSION, "what": "intracranial haemorrhage, midline shift and calvarial fracture on non-contrast head CT; "
                                             "a draft for a radiologist, never a diagnosis",
            "trained_on": {"simulated studies": len(slices.counts), "anatomy": named, "real pictures": 0 if real is None else len(real[1]),
                           "real pictures source": f"{pictures.name}, half {picture_half}" if pictures else ""},
            "steps": step, "seed": seed, "parameters": sum(p.numel() for p in net.parameters()), "minutes": round((time.monotonic() - begun) / 60, 1),
            "figures": {"simulated, held-out heads": figures}}
    save_model(out, tensors, settings, card)
    checkpoint.unlink(missing_ok=True)
    return figures


def schedule(done: float, peak: float = 2.5e-3) -> float | None:
    if done >= 1:
        return None
    return peak * (min(1.0, done / 0.06 + 0.05) if done < 0.06 else 0.5 * (1 + math.cos(math.pi * (done - 0.06) / 0.94)) + 1e-3)


def batches(data: Slices, batch: int, rng: np.random.Generator) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    while True:
        index = pick(data, batch, rng)
        images, outlines, halves = augment(data, index, rng)
        sizes = outlines.sum((2, 3))
        present = torch.cat([(sizes[:, :5] >= MIN_PIXELS).any(1, keepdim=True), sizes[:, :5] >= MIN_PIXELS, sizes[:, 5:] >= 3], 1).float()
        yield images, present, outlines, halves


def picture_loss(net: FindingNet, real: tuple[NDArray[np.float32], NDArray[np.float32], Any, Any], rng: np.random.Generator, batch: int,
                 device: str) -> Tensor:
    """Real pictures teach the 'any haemorrhage' answer only: nobody drew their outlines."""
    index = rng.integers(0, len(real[1]), batch)
    grey = torch.from_numpy(real[0][index])[:, None]
    angle, scale = rng.normal(0, 0.15, batch), rng.uniform(0.88, 1.12, batch)
    mirror = rng.choice([-1.0, 1.0], batch)
    theta = np.stack([np.stack([mirror * np.cos(angle) * scale, -np.sin(angle) * scale, rng.uniform(-0.1, 0.1, batch)], 1),
                      np.stack([mirror * np.sin(angle) * scale, np.cos(angle) * scale, rng.uniform(-0.1, 0.1, batch)], 1)], 1)
    places = functional.affine_grid(torch.from_numpy(theta).float(), list(grey.shape), align_corners=False)
    grey = functional.grid_sample(grey, places, align_corners=False)
    grey = torch.stack([like_a_picture(g.clone(), rng) for g in grey[:, 0]])
    images = torch.cat([grey[:, None], torch.zeros(batch, 4, SIZE, SIZE)], 1).to(device)
    wanted = torch.from_numpy(real[1][index]).to(device)
    return functional.binary_cross_entropy_with_logits(net(images)[0]["classify"][:, 0], wanted)


def keep(path: Path, net: nn.Module, optimiser: torch.optim.Optimizer, step: int) -> None:
    """A checkpoint whole or not at all."""
    tensors = {f"net.{k}": v.contiguous() for k, v in net.state_dict().items()}
    for i, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{i}.{k}": torch.as_tensor(v).contiguous() for k, v in state.items()}
    partial = path.with_suffix(".part")
    save_file({k: v.clone() for k, v in tensors.items()}, partial, {"step": str(step)})
    partial.replace(path)


def restore(path: Path, net: nn.Module, optimiser: torch.optim.Optimizer) -> int:
    from safetensors import safe_open

    tensors = load_file(path)
    net.load_state_dict({k[4:]: v for k, v in tensors.items() if k.startswith("net.")})
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimiser."):
            _, i, key = name.split(".")
            state.setdefault(int(i), {})[key] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    with safe_open(path, "pt") as file:
        return int(json.loads(file.metadata()["step"]))


def load_net(folder: Path) -> tuple[FindingNet, dict[str, Any]]:
    from data.model_files import load_model

    settings, tensors = load_model(folder)
    net = FindingNet(EncoderConfig(**settings["encoder"]))
    net.load_state_dict({k: torch.from_numpy(v.astype(np.float32) if v.dtype == np.float16 else v) for k, v in tensors.items()})
    return net.eval(), settings
