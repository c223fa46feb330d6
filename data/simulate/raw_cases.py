"""Raw-data cases: coil images of one head in k-space, Cartesian, radial or spiral."""

from dataclasses import replace

import numpy as np

from data.errors import SimulatorError
from data.kspace import cartesian_mask, coil_sensitivities, combine, fft2c, ifft2c, radial_trajectory, sample, sampling_density, spiral_trajectory
from data.simulate.build import Patient, finish, grow_old, start
from data.simulate.case import Floats, SimulatedCase
from data.simulate.scene import Ask
from data.simulate.signal import render, scan, sequence
from data.simulate.tumours import glioma
from data.simulate.white_matter import small_vessel

CONTRASTS = ("T1", "T2", "FLAIR", "PD", "T1CE")


def head_image(ask: Ask) -> tuple[Patient, Floats, str]:
    """A clean image of a head of any contrast, sometimes with a lesion; nothing but blur added."""
    patient = start(ask, steady=False)
    rng, scene = patient.disease, patient.scene
    grow_old(patient)
    paint = glioma(scene, rng, "high") if rng.uniform() < 0.3 else dict
    aged = small_vessel(scene, np.random.default_rng(rng.integers(2**62)), int(rng.choice(3, p=[0.6, 0.3, 0.1])))
    scene.settle()
    aged()
    paint()
    name = str(patient.scanner.choice(CONTRASTS))
    look = replace(patient.look, noise=0.0, bias=0.5 * patient.look.bias, ghost=0.0, blur=0.8)
    image = scan(scene, render(scene, sequence(name, patient.tissues, patient.scanner, ask.held_out)), name, look)
    return patient, image, name


def coil_images(patient: Patient, image: Floats, coils: int) -> tuple[np.ndarray, np.ndarray, float, np.random.Generator]:
    """(images, sensitivities, noise sd, rng): the head with a smooth phase of its own, seen by each coil."""
    if not 1 <= coils <= 64:
        raise SimulatorError(f"coils is {coils}, expected 1 to 64")
    rng = np.random.default_rng([patient.scene.ask.seed, 21, patient.scene.ask.held_out])
    rows, columns = image.shape[-2:]
    y, x = np.meshgrid(np.linspace(-1, 1, rows), np.linspace(-1, 1, columns), indexing="ij")
    a, b, c, d, e = rng.normal(0, (1.5, 0.6, 0.6, 0.5, 0.5))
    phase = np.exp(1j * (a + b * x + c * y + d * x * y + e * (x**2 - y**2)))
    maps = coil_sensitivities(rng, coils, image.shape)  # type: ignore[arg-type]
    return image * phase * maps, maps, patient.look.noise * 0.5, rng


def noise_like(rng: np.random.Generator, shape: tuple[int, ...], sd: float) -> np.ndarray:
    return ((rng.standard_normal(shape, np.float32) + 1j * rng.standard_normal(shape, np.float32)) * np.float32(sd / np.sqrt(2))).astype(np.complex64)


def reconstruction_cartesian(ask: Ask) -> SimulatedCase:
    patient, image, name = head_image(ask)
    images, maps, sd, rng = coil_images(patient, image, int(ask.options.get("coils", 8)))
    kspace = fft2c(images)
    kspace += noise_like(rng, kspace.shape, sd)
    target = np.abs(combine(ifft2c(kspace), maps))
    rows = image.shape[1]
    return finish(
        patient,
        {"TARGET": target},
        truth={
            "kspace": kspace,
            "sensitivities": maps,
            "mask_4x": cartesian_mask(rows, 4, rng),
            "mask_8x": cartesian_mask(rows, 8, rng),
            "noise_sd": sd,
            "contrast": name,
        },
    )


def non_cartesian(ask: Ask, trajectory: np.ndarray) -> SimulatedCase:
    patient, image, name = head_image(ask)
    images, maps, sd, rng = coil_images(patient, image, int(ask.options.get("coils", 8)))
    kspace = sample(images, trajectory)
    kspace += noise_like(rng, kspace.shape, sd)
    return finish(
        patient,
        {"TARGET": image},
        truth={
            "kspace": kspace,
            "sensitivities": maps,
            "trajectory": trajectory,
            "density": sampling_density(trajectory, image.shape[1:]),
            "noise_sd": sd,
            "contrast": name,
        },
    )  # type: ignore[arg-type]


def counted(ask: Ask, name: str, default: int) -> int:
    value = int(ask.options.get(name) or default)
    if not 1 <= value <= 1024:
        raise SimulatorError(f"{name} is {value}, expected 1 to 1024")
    return value


def reconstruction_radial(ask: Ask) -> SimulatedCase:
    """By default about an eighth of the spokes that full sampling needs."""
    side = max(ask.size[1:])
    return non_cartesian(ask, radial_trajectory(counted(ask, "spokes", max(8, round(side * np.pi / 2 / 8))), side))


def reconstruction_spiral(ask: Ask) -> SimulatedCase:
    """By default interleaves for about a sixth of full sampling."""
    side = max(ask.size[1:])
    arms = counted(ask, "interleaves", 6)
    return non_cartesian(ask, spiral_trajectory(arms, 5 * side, turns=side / 2 / 6 / arms * 3))
