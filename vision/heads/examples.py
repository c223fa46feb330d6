"""Cases made ready for a head, kept on disk as memory-mapped arrays: generated once by worker processes, opened in an instant."""
import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.errors import InputError, OutputError
from data.simulate.case import STRUCTURES
from vision.heads import Head, head_named
from vision.heads.channels import network_channels, prepare, scale_of
from vision.heads.next_time import blurred, to_coarse
from vision.heads.raw import rebuild_arrays

SPLITS = {"train": 0.6, "validation": 0.15, "test": 0.25}       # of `size` cases; the review took 50-60 / 10-20 / 20-40 %
SEEDS = {"train": 0, "validation": 10_000_000, "test": 20_000_000}
FORMAT = 2                                                      # of the files: another one is made anew


@dataclass
class Example:
    """One case as a head sees it.

    arrays: inputs (C, S, H, W) float16; targets masks or class codes (K, S, H, W) uint8, images (K, S, H, W) float16;
        inside (S, H, W) uint8, the head; of raw data start (F, S, H, W), coils (N, S, H, W) complex64, kernels (F, G, G);
        of a series series (T, V), coarse (T, points of GRID), maps, time_courses.
    facts: JSON: patient, spacing_mm, category, scales by channel, numbers of the truth; of a row with a pair, mL of every mask of the case.
    """

    arrays: dict[str, NDArray[Any]]
    facts: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.arrays[name]

    @property
    def voxel_ml(self) -> float:
        return float(np.prod(self.facts["spacing_mm"])) / 1000


def make_example(head: Head, case: Any, patient: str) -> Example:
    """From a SimulatedCase or data.head_images.ImageCase."""
    facts: dict[str, Any] = {"patient": patient, "spacing_mm": [float(v) for v in case.spacing_mm], "category": case.category,
                             "numbers": {k: v for k, v in case.truth.items() if isinstance(v, (int, float, str, dict))}}
    if head.pair:
        point_ml = float(np.prod(case.spacing_mm)) / 1000
        facts["volumes_ml"] = {name: round(float((mask > 0).sum()) * point_ml, 3) for name, mask in case.masks.items()}
    if head.task == "rebuild":
        return Example(rebuild_arrays(head.name, case), facts)
    if head.task == "series":
        return series_example(case, facts)
    arrays: dict[str, NDArray[Any]] = {}
    if head.task == "volumes":
        return Example(arrays, facts)
    scales = {name: scale_of(name, case.channels) for name in head.inputs}
    maps = [m for name in head.inputs for m in network_channels(name, case.channels[name], scales[name])]
    arrays["inputs"] = np.stack(maps).astype(np.float16)
    if head.task == "image":
        scales |= {name: scale_of(name, case.channels) for name in head.outputs}
        arrays["targets"] = np.stack([prepare(name, case.channels[name], scales[name]) for name in head.outputs]).astype(np.float16)
        arrays["inside"] = inside_of(head, case)
        if "gradients" in case.truth:                           # direction and b of each
            table = np.asarray(case.truth["gradients"], np.float32)
            arrays |= {"gradients": table[:, :3], "b_s_mm2": table[:, 3]}
    elif head.exclusive:
        arrays["targets"] = codes_of(head, case)[None]
    elif head.task in ("outline", "detect"):
        arrays["targets"] = np.stack([case.masks[name] for name in head.outputs]).astype(np.uint8)
        for name, mask in case.masks.items():
            if name == "mimic":
                arrays["mimics"] = mask.astype(np.uint8)
    elif head.task == "category" and case.structures is not None:
        arrays["targets"] = tissue_of(case)[None]
    elif head.task == "tissues" and case.structures is not None:
        arrays["targets"] = case.structures.astype(np.uint8)[None]
    facts["scales"] = scales
    return Example(arrays, facts)


def tissue_of(case: Any) -> NDArray[np.uint8]:
    """Codes of STRUCTURES, and one more for whatever a mask outlines."""
    tissue = case.structures.astype(np.uint8).copy()
    for mask in case.masks.values():
        tissue[mask > 0] = len(STRUCTURES)
    return tissue


def codes_of(head: Head, case: Any) -> NDArray[np.uint8]:
    """Classes that exclude each other as codes, 0 for none; from masks where a department gives one a class, the later one on top."""
    if case.structures is not None:
        return case.structures.astype(np.uint8)
    codes = np.zeros(next(iter(case.masks.values())).shape, np.uint8)
    for k, name in enumerate(head.outputs, 1):
        codes[case.masks[name] > 0] = k
    return codes


