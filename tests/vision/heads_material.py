"""Tiny seeded cases for every kind of head."""
from types import SimpleNamespace

import numpy as np

from data.kspace import fft2c, radial_trajectory, spiral_trajectory
from vision.heads import Head
from vision.heads.examples import Example, make_example
from vision.kspace import Gridding


def tiny_case(head: Head, seed: int, size: int = 32, slices: int = 4) -> SimpleNamespace:
    """A bright ball in a grey head; every output is a function of the inputs, so that a net can learn it."""
    rng = np.random.default_rng(seed)
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in (slices, size, size)), indexing="ij")
    brain = (y**2 + x**2 < 0.8).astype(np.float32)
    at, category = rng.uniform(-0.4, 0.4, 2), int(seed % max(2, len(head.outputs)))
    ball = (((y - at[0]) ** 2 + (x - at[1]) ** 2 + 0.3 * z**2) < 0.06).astype(np.float32)
    grey = brain * (1 + 0.05 * rng.normal(size=brain.shape)) + 1.5 * ball
    scale = {"CT": 40.0, "ADC": 800.0, "TMAX": 2.0, "CBF": 50.0, "CBV": 4.0, "MTT": 5.0, "LOW_DOSE": 40.0, "FULL_DOSE": 40.0, "MD": 800.0, "FA": 0.4,
             "PET": 1.0}
    channels = {name: (grey * scale.get(name, 1.0)).astype(np.float32) for name in (*head.inputs, *head.outputs) if name.isupper() or name[0] == "T"}
    truth: dict = {"age_years": 60.0 + 10 * category, "sex": "F" if seed % 2 else "M", "volumes_ml": {"hippocampus": 7.0 - category, "brain": 1100.0}}
    if head.task in ("category", "tissues", "picture"):
        channels = {name: values * (0.5 + category) + category * ball for name, values in channels.items()}
    if "DIFFUSION" in channels:
        channels["DIFFUSION"] = np.stack([channels["DIFFUSION"] * (1 if k == 0 else 0.5) for k in range(head.series)])
        truth["gradients"] = np.vstack([np.zeros(4), np.c_[rng.normal(size=(head.series - 1, 3)), np.full(head.series - 1, 1000.0)]])
    if head.task == "series":
        courses = rng.normal(size=(3, 70))
        maps = np.stack([((np.abs(y - c) < 0.3) * brain) for c in (-0.5, 0.0, 0.5)])
        channels["BOLD"] = (100 * brain + np.einsum("kt,kzyx->tzyx", courses, maps)).astype(np.float32)
        truth |= {"maps": maps, "time_courses": courses}
    if head.task == "rebuild":
        channels["TARGET"] = grey.astype(np.float32)
        coils = np.stack([np.exp(-((x - cx) ** 2 + (y - cy) ** 2)) for cx, cy in ((-1, -1), (1, 1), (-1, 1))]).astype(complex)
        coils /= np.sqrt((np.abs(coils) ** 2).sum(0))
        truth |= raw_data(head.name, grey, coils, size)
    masks = {name: ball.astype(np.uint8) for name in head.outputs}
    return SimpleNamespace(channels=channels, masks=masks, structures=(brain + ball).astype(np.uint8),
                           category=category, spacing_mm=(4.0, 2.0, 2.0), truth=truth)


def raw_data(name: str, image: np.ndarray, coils: np.ndarray, size: int) -> dict:
    if name.endswith("cartesian"):
        masks = {}
        for factor in (4, 8):
            mask = np.arange(size) % factor == 0
            mask[size // 2 - 4:size // 2 + 4] = True
            masks[f"mask_{factor}x"] = mask
        return {"kspace": fft2c(coils * image), **masks}
    points = radial_trajectory(16, size) if name.endswith("radial") else spiral_trajectory(8, 64, turns=2)
    return {"kspace": Gridding(points * size, size).forward(coils * image).astype(np.complex64), "trajectory": points}


def tiny_examples(head: Head, count: int, seed: int = 0) -> list[Example]:
    return [make_example(head, tiny_case(head, seed + i), f"simulated-{seed + i}") for i in range(count)]
