"""Train any head of the table: simulated cases (or your own), drawn and changed anew each step, stopped by validation, resumed exactly.

Each step's batch and dropout follow from (seed, step) alone, so that a run that was cut off and goes on ends with the same bytes.
"""
import json
import math
import os
import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from data.errors import InputError, OutputError
from data.head_images import ImageCase, own_cases, real_cases
from data.model_files import from_int8, load_model, rows, save_model, to_int8
from data.simulate.recipes import RECIPES
from vision.checkpoints import device_words, keep, restore
from vision.heads import CLASSED, HEADS, Head, head_named
from vision.heads.examples import Example, make_example, simulated_examples, split_counts
from vision.heads.infer import resample
from vision.heads.picture_class import PictureClass
from vision.heads.tasks import TASKS, Batch, as_tissues, predict_outline, score_outline, tissues_in, truth_masks
from vision.heads.tissue_class import TissueClass
from vision.heads.two_stage import TwoStage
from vision.heads.unet import PatchDiscriminator, fused
from vision.losses import fool_loss, judge_loss

EPOCH = 100                 # steps
PATIENCE, PATIENT = 8, 0.2  # epochs, and share of the training, without a better validation after which it stops
VALIDATED, ANSWERED = 10, 200   # cases that validate, and of heads that answer with a class
SECOND_FROM = 0.65          # share of the training after which the second stage of a head learns
SIZE, EPOCHS = 80, 20       # cases and epochs unless asked otherwise; the review's transfer learning had 80 cases
AHEAD = 3                   # batches drawn ahead
OWN_LEAST = 8               # patients of a department's own
WAIT = timedelta(hours=12)  # that processes wait for each other: the first one simulates all cases alone
FORMAT = "head-1"
ENCODERS = re.compile(r"(^|\.)down\.|^stem\.|^blocks\.")     # names of an encoder's weights


@dataclass
class Run:
    """Where a training stands; all of it goes into the checkpoint."""

    step: int = 0
    best: float = math.inf
    stale: int = 0              # epochs since validation was best
    better: float = 0.0         # share that was done then
    stage: int = 0              # 1: the second stage learns
    turned: float = SECOND_FROM     # share that was done when it began to
    history: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0


