"""Measure the imaging heads on this machine: `python -m api.bench_heads`; prints JSON, or with --format markdown the tables of docs/heads.md
and docs/simulator.md. --part measures one of them alone.

Inference runs beside MONAI's SlidingWindowInferer (pip install monai) with the same network, rounds of both in turn; the time of a round is
its wall clock and its CPU seconds, of which the second hardly changes when the machine is busy with something else.
"""
import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

ROUNDS = 5
SIDE = 128
WINDOW, OVERLAP = 256, 0.25         # of MONAI on planes of 512 x 512; the overlap is its own default
PLANES = 512
STEPS = 30                          # of training
VOXEL_MM = 1.5
READ = ("t1_structures", "dwi_infarct")     # a net of three dimensions and one of two stages, as they ship
SIMULATED: dict[str, dict[str, Any]] = {"flair_lesions": {}, "dwi_infarct": {}, "ct_haemorrhage": {"kind": "subdural"}}
PARTS = ("network", "heads", "simulation")


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """(wall, CPU) seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def in_turn(works: dict[str, Callable[[], Any]], rounds: int) -> dict[str, dict[str, float]]:
    """Medians of `rounds` rounds after one that does not count, the works in turn."""
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    for k in range(rounds + 1):
        for name, work in works.items():
            seconds = timed(work)
            if k:
                took[name].append(seconds)
    return {name: {"wall_s": round(median(w for w, _ in rows), 3), "cpu_s": round(median(c for _, c in rows), 3)} for name, rows in took.items()}


def net_of(name: str, folder: Path | None) -> Any:
    """The head's network as MONAI is given it: as trained, its norms not folded in; without a folder random weights, which are as fast."""
    import torch

    from vision.heads import head_named
    from vision.heads.tasks import TASKS
    from vision.train_head import trained

    torch.manual_seed(0)
    return trained(head_named(name), folder) if folder is not None else TASKS["outline"].build(head_named(name)).eval()


def inference(name: str, folder: Path | None, shape: tuple[int, int, int], window: int, rounds: int) -> dict[str, Any]:
    """A whole volume, mirrored too, to probabilities: ours and MONAI's, in the same run."""
    import copy

    import torch

    from vision.heads.infer import planes, stack_neighbours
    from vision.heads.unet import fused

    plain = net_of(name, folder)
    ours = fused(copy.deepcopy(plain))
    channels = plain.config.channels_in // 3
    volume = np.random.default_rng(0).uniform(0, 2, (channels, *shape)).astype(np.float32)
    works: dict[str, Callable[[], Any]] = {"wetread": lambda: planes(ours, volume, ours.config.stride, finish=torch.sigmoid, flips=True)}
    if find_spec("monai"):
        from monai.inferers import SlidingWindowInferer

        inferer = SlidingWindowInferer((window, window), sw_batch_size=8, overlap=OVERLAP, mode="gaussian")

        def monai(net: Any, image: Any) -> Any:
            with torch.inference_mode():
                return (torch.sigmoid(inferer(image, net)) + torch.sigmoid(inferer(image.flip(-1), net)).flip(-1)) / 2

        works["monai"] = lambda: monai(plain, stack_neighbours(torch.from_numpy(volume)))
        works["monai, our network"] = lambda: monai(ours, stack_neighbours(torch.from_numpy(volume)).to(memory_format=torch.channels_last))
        apart = float(np.abs(works["wetread"]() - works["monai"]().permute(1, 0, 2, 3).numpy()).max())
    found: dict[str, Any] = {"shape": list(shape), **in_turn(works, rounds)}
    if "monai" in found:
        found |= {"answers_apart": round(apart, 6), **{f"ratio_{clock}": round(found["monai"][clock] / found["wetread"][clock], 2)
                                                       for clock in ("wall_s", "cpu_s")}}
    return found


def whole(name: str, folder: Path | None, rounds: int) -> dict[str, Any]:
    """A 128^3 volume of 1.5 mm as `wetread head` reads it: checked, scaled, brought to the grid taught and back, measured."""
    from data.records import Volume
    from vision.apply_head import HeadModel
    from vision.heads import head_named
    from vision.heads.unet import fused

    far = sum(axis**2 for axis in np.meshgrid(*(np.linspace(-1, 1, SIDE),) * 3))
    pixels = (far < 0.8) * (100 + np.random.default_rng(0).normal(0, 5, (SIDE, SIDE, SIDE)))
    model = HeadModel(head_named(name), fused(net_of(name, folder)), {"version": "bench", "spacing_mm": [VOXEL_MM] * 3})
    volume = Volume(pixels.astype(np.float32), (VOXEL_MM,) * 3, np.diag([VOXEL_MM] * 3 + [1.0]), modality="MR")
    return in_turn({"apply": lambda: model.apply({head_named(name).inputs[0]: volume})}, rounds)["apply"]