def inside_of(head: Head, case: Any) -> NDArray[np.uint8]:
    """Where an image is measured: the brain where it is known and the answer is of the brain, else whatever is no air."""
    from scipy import ndimage

    if "brain" in case.masks:
        return case.masks["brain"].astype(np.uint8)
    if set(head.outputs) & {"ASL_SIX", "PET"} and case.structures is not None:
        return (case.structures > 0).astype(np.uint8)
    pixels = case.channels[head.outputs[0] if head.modality == "CT" else head.inputs[0]]
    pixels = pixels[0] if pixels.ndim == 4 else pixels
    bright = pixels > (-300 if head.modality == "CT" else 0.1 * float(np.quantile(pixels, 0.99)))
    return np.stack([ndimage.binary_fill_holes(plane) for plane in ndimage.binary_opening(bright, np.ones((1, 3, 3)))]).astype(np.uint8)


def series_example(case: Any, facts: dict[str, Any]) -> Example:
    """A BOLD series as (time, points of the brain), each point with mean 0 and spread 1, then blurred."""
    series = next(iter(case.channels.values()))
    inside = case.structures > 0 if case.structures is not None and case.structures.any() else series.mean(0) > 0.3 * series.mean(0).max()
    flat = series[:, inside].astype(np.float32)
    level = np.zeros(series.shape, np.float32)
    level[:, inside] = (flat - flat.mean(0)) / np.maximum(flat.std(0), 1e-6)
    flat = blurred(level, inside, case.spacing_mm)
    arrays: dict[str, NDArray[Any]] = {"series": flat.astype(np.float16), "coarse": to_coarse(series).astype(np.float16),
                                       "brain": inside.astype(np.uint8)}
    if "maps" in case.truth:
        arrays |= {"maps": np.asarray(case.truth["maps"])[:, inside].astype(np.float32),
                   "time_courses": np.asarray(case.truth["time_courses"], np.float32)}
    return Example(arrays, facts)


# ---------------------------------------------------------------- on disk

def write_example(folder: Path, example: Example) -> None:
    """Whole or not at all."""
    partial = folder.with_name(folder.name + ".part")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for name, values in example.arrays.items():
            np.save(partial / f"{name}.npy", values)
        (partial / "facts.json").write_text(json.dumps({"format": FORMAT, **example.facts}))
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise OutputError(f"{folder.parent} cannot be written ({error.strerror}); make room or give another --out, "
                          "then go on with --resume") from None


def open_example(folder: Path) -> Example:
    facts = json.loads((folder / "facts.json").read_text())
    return Example({path.stem: np.load(path, mmap_mode="r") for path in sorted(folder.glob("*.npy"))}, facts)


def is_ready(folder: Path) -> bool:
    try:
        return bool(json.loads((folder / "facts.json").read_text())["format"] == FORMAT)
    except (OSError, ValueError, KeyError):
        return False


def make_one(job: tuple[str, str, int, str | None, bool, str]) -> None:
    name, split, index, anatomy, held_out, folder = job
    from data.simulate.recipes import simulate

    head = head_named(name)
    seed = SEEDS[split] + index
    case = simulate(head.recipe, seed, anatomy=Path(anatomy) if anatomy else None, held_out=held_out, **head.options)
    write_example(Path(folder), make_example(head, case, f"simulated-{seed}"))


def simulated_examples(head: Head, split: str, count: int, folder: Path, seed: int = 0, anatomy: Path | None = None, workers: int = 1,
                       report: Callable[..., None] = lambda *a, **k: None) -> list[Example]:
    """`count` cases of a split, generated where they are missing; test cases are of held-out heads and of scanners outside the training range."""
    places = [folder / f"{split}-{seed}-{i:05d}" for i in range(count)]
    jobs = [(head.name, split, seed * 100_000 + i, str(anatomy) if anatomy else None, split == "test", str(place))
            for i, place in enumerate(places) if not is_ready(place)]
    for done, _ in enumerate(run_jobs(make_one, jobs, workers), 1):
        report(done, len(jobs), phase=f"simulate {split}")
    return [open_example(place) for place in places]


def run_jobs(work: Callable[[Any], Any], jobs: list[Any], workers: int) -> Iterator[Any]:
    """What `work` gives for each job, in their order."""
    if workers <= 1 or len(jobs) < 2:
        yield from map(work, jobs)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(work, jobs, chunksize=1)


def split_counts(size: int) -> dict[str, int]:
    """Cases of each split; raises InputError where a split would be too small to say anything."""
    if size < 8:
        raise InputError(f"--size is {size}, expected 8 or more: a head needs patients to learn from, to stop by and to be tested on")
    counts = {split: max(2, round(size * share)) for split, share in SPLITS.items()}
    counts["train"] = size - counts["validation"] - counts["test"]
    return counts