def main(name: str, data: Path | None = None, out: Path | None = None, size: int | None = None, epochs: int | None = None, seed: int = 0,
         device: str = "cpu", resume: bool = False, base: Path | None = None, minutes: float | None = None, frozen: bool = False,
         workers: int | None = None, batch: int | None = None, anatomy: Path | None = None, real: bool = False, network: str = "",
         report: Callable[..., None] = lambda *a, **k: None, examples: dict[str, list[Example]] | None = None) -> dict[str, Any]:
    """Train the head `name` into the folder `out`; its validation figure and what it took.

    Args:
        data: a folder that may hold synthseg_labelmaps (anatomy for the simulator) and own (patients that take the place of the simulated
            ones: data.head_images).
        size: cases in all, 60 / 15 / 25 % for training, validation and test.
        minutes: stop by the clock instead of after `epochs`.
        base: folder of a head whose weights to start from, where names and shapes are the same; `frozen` keeps its encoder as it is,
            and of a detector the whole first stage, so that only the second one learns, anew.
        real: learn from the row's public set of real images under `data` (an eighth of the patients stops the training), best from a `base`.
        workers: processes that simulate, and threads that draw the batches.
        batch: cases in a step, unless as many as the head's task says; a GPU takes more.
        network: another than the row's, to measure the row beside.
        examples: made ready, by split, where a caller has them.
    """
    head = replace(head_named(name), network=network) if network else head_named(name)
    if head.task == "program":
        raise InputError(f"{name} has no training of its own; train {head.weights}" if head.weights else f"{name} has nothing to train")
    if frozen and base is None:
        raise InputError("--frozen keeps what --base was taught; give --base")
    if base is not None and head.tissues_of:
        raise InputError(f"{name} reads the tissues that {head.tissues_of} finds, as it ships; leave --base out")
    if minutes is not None and minutes <= 0:
        raise InputError(f"--minutes is {minutes}, expected more than 0")
    out = Path(out or Path("build") / name)
    rank, world = distributed()
    if examples is None and real:
        examples = gather_real(head, data, seed)
    if world > 1 and device.startswith("cuda"):
        device = f"cuda:{os.environ.get('LOCAL_RANK', rank)}"
        torch.cuda.set_device(device)
    if examples is None:
        if rank:
            wait(world)             # the first process makes the cases, the others open them
        examples = gather(head, data, out, size or SIZE, seed, anatomy, workers, report)
        if not rank:
            wait(world)
    torch.manual_seed(seed)
    task = TASKS[head.task]
    net = task.build(head).to(device)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        elif isinstance(module, nn.Conv3d) and device.startswith("cuda"):
            module.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]  # as above: mypy knows no overload of `to` with it alone
    start = HEADS[head.tissues_of].folder if head.tissues_of else base
    if start is not None:
        start_from(net, Path(start), frozen)
    elif isinstance(net, PictureClass):
        net.start_from_imagenet()
    modules: dict[str, nn.Module] = {"net": net}
    optimisers: dict[str, torch.optim.Optimizer] = {
        "net": torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], task.peak, weight_decay=0.01)}
    if "adversarial" in head.loss:
        modules["judge"] = PatchDiscriminator(len(head.outputs)).to(device)
        optimisers["judge"] = torch.optim.AdamW(modules["judge"].parameters(), task.peak / 4, betas=(0.5, 0.9))
    run, best, checkpoint = Run(), dict[str, Tensor](), out / "checkpoint.safetensors"
    if resume and checkpoint.exists():
        best, facts = restore(checkpoint, modules, optimisers)
        run = Run(**facts)
    elif frozen and head.task == "detect":
        run = Run(stage=1, turned=0.0)
    # classes from tissues of a department's own: nobody outlined them, so those of the base are taken and the classes alone are fitted
    outlined = task.close is None or ("targets" in examples["train"][0].arrays and not head.tissues_of)
    if not outlined:
        knows_tissue(start, name)
    second = task.second
    pool = second.pool(head, net, examples["train"], device, seed) if second and run.stage else None
    begun, steps = time.monotonic() - run.seconds, (epochs or EPOCHS) * EPOCH
    every = EPOCH * (4 if minutes and device.startswith("cuda") else 1)     # a GPU makes an epoch in the time of a validation
    with ThreadPoolExecutor(workers or 1) as drawer:
        coming: dict[int, Future[Batch]] = {}
        while (outlined and (done := progress(run, steps, begun, minutes, world, device)) < 1
               and (not worn_out(run, done) or (second and not run.stage))):
            if second and not run.stage and (done >= SECOND_FROM or worn_out(run, done)):
                net.load_state_dict(best or net.state_dict())
                run.stage, run.stale, run.better, run.turned = 1, 0, done, done
                if head.task == "detect":                       # scored by its outlines until now
                    run.best = math.inf
                pool = second.pool(head, net, examples["train"], device, seed)
            for step in range(run.step, run.step + AHEAD * (workers or 1)):
                if step not in coming and pool is None:
                    coming[step] = drawer.submit(draw, head, examples["train"], [seed, step, rank], batch or task.batch, device)
            drawn = second.draw(pool, np.random.default_rng([seed, run.step, rank])) if second and pool else coming.pop(run.step).result()
            learn(head, modules, optimisers, drawn, rate(of_stage(done, run) if second else done), run, device, world, [seed, run.step, rank])
            run.step += 1
            last = progress(run, steps, begun, minutes, world, device) >= 1
            if run.step % (second.epoch if second and run.stage else every) == 0 or last:
                share_buffers(net, world)
                validation = agreed(validate(head, net, examples["validation"], device, run.stage), world, device)
                run.history[-1]["validation"] = validation
                run.stale = run.stale + 1
                if validation < run.best:
                    run.best, run.stale, run.better = validation, 0, done
                    best = {k: v.detach().clone() for k, v in net.state_dict().items()}
                run.seconds = time.monotonic() - begun
                if rank == 0:
                    keep(checkpoint, modules, optimisers, best, vars(run))
                    report(run.step, steps, loss=run.history[-1]["loss"], validation=validation, minutes=run.seconds / 60)
        for waiting in coming.values():
            waiting.cancel()
    net.load_state_dict(best or net.state_dict())
    if task.close is not None:
        round_as_stored(net)
        task.close(head, net.eval(), examples["train"], device)
        run.best = float(np.mean([task.score(head, task.predict(head, net, e, device), e)["validation"] for e in examples["validation"]]))
    asked = (("data", data), ("size", size), ("epochs", epochs), ("minutes", minutes), ("batch", batch), ("base", base), ("seed", seed))
    command = f"wetread train {name}" + "".join(f" --{word} {value}" for word, value in asked if value) + " --real" * real + " --frozen" * frozen
    return finish(head, net.eval().cpu(), run, out, examples, seed, data, base, command, device) if rank == 0 else {}


