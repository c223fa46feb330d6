"""Raw MR data: centred Fourier transforms, coil sensitivities, sampling masks and trajectories, and the exact non-uniform transform.

Images and k-space are (..., rows, columns); trajectories are (samples, 2) in cycles a pixel, row first, between -0.5 and 0.5.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import fft

Complex = NDArray[np.complex64]
Floats = NDArray[np.float32]


def fft2c(image: NDArray) -> Complex:
    """Centred, orthonormal Fourier transform over the last two axes."""
    return fft.fftshift(fft.fft2(fft.ifftshift(image, (-2, -1)), norm="ortho"), (-2, -1)).astype(np.complex64)


def ifft2c(kspace: NDArray) -> Complex:
    """Inverse of `fft2c`."""
    return fft.fftshift(fft.ifft2(fft.ifftshift(kspace, (-2, -1)), norm="ortho"), (-2, -1)).astype(np.complex64)


def coil_sensitivities(rng: np.random.Generator, coils: int, shape: tuple[int, int, int]) -> Complex:
    """Smooth complex sensitivities (coils, slices, rows, columns) of loops around the head, sum of squares 1 everywhere."""
    slices, rows, columns = shape
    z, y, x = np.meshgrid(
        np.linspace(-0.3, 0.3, slices) if slices > 1 else np.zeros(1), np.linspace(-1, 1, rows), np.linspace(-1, 1, columns), indexing="ij"
    )
    turn = rng.uniform(0, 2 * np.pi)
    out = np.empty((coils, slices, rows, columns), np.complex64)
    for coil in range(coils):
        angle = turn + 2 * np.pi * coil / coils + rng.normal(0, 0.08)
        radius, height = 1.25 + rng.normal(0, 0.05), rng.uniform(-0.4, 0.4)
        cy, cx = radius * np.sin(angle), radius * np.cos(angle)
        square = (y - cy) ** 2 + (x - cx) ** 2 + (z - height) ** 2
        wide = rng.uniform(0.65, 0.95)
        phase = rng.uniform(0, 2 * np.pi) + rng.uniform(0.6, 1.6) * (np.cos(angle) * x + np.sin(angle) * y)
        out[coil] = (wide**2 / (wide**2 + square)) ** 1.5 * np.exp(1j * phase)
    return (out / np.sqrt((np.abs(out) ** 2).sum(0, keepdims=True))).astype(np.complex64)


def combine(images: NDArray, sensitivities: NDArray) -> Complex:
    """Coil images to one image: each weighted by the conjugate of its sensitivity (the sensitivities' sum of squares is 1)."""
    return (images * np.conj(sensitivities)).sum(0).astype(np.complex64)


def cartesian_mask(rows: int, factor: float, rng: np.random.Generator, centre_share: float = 0.0) -> Floats:
    """1 for the phase-encoding lines kept, about rows / factor of them: the centre, the rest at random. Default centre: 8 % at 4x, 4 % at 8x.

    Source: the masks of fastMRI (Zbontar 2018, arXiv 1811.08839).
    """
    share = centre_share or 0.32 / factor
    centre = max(2, round(rows * share))
    start = (rows - centre + 1) // 2
    mask = np.zeros(rows, np.float32)
    mask[start : start + centre] = 1
    others = np.flatnonzero(mask == 0)
    wanted = max(0, round(rows / factor) - centre)
    mask[rng.choice(others, min(wanted, len(others)), replace=False)] = 1
    return mask


def radial_trajectory(spokes: int, samples: int, golden: bool = True) -> Floats:
    """(spokes * samples, 2): straight lines through the centre, turned by the golden angle (or evenly over 180 degrees)."""
    angles = np.arange(spokes) * (np.pi * 111.246117975 / 180 if golden else np.pi / spokes)
    radius = (np.arange(samples) - samples // 2) / samples
    return np.stack([np.sin(angles)[:, None] * radius, np.cos(angles)[:, None] * radius], -1).reshape(-1, 2).astype(np.float32)


def spiral_trajectory(interleaves: int, samples: int, turns: float = 12.0, thickening: float = 1.4) -> Floats:
    """(interleaves * samples, 2): Archimedean arms from the centre to the edge, denser in the centre for `thickening` above 1."""
    part = np.linspace(0, 1, samples) ** 0.6  # slow in the centre, as gradients allow
    radius = 0.5 * part**thickening
    angle = 2 * np.pi * turns * part
    arms = [np.stack([radius * np.sin(angle + a), radius * np.cos(angle + a)], -1) for a in 2 * np.pi * np.arange(interleaves) / interleaves]
    return np.concatenate(arms).astype(np.float32)


def sampling_density(trajectory: NDArray, shape: tuple[int, int]) -> Floats:
    """Weights (samples,): the area of k-space in grid cells that each sample stands for, by rings: for radial and spiral trajectories."""
    radius = np.hypot(*np.asarray(trajectory, float).T)
    width = 1 / max(shape)      # rings lie around the radii that evenly sampled spokes have
    edges = np.concatenate([[0], (np.arange(max(shape) // 2 + 1) + 0.5) * width])
    ring = np.clip(np.searchsorted(edges, radius, side="right") - 1, 0, len(edges) - 2)
    counts = np.bincount(ring, minlength=len(edges) - 1)
    area = np.pi * (edges[1:] ** 2 - edges[:-1] ** 2) * shape[0] * shape[1]
    middle = (edges[:-1] + edges[1:]) / 2
    weights = area / np.maximum(counts, 1)
    filled = counts > 0
    smooth = np.interp(radius, middle[filled], weights[filled])  # within a ring the area still grows with the radius
    share = np.bincount(ring, smooth, len(edges) - 1)
    return (smooth * (area / np.maximum(share, 1e-12))[ring]).astype(np.float32)


def phases(trajectory: NDArray, n: int, axis: int) -> Complex:
    return np.exp(-2j * np.pi * np.outer(np.asarray(trajectory, float)[:, axis], np.arange(n) - n // 2)).astype(np.complex64)


def sample(image: NDArray, trajectory: NDArray) -> Complex:
    """Exact non-uniform discrete Fourier transform (..., samples), scaled as `fft2c`: on its grid points the two agree."""
    rows, columns = image.shape[-2:]
    by_row, by_column = phases(trajectory, rows, 0), phases(trajectory, columns, 1)
    flat = np.asarray(image, np.complex64).reshape(-1, rows, columns)
    out = np.stack([((by_row @ one) * by_column).sum(1) for one in flat])
    return (out / np.sqrt(rows * columns)).reshape(*image.shape[:-2], -1).astype(np.complex64)


def grid_back(samples: NDArray, trajectory: NDArray, density: NDArray, shape: tuple[int, int]) -> Complex:
    """Adjoint of `sample` on density-weighted samples: the gridded image (..., rows, columns)."""
    rows, columns = shape
    by_row, by_column = phases(trajectory, rows, 0).conj(), phases(trajectory, columns, 1).conj()
    flat = (np.asarray(samples) * density).reshape(-1, len(trajectory))
    out = np.stack([by_row.T @ (one[:, None] * by_column) for one in flat])
    return (out / np.sqrt(rows * columns)).reshape(*samples.shape[:-1], rows, columns).astype(np.complex64)