def shipped(name: str, rounds: int) -> dict[str, Any]:
    """A simulated head of 128^3 voxels of 1.5 mm read by the shipped weights, with a lesion where a second stage judges candidates."""
    from data.simulate.recipes import simulate
    from vision.apply_head import HeadModel
    from vision.heads import head_named

    head = head_named(name)
    cases = (simulate(head.recipe, seed, size=(SIDE,) * 3, spacing_mm=(VOXEL_MM,) * 3) for seed in range(1, 100))
    case = next(case for case in cases if head.task != "detect" or case.masks[head.outputs[0]].any())
    model, volumes = HeadModel.load(name), {channel: case.volume(channel) for channel in head.inputs}
    found = in_turn({"apply": lambda: model.apply(volumes)}, rounds)["apply"]
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "case.npz", **{channel: volume.pixels for channel, volume in volumes.items()})
        return {**found, "peak_mb": peak_mb(f"read_file({name!r}, {str(Path(folder) / 'case.npz')!r})")}


def read_file(name: str, path: str) -> None:
    """What `wetread head` holds in memory, without the simulator."""
    from data.records import Volume
    from vision.apply_head import HeadModel

    with np.load(path) as file:
        affine = np.diag([VOXEL_MM] * 3 + [1.0])
        HeadModel.load(name).apply({channel: Volume(file[channel], (VOXEL_MM,) * 3, affine, modality="MR") for channel in file})


def simulation(anatomy: Path | None, rounds: int) -> dict[str, Any]:
    """Seconds of cases of 128^3 voxels whose head was read before, and of the first use of a head, which is then kept."""
    from data.simulate.anatomy import list_heads
    from data.simulate.recipes import RECIPES, simulate

    heads = {"MNI152": None, **({"label map": Path(list_heads(anatomy, False)[0])} if anatomy else {})}
    first, cases = {}, []
    for head, source in heads.items():
        for recipe, options in SIMULATED.items():
            def case(seed: int, side: int = SIDE, recipe: str = recipe, source: Path | None = source, options: dict[str, Any] = options) -> Any:
                spacing = VOXEL_MM * SIDE / side
                return simulate(recipe, seed, size=(side,) * 3, spacing_mm=(spacing,) * 3, anatomy=source, **options)

            wall, cpu = timed(lambda case=case: case(0, 16))
            first.setdefault(head, {"wall_s": round(wall, 2), "cpu_s": round(cpu, 2)})
            made: list[Any] = []
            took = [timed(lambda case=case, seed=seed, made=made: made.append(case(seed))) for seed in range(1, rounds + 1)]
            cases.append({"recipe": recipe, "contrasts": len(RECIPES[recipe].channels), "head": head,
                          "slices": int(median(len(next(iter(one.channels.values()))) for one in made)),
                          "wall_s": round(median(w for w, _ in took), 2), "cpu_s": round(median(c for _, c in took), 2),
                          "cpu_s_most": round(max(c for _, c in took), 2)})
    return {"cases": cases, "first_use": first}


def training(name: str) -> dict[str, Any]:
    """Studies simulated an hour by one process, and studies learnt an hour: one is learnt when as many slices as it has were drawn."""
    import torch

    from data.simulate.recipes import simulate
    from vision.heads import head_named
    from vision.heads.examples import make_example
    from vision.heads.tasks import TASKS
    from vision.train_head import Run, learn

    head = head_named(name)
    made: list[Any] = []
    wall, cpu = timed(lambda: made.extend(make_example(head, simulate(head.recipe, seed, **head.options), str(seed)) for seed in range(4)))
    task, net = TASKS[head.task], TASKS[head.task].build(head)
    optimisers = {"net": torch.optim.AdamW(net.parameters(), 1e-3)}
    batches = [task.draw(head, made, np.random.default_rng(k), task.batch) for k in range(4)]

    def steps() -> None:
        for k in range(STEPS):
            learn(head, {"net": net}, optimisers, dict(batches[k % 4]), 1.0, Run(step=k), "cpu", 1, [0, k, 0])

    took = in_turn({"steps": steps}, 3)["steps"]
    slices = made[0]["inputs"].shape[1]
    an_hour = {clock: 3600 * STEPS * task.batch / slices / took[clock] for clock in took}
    return {"slices_a_study": slices, "simulated_an_hour": {"wall_s": round(3600 * len(made) / wall), "cpu_s": round(3600 * len(made) / cpu)},
            "learnt_an_hour": {clock: round(value) for clock, value in an_hour.items()},
            "step_ms": {clock: round(1000 * value / STEPS, 1) for clock, value in took.items()}}