# ---------------------------------------------------------------- a step

def draw(head: Head, examples: Sequence[Example], key: list[int], batch: int, device: str) -> Batch:
    return TASKS[head.task].draw(head, examples, np.random.default_rng(key), batch, device)


def learn(head: Head, modules: dict[str, nn.Module], optimisers: dict[str, torch.optim.Optimizer], batch: Batch, pace: float, run: Run, device: str,
          world: int, key: list[int]) -> None:
    net, task = modules["net"].train(), TASKS[head.task]
    torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))
    batch = {k: laid(v, device) for k, v in batch.items()}
    for optimiser in optimisers.values():
        for group in optimiser.param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * pace
    half = torch.autocast("cuda", torch.bfloat16, enabled=device.startswith("cuda"))
    with half:
        loss = task.second.loss(net, batch) if task.second and run.stage else task.loss(head, net, batch)
        if "judge" in modules:
            loss = loss + 0.02 * fool_loss(modules["judge"](batch["made"]))
    step(net, optimisers["net"], loss, world)
    if "judge" in modules:
        judge = modules["judge"].train()
        with half:
            found_out = judge_loss(judge(batch["targets"]), judge(batch["made"].detach()))
        step(judge, optimisers["judge"], found_out, world)
    value = float(loss.detach())
    if run.step % EPOCH == 0 or not run.history:
        run.history.append({"step": run.step, "loss": value})
    run.history[-1]["loss"] += 0.05 * (value - run.history[-1]["loss"])


def laid(values: Tensor, device: str) -> Tensor:
    """As the convolutions of the device are fastest; those of a CPU in three dimensions are not helped."""
    if values.is_complex() or values.ndim not in (4, 5) or (values.ndim == 5 and not device.startswith("cuda")):
        return values.to(device)
    return values.to(device, memory_format=torch.channels_last if values.ndim == 4 else torch.channels_last_3d)


def step(net: nn.Module, optimiser: torch.optim.Optimizer, loss: Tensor, world: int) -> None:
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    if world > 1:
        own = [p.grad for p in net.parameters() if p.grad is not None]
        shared = torch.cat([grad.flatten() for grad in own])
        torch.distributed.all_reduce(shared)
        for grad, mean in zip(own, (shared / world).split([grad.numel() for grad in own]), strict=True):
            grad.copy_(mean.view(grad.shape))
    nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    optimiser.step()


def worn_out(run: Run, done: float) -> bool:
    return run.stale >= PATIENCE and done - run.better >= PATIENT


def of_stage(done: float, run: Run) -> float:
    """The share of its own stage: each ends as slowly as a training of one stage does."""
    return (done - run.turned) / max(1 - run.turned, 1e-6) if run.stage else min(1.0, done / SECOND_FROM)


def rate(done: float) -> float:
    return min(1.0, done / 0.05 + 0.02) * (0.5 * (1 + math.cos(math.pi * done)) + 0.01)


