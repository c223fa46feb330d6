"""Teach the net of the skull fractures that the simulator makes, among its sutures, vessels and burr holes."""
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from data.simulate.recipes import simulate
from data.simulator import list_anatomies, simulate_head_ct
from vision.heads.examples import run_jobs
from vision.skull_net import ANGLES, DEPTHS, SkullNet, as_input, columns_of, flatten_skull, fracture_logits, strongest

SKULLS = 900        # simulated for it alone, half of them broken, and a third as many held out; whole studies are broken too seldom
SKULL_STEPS = 2200                  # of BATCH crops of CROP slices
BATCH, CROP = 8, 32
EMBEDDED = 0.15                     # share of the embedded head among the heads taught; a head held out is never one that was taught
OPERATED = "post_operative"         # a recipe of data/simulate
# shares, summed up; an operated skull has gaps too, and no fracture
KINDS = ((0.45, None), (0.75, "fracture"), (0.85, "epidural"), (0.93, "subdural"), (1.0, OPERATED))


class Skull(NamedTuple):
    grey: NDArray[np.uint8]         # (slices, DEPTHS, ANGLES)
    fracture: NDArray[np.bool_]     # (slices, ANGLES)


def make_skulls(studies: int, seed: int, anatomy: Path | None, kept_heads: slice, report: Callable[..., None], workers: int = 1,
                embedded: float = EMBEDDED) -> list[Skull]:
    """`studies` simulated by as many processes; which study is which follows from the seed alone."""
    heads = tuple(str(path) for path in list_anatomies(anatomy)[kept_heads]) if anatomy else ("",)
    made: list[Skull] = []
    for one in run_jobs(make_skull, [(seed, i, heads, embedded) for i in range(studies)], workers):
        made.append(one)
        report(len(made), studies, phase="skulls")
    return made


def make_skull(job: tuple[int, int, Sequence[str], float]) -> Skull:
    seed, i, heads, embedded = job
    rng = np.random.default_rng([seed, i, 11])
    source = "" if rng.uniform() < embedded else heads[rng.integers(len(heads))]
    drawn = rng.uniform()
    kind = next(kind for share, kind in KINDS if drawn < share)
    if kind == OPERATED:
        volume, fracture = simulate(kind, seed * 100_000 + i, anatomy=source or None).study.volumes[0], None
    else:
        study = simulate_head_ct(seed * 100_000 + i, kind, rows=int(rng.choice([160, 160, 200, 256])),
                                 slice_mm=float(rng.choice([2.5, 3, 4, 5, 5])), anatomy=source or None)
        volume, fracture = study.volume, study.masks.get("fracture")
    assert volume.spacing_mm is not None
    flat = flatten_skull(volume.pixels, *volume.spacing_mm[1:])
    seen = columns_of(fracture, flat, *volume.spacing_mm[1:]) if fracture is not None else np.zeros((len(flat.grey), ANGLES), bool)
    return Skull(flat.grey, seen)


def learn_skull(skulls: Sequence[Skull], steps: int, seed: int, device: str = "cpu",
                report: Callable[..., None] = lambda *a, **k: None, start: SkullNet | None = None) -> SkullNet:
    """A net taught for so many steps, from nothing or on from `start`."""
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 6])
    net = SkullNet().to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    if start is not None:
        net.load_state_dict(start.state_dict())
    optimiser = torch.optim.AdamW(net.parameters(), 1e-9, weight_decay=0.01)
    pools = [pool for pool in ([s for s in skulls if s.fracture.any()], [s for s in skulls if not s.fracture.any()]) if pool]
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 3e-3 * min(1.0, step / (0.05 * steps) + 0.05) * (0.5 + 0.5 * float(np.cos(np.pi * step / steps)))
        drawn = [vary(pool[rng.integers(len(pool))], rng) for pool in (pools[i % len(pools)] for i in range(BATCH))]
        grey, fracture = (torch.from_numpy(np.stack(column)).to(device) for column in zip(*drawn, strict=True))
        loss = loss_of(net(grey.contiguous(memory_format=torch.channels_last)), fracture)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 2.0)
        optimiser.step()
        if (step + 1) % 100 == 0:
            report(step + 1, steps, phase="skull", loss=float(loss.detach()))
    return net.eval()


def vary(skull: Skull, rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """CROP slices, around a fracture where there is one: mirrored, upside down, turned a little, brighter or darker, resampled, with grain."""
    count = len(skull.grey)
    start = int(rng.integers(max(1, count - CROP + 1)))
    if (rows := np.flatnonzero(skull.fracture.any(1))).size:
        start = int(np.clip(rng.choice(rows) - rng.integers(CROP), 0, max(0, count - CROP)))
    kept = np.minimum(np.arange(start, start + CROP), count - 1)
    grey, seen = as_input(skull.grey[None, kept])[0].numpy(), skull.fracture[kept]
    if rng.uniform() < 0.5:
        grey, seen = np.roll(grey[..., ::-1], 1, -1), np.roll(seen[..., ::-1], 1, -1)
    if rng.uniform() < 0.2:
        grey, seen = grey[:, ::-1], seen[::-1]
    turn = int(rng.normal(0, 3))
    grey, seen = np.roll(grey, turn, -1), np.roll(seen, turn, -1)
    if rng.uniform() < 0.4:     # a slice between two others, as after uneven gaps: the skull of both, neither as dense
        shift = int(rng.integers(1, 5))
        inner, outer = (np.clip(np.arange(DEPTHS) + by, 0, DEPTHS - 1) for by in (shift, -shift))
        between = rng.uniform(size=CROP) < rng.uniform(0.05, 0.5)
        grey = np.where(between[None, :, None], (grey[inner] + grey[outer]) / 2 * rng.uniform(0.8, 1.0), grey)
    grey = grey * rng.uniform(0.85, 1.15) + rng.normal(0, 0.01)
    if rng.uniform() < 0.5:
        grey = grey + rng.standard_normal(grey.shape) * rng.uniform(0, 0.04)
    return np.ascontiguousarray(grey, np.float32), seen.astype(np.float32)


def loss_of(logits: Tensor, fracture: Tensor) -> Tensor:
    crossed = functional.binary_cross_entropy_with_logits(logits, fracture, pos_weight=torch.tensor(6.0, device=logits.device))
    soft = torch.sigmoid(logits)
    overlap = 1 - (2 * (soft * fracture).sum() + 20) / (soft.sum() + fracture.sum() + 20)
    whole = functional.binary_cross_entropy_with_logits(strongest(logits), fracture.amax((1, 2)))
    return 6 * crossed + 0.5 * overlap + 0.3 * whole


def strengths(net: SkullNet, skulls: Sequence[Skull], device: str = "cpu") -> NDArray[np.float64]:
    """`strongest` of each."""
    return np.array([float(strongest(torch.from_numpy(fracture_logits(net, skull.grey, device))[None])[0]) for skull in skulls])