def peak_mb(call: str) -> int:
    """Resident memory, at most, of a process of its own that makes one `call` of this module, such as reading one 128^3 volume."""
    # getrusage would tell what this process, its parent, held where that was more
    code = (f"from pathlib import Path, PosixPath; from api.bench_heads import read_file, whole\n{call}\n"
            "print(next(line for line in Path('/proc/self/status').read_text().splitlines() if line.startswith('VmHWM')))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-2]) // 1024


def measure(name: str, folder: Path | None, rounds: int, threads: int, parts: tuple[str, ...] = PARTS, anatomy: Path | None = None) -> dict[str, Any]:
    import torch

    torch.set_num_threads(threads)
    found: dict[str, Any] = {"head": name, "threads": threads, "rounds": rounds}
    if "network" in parts:
        found |= {"inference": [inference(name, folder, (SIDE, SIDE, SIDE), SIDE, rounds),
                                inference(name, folder, (4, PLANES, PLANES), WINDOW, rounds)],
                  "whole": whole(name, folder, rounds), "peak_mb": peak_mb(f"whole({name!r}, {folder!r}, 1)"), "training": training(name)}
    if "heads" in parts:
        found["heads"] = {other: shipped(other, rounds) for other in READ}
    if "simulation" in parts:
        found["simulation"] = simulation(anatomy, rounds)
    return found


def both(seconds: dict[str, float]) -> str:
    return f"{seconds['wall_s']} / {seconds['cpu_s']}"


def as_table(found: dict[str, Any]) -> str:
    """One table of each part that was measured."""
    parts = (("inference", network_table), ("heads", heads_table), ("simulation", simulation_table))
    return "\n".join(table(found) for part, table in parts if part in found)


def heads_table(found: dict[str, Any]) -> str:
    what = f"`wetread head` on 128 x 128 x 128, {found['threads']} threads, medians of {found['rounds']}"
    lines = [f"| {what} | wall / CPU seconds | memory, at most |",
             "|---|---|---|"]
    lines += [f"| `{name}` | {both(row)} | {row['peak_mb']} MB |" for name, row in found["heads"].items()]
    return "\n".join(lines) + "\n"


def simulation_table(found: dict[str, Any]) -> str:
    lines = [f"| 128 x 128 x 128 voxels, medians of {found['rounds']} | contrasts | head | wall / CPU seconds | CPU, most |", "|---|---|---|---|---|"]
    for row in found["simulation"]["cases"]:
        slices = "" if row["slices"] == SIDE else f", {row['slices']} slices"
        lines.append(f"| `{row['recipe']}`{slices} | {row['contrasts']} | {row['head']} | {both(row)} | {row['cpu_s_most']} |")
    lines += [f"| first use of a head | | {head} | {both(seconds)} | |" for head, seconds in found["simulation"]["first_use"].items()]
    return "\n".join(lines) + "\n"


def network_table(found: dict[str, Any]) -> str:
    what = f"`{found['head']}`, {found['threads']} threads, medians of {found['rounds']}, wall / CPU seconds"
    lines = [f"| {what} | Wetread | MONAI | MONAI, our network | ratio to MONAI |", "|---|---|---|---|---|"]
    for row in found["inference"]:
        shape = " x ".join(str(n) for n in row["shape"])
        lines.append(f"| probabilities of {shape} and its mirror image | {both(row['wetread'])} | "
                     + (f"{both(row['monai'])} | {both(row['monai, our network'])} | {row['ratio_wall_s']} / {row['ratio_cpu_s']} |"
                        if "monai" in row else "- | - | - |"))
    trained = found["training"]
    lines += [f"| `wetread head` on 128 x 128 x 128, read to measures | {both(found['whole'])} | | | |",
              f"| memory of it, at most | {found['peak_mb']} MB | | | |",
              f"| studies learnt an hour ({trained['slices_a_study']} slices each) | {both(trained['learnt_an_hour'])} | | | |",
              f"| studies simulated an hour, one process | {both(trained['simulated_an_hour'])} | | | |"]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--head", default="flair_lesions", help="a row with outlines of one input")
    parser.add_argument("--model", type=Path, help="folder of weights; default: random ones, which are as fast")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--part", choices=PARTS, help="one alone: the network beside MONAI, other heads as they ship, or the simulator; default: all")
    parser.add_argument("--anatomy", type=Path, help="simulation: a label map, or a folder of which the first is taken")
    parser.add_argument("--format", choices=("json", "markdown"), default="json")
    given = parser.parse_args()
    from vision.heads import HEADS

    if given.head not in HEADS or HEADS[given.head].task != "outline" or len(HEADS[given.head].inputs) != 1 or given.rounds < 1:
        parser.error("--head takes a row with outlines of one input, such as flair_lesions; --rounds 1 or more")
    found = measure(given.head, given.model, given.rounds, given.threads, (given.part,) if given.part else PARTS, given.anatomy)
    sys.stdout.write(as_table(found) if given.format == "markdown" else json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