def progress(run: Run, steps: int, begun: float, minutes: float | None, world: int = 1, device: str = "cpu") -> float:
    """The share that is done; by the clock it is that of the first process, so that all stop at the same step."""
    if minutes is None:
        return run.step / steps
    done = (time.monotonic() - begun) / (60 * minutes)
    if world == 1:
        return done
    shared = torch.tensor(done, device=device, dtype=torch.float64)
    torch.distributed.broadcast(shared, 0)
    return float(shared)


def distributed() -> tuple[int, int]:
    """(rank, processes) under torchrun, else (0, 1)."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world > 1 and not torch.distributed.is_initialized():
        torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=WAIT)
    return (torch.distributed.get_rank(), world) if world > 1 else (0, 1)


def wait(world: int) -> None:
    if world > 1:
        torch.distributed.barrier()


def share_buffers(net: nn.Module, world: int) -> None:
    """The statistics that each process's norms gathered from its own share of the batches, averaged: all validate and keep the same net."""
    for buffer in net.buffers() if world > 1 else ():
        if buffer.is_floating_point():
            torch.distributed.all_reduce(buffer)
            buffer /= world


def agreed(value: float, world: int, device: str) -> float:
    """The mean over all processes, so that all stop at the same step."""
    if world == 1:
        return value
    shared = torch.tensor(value, device=device, dtype=torch.float64)
    torch.distributed.all_reduce(shared)
    return float(shared) / world


# ---------------------------------------------------------------- cases, validation, the end

def gather(head: Head, data: Path | None, out: Path, size: int, seed: int, anatomy: Path | None, workers: int | None,
           report: Callable[..., None]) -> dict[str, list[Example]]:
    """Examples for training and validation: the department's own where there are some, else simulated."""
    counts = split_counts(size)
    own = own_cases(Path(data) / "own", head.inputs, head.outputs, head.modality) if data and (Path(data) / "own").is_dir() else []
    if own:
        return split_own(head, own)
    if anatomy is None and data and (Path(data) / "synthseg_labelmaps").is_dir():
        anatomy = Path(data) / "synthseg_labelmaps"
    return {split: simulated_examples(head, split, counts[split], out / "cases", seed, anatomy, workers or 1, report)
            for split in ("train", "validation")}


def gather_real(head: Head, data: Path | None, seed: int) -> dict[str, list[Example]]:
    cases = real_cases(head.real, Path(data)) if data and head.real else []
    if len(cases) < 8:
        raise InputError(f"{head.name} has no public set of real images under {data}; "
                         + (f"put {head.real} there" if head.real else "put your own patients into DATA/own and leave --real out"))
    return split_real([make_example(head, case, case.kept_whole) for case in cases], seed)


def split_real(examples: Sequence[Example], seed: int) -> dict[str, list[Example]]:
    """An eighth of the patients for validation, drawn by `seed`."""
    patients = sorted({e.facts["patient"] for e in examples})
    held = set(np.random.default_rng(seed).permutation(patients)[:max(1, len(patients) // 8)].tolist())
    return {"validation": [e for e in examples if e.facts["patient"] in held], "train": [e for e in examples if e.facts["patient"] not in held]}


def split_own(head: Head, cases: Sequence[Any]) -> dict[str, list[Example]]:
    """By patient, in an order that the patient's name decides, so that a patient added later moves no other."""
    if head.dimensions == 3:
        cases = [at_spacing(case, RECIPES[head.recipe].spacing_mm) for case in cases]
    order = sorted(cases, key=lambda case: np.random.default_rng(list(case.patient.encode())).random())
    if len(order) < OWN_LEAST:
        raise InputError(f"{len(order)} patients are given for {head.name}, expected {OWN_LEAST} or more: some to learn from, some to stop by, some "
                         "to be tested on")
    counts = split_counts(len(order))
    edges = np.cumsum([0, counts["train"], counts["validation"], counts["test"]])
    found = {split: [make_example(head, case, case.patient) for case in order[a:b]]
             for split, a, b in zip(("train", "validation", "test"), edges[:-1], edges[1:], strict=True)}
    if head.task in ("outline", "detect"):
        shown = np.any([[mask.any() for mask in truth_masks(head, example)] for example in found["train"]], axis=0)
        if not shown.all():
            empty = [name for name, any_of in zip(head.outputs, shown, strict=True) if not any_of]
            raise InputError(f"{', '.join(empty)} is empty in all {len(found['train'])} patients to learn from; give patients who have it")
    return found


def at_spacing(case: ImageCase, spacing_mm: tuple[float, float, float]) -> ImageCase:
    """On the grid that a net of tissues was taught, as HeadModel reads a patient."""
    shape = next(iter(case.channels.values())).shape
    sides = [max(1, round(n * own / taught)) for n, own, taught in zip(shape, case.spacing_mm, spacing_mm, strict=True)]
    grid = (sides[0], sides[1], sides[2])
    own = tuple(s * a / b for s, a, b in zip(case.spacing_mm, shape, grid, strict=True))
    return replace(case, channels={name: resample(pixels[None], grid)[0] for name, pixels in case.channels.items()}, spacing_mm=own)


def validate(head: Head, net: nn.Module, examples: Sequence[Example], device: str, stage: int) -> float:
    net.eval()
    task, values = TASKS[head.task], []
    for example in examples[:ANSWERED if head.task in CLASSED and task.close is None else VALIDATED]:
        if isinstance(net, TissueClass):                        # the classes are fitted at the end
            values.append(score_outline(as_tissues(head), tissues_in(net, example, device).cpu().numpy(), example)["validation"])
        elif head.task == "detect" and not stage:
            assert isinstance(net, TwoStage)
            values.append(score_outline(head, predict_outline(head, net.map, example, device), example)["validation"])
        else:
            values.append(task.score(head, task.predict(head, net, example, device), example)["validation"])
    return float(np.mean(values))


def start_from(net: nn.Module, folder: Path, frozen: bool) -> None:
    """Weights of another head, where names and shapes are the same: the shared encoder above all; a classifier takes a whole U-Net as its own."""
    _, tensors = load_model(folder)
    own = {k: v.cpu().numpy() for k, v in net.state_dict().items()}
    inside = "unet." if hasattr(net, "unet") and not any(k.startswith("unet.") for k in tensors) else ""
    named = {inside + k: v for k, v in from_int8(tensors).items() if not (frozen and k.startswith("judge."))}
    fitting = {k: torch.from_numpy(v.reshape(own[k].shape)) for k, v in named.items() if k in own and rows(own[k]).shape == rows(v).shape}
    if not any(ENCODERS.search(k) for k in fitting):
        raise InputError(f"{folder} has no encoder that fits this head; give a head of the same width and channels")
    net.load_state_dict(fitting, strict=False)
    if frozen:
        for name, p in net.named_parameters():
            p.requires_grad_(not (name in fitting and (ENCODERS.search(name) or isinstance(net, TwoStage))))


def knows_tissue(base: Path | None, name: str) -> None:
    """Raises InputError where there is no base, or one whose network outlines no tissues."""
    known = [row.name for row in HEADS.values() if row.dimensions == 3 and not row.tissues_of]
    if base is None or load_model(Path(base))[0].get("head") not in known:
        raise InputError(f"the patients given for {name} have no tissue to learn from, and --base is {base or 'not given'}; "
                         f"give the folder of a head that knows it: {', '.join(known)}")


def as_stored(net: nn.Module) -> dict[str, NDArray[Any]]:
    """Large kernels as int8, the rest as float16."""
    return to_int8({k: rows(v.cpu().numpy()) for k, v in net.state_dict().items() if "num_batches" not in k})


def round_as_stored(net: nn.Module) -> None:
    """So that what is fitted to its answers is fitted to those of the net that is kept."""
    own = net.state_dict()
    net.load_state_dict({k: torch.from_numpy(v.reshape(own[k].shape)) for k, v in from_int8(as_stored(net)).items()}, strict=False)


def finish(head: Head, net: nn.Module, run: Run, out: Path, examples: dict[str, list[Example]], seed: int, data: Path | None,
           base: Path | None, command: str, device: str) -> dict[str, Any]:
    """Write the weights (large kernels as int8, the rest as float16), the card and the loss plot; the checkpoint goes."""
    from vision.head_pictures import plot_history

    first = examples["train"][0]
    config = {"version": f"{head.name}-1", "format": FORMAT, "head": head.name, "inputs": list(head.inputs), "outputs": list(head.outputs),
              "width": head.width, "spacing_mm": first.facts.get("spacing_mm")}
    real = not first.facts["patient"].startswith("simulated")
    public = real and not (data and (Path(data) / "own").is_dir())
    recipe = f"real: {head.real}" if public else "own patients" if real else f"simulated: {head.recipe}"
    figures = {"validation": round(run.best, 4), "steps": run.step, "minutes": round(run.seconds / 60, 1)}
    card = {"name": config["version"], "what": head.what, "recipe": recipe,
            "trained_on": {split: len(rows) for split, rows in examples.items() if split != "test"},
            "heads simulated": None if real else "SynthSeg label maps (BBillot/SynthSeg, Apache-2.0)" if data else "MNI152 (nilearn)",
            "started from": str(base) if base else "nothing", "seed": seed, "parameters": sum(p.numel() for p in net.parameters()),
            "command": command, "device": device_words(device), "figures": figures}
    tensors = as_stored(net)
    if head.tissues_of:
        tensors = {name: values for name, values in tensors.items() if not name.startswith("unet.")}
        config["tissues"], card["started from"] = tissues_found_by(head), f"the weights of {head.tissues_of} that ship"
    try:
        save_model(out, tensors, config, card)
        plot_history(run.history, out / "training.png")
    except OSError as error:
        raise OutputError(f"{out} cannot be written ({error.strerror}); make room, then go on with --resume") from None
    (out / "checkpoint.safetensors").unlink(missing_ok=True)
    return figures


def tissues_found_by(head: Head) -> dict[str, str]:
    """The row whose net finds the tissues, and the sum of its weights, so that classes are never told from those of another net."""
    shipped = HEADS[head.tissues_of].folder
    load_model(shipped)
    return {"head": head.tissues_of, "sha256": json.loads((shipped / "card.json").read_text())["sha256"]["model.safetensors"]}


def load_head(head: Head, folder: Path | None = None, device: str = "cpu") -> nn.Module:
    """The trained net of a row, to answer with: its norms are folded in. Raises ModelError when the folder is missing, altered or of another head."""
    return fused(trained(head, folder)).to(device)


def trained(head: Head, folder: Path | None = None) -> nn.Module:
    """The net as it was taught, norms and all."""
    from data.errors import ModelError

    if folder is None and not (head.folder / "model.safetensors").exists():
        raise ModelError(f"no weights of {head.name} ship (docs/heads.md says why); train some with `wetread train {head.name} --out FOLDER`, "
                         "then give --model FOLDER")
    folder = Path(folder or head.folder)
    config, tensors = load_model(folder)
    net = TASKS[head.task].build(head)
    if head.tissues_of:
        if config.get("tissues") != tissues_found_by(head):
            raise ModelError(f"{folder} was fitted to other tissues than {head.tissues_of} finds as it ships; "
                             f"train it with `wetread train {head.name}`")
        tensors = tensors | {f"unet.{name}": values for name, values in load_model(HEADS[head.tissues_of].folder)[1].items()}
    state, own = from_int8(tensors), {k: v.numpy() for k, v in net.state_dict().items() if "num_batches" not in k}
    if config.get("head") != head.name or {k: rows(v).shape for k, v in state.items()} != {k: rows(v).shape for k, v in own.items()}:
        raise ModelError(f"{folder} holds no weights of {head.name} as it is now; train it with `wetread train {head.name}`")
    net.load_state_dict({k: torch.from_numpy(v.reshape(own[k].shape)) for k, v in state.items()}, strict=False)
    return net.eval()
