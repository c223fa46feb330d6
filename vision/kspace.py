"""k-space read: coil sensitivities, compressed sensing, and gridding for radial and spiral trajectories (Kaiser-Bessel, Jackson 1991)."""
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.special import i0

from data.kspace import fft2c, ifft2c

Complex = NDArray[np.complexfloating]

OVERSAMPLING, KERNEL = 2, 4                     # grid points a point of the image; width of the kernel in grid points
BETA = np.pi * np.sqrt((KERNEL / OVERSAMPLING * (OVERSAMPLING - 0.5)) ** 2 - 0.8)       # Beatty, IEEE TMI 2005, equation 5


def estimate_sensitivities(kspace: Complex, centre: int = 24) -> Complex:
    """(coils, H, W) from the fully sampled middle of k-space: each coil's smooth image over their root sum of squares."""
    height, width = kspace.shape[-2:]
    taper = np.outer(*(np.exp(-(((np.arange(n) - n // 2) / (centre / 2)) ** 4)) for n in (height, width)))
    smooth = ifft2c(kspace * taper)
    total = np.sqrt((np.abs(smooth) ** 2).sum(0))
    maps = smooth / np.maximum(total, 1e-12)
    return (maps * (total > 0.02 * total.max())).astype(np.complex64)


def cartesian_kernel(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Spectrum of the normal operator of a Cartesian mask (H, W) whose middle is zero frequency."""
    return np.fft.ifftshift(mask.astype(np.float32))


class Gridding:
    """Non-uniform Fourier transform of a square image at `points` (P, 2), in cycles a field of view, -size/2 to size/2."""

    def __init__(self, points: NDArray[np.float64], size: int) -> None:
        self.size, self.points, self.grid = size, np.asarray(points, np.float64).reshape(-1, 2), OVERSAMPLING * size

    @cached_property
    def matrix(self) -> sparse.csr_matrix:
        """(P, grid * grid): how much each grid point counts for each sample."""
        places = self.points * float(OVERSAMPLING) + self.grid // 2
        first = np.ceil(places - KERNEL / 2).astype(np.int64)
        rows, columns, values = [], [], []
        for i in range(KERNEL):
            for j in range(KERNEL):
                at = first + np.array((i, j))
                weight = bessel(at[:, 0] - places[:, 0]) * bessel(at[:, 1] - places[:, 1])
                wrapped = at % self.grid
                rows.append(np.arange(len(places)))
                columns.append(wrapped[:, 0] * self.grid + wrapped[:, 1])
                values.append(weight)
        shape = (len(places), self.grid * self.grid)
        return sparse.csr_matrix((np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))), shape=shape)

    @cached_property
    def fade(self) -> NDArray[np.float64]:
        """What the kernel does to the image, to be divided out: the transform of a single sample in the middle."""
        line = np.zeros(self.grid)
        offsets = np.arange(-(KERNEL // 2), KERNEL // 2 + 1)
        line[self.grid // 2 + offsets] = bessel(offsets.astype(float))
        profile = np.fft.fftshift(np.fft.ifft(np.fft.ifftshift(line))).real * self.grid
        profile = profile[(self.grid - self.size) // 2:][: self.size]
        return np.outer(profile, profile)

    def forward(self, image: Complex) -> Complex:
        """(..., size, size) -> (..., P)."""
        before = (self.grid - self.size) // 2
        after = self.grid - self.size - before
        padded = np.pad(image / self.fade, [(0, 0)] * (image.ndim - 2) + [(before, after)] * 2)
        full = fft2c(padded) * self.grid / self.size
        return (self.matrix @ full.reshape(-1, self.grid**2).T).T.reshape(*image.shape[:-2], -1)

    def adjoint(self, samples: Complex) -> Complex:
        """(..., P) -> (..., size, size)."""
        full = (self.matrix.T @ samples.reshape(-1, samples.shape[-1]).T).T.reshape(*samples.shape[:-1], self.grid, self.grid)
        start = (self.grid - self.size) // 2
        image = ifft2c(full)[..., start:start + self.size, start:start + self.size]
        return image / self.fade * self.grid / self.size

    def density(self, rounds: int = 12) -> NDArray[np.float64]:
        """Weights (P,) that make up for uneven sampling (Pipe and Menon 1999), scaled so that a smooth image keeps its scale."""
        weights = np.ones(len(self.points))
        for _ in range(rounds):
            weights = weights / np.maximum(self.matrix @ (self.matrix.T @ weights), 1e-12)
        blob = np.exp(-((np.arange(self.size) - self.size // 2) / (self.size / 12)) ** 2)
        blob = np.outer(blob, blob).astype(complex)
        seen = self.adjoint(weights * self.forward(blob))
        return weights * float((np.abs(blob) ** 2).sum() / np.vdot(blob, seen).real)

    def kernel(self, weights: NDArray[np.float64]) -> NDArray[np.float32]:
        """(2 size, 2 size) spectrum of the normal operator, image in the corner (Wajer and Pruessmann 2001)."""
        spread = Gridding(2 * self.points, 2 * self.size).adjoint(weights.astype(np.complex128))
        return (np.fft.fft2(np.fft.ifftshift(spread)).real * 2 / self.size).astype(np.float32)


def bessel(offset: NDArray[np.float64]) -> NDArray[np.float64]:
    inside = 1 - (2 * offset / KERNEL) ** 2
    return np.where(inside >= 0, i0(BETA * np.sqrt(np.maximum(inside, 0))), 0.0) / i0(BETA)


def total_variation(start: Complex, coils: Complex, kernel: NDArray[np.float32], strength: float = 2e-3, rounds: int = 40) -> Complex:
    """Compressed sensing: proximal gradient descent on data consistency and total variation (Lustig 2007; Beck and Teboulle 2009)."""
    scale = np.abs(start).max() + 1e-12
    start = start / scale
    image, ahead, pace = start.copy(), start.copy(), 1.0
    rate = 1 / max(1.0, float(np.abs(kernel).max()))
    for _ in range(rounds):
        seen = np.fft.fft2(coils * ahead, s=kernel.shape)
        normal = (np.fft.ifft2(seen * kernel)[..., : start.shape[0], : start.shape[1]] * coils.conj()).sum(0)
        step = smooth_edges(ahead - rate * (normal - start), strength)
        faster = (1 + np.sqrt(1 + 4 * pace**2)) / 2
        ahead, image, pace = step + (pace - 1) / faster * (step - image), step, faster
    return image * scale


def smooth_edges(image: Complex, strength: float, rounds: int = 8) -> Complex:
    """Proximal step of the total variation (Chambolle 2004)."""
    dual = np.zeros((2, *image.shape), image.dtype)
    for _ in range(rounds):
        gradient = differences(divergence(dual) - image / strength)
        dual = (dual + 0.25 * gradient) / (1 + 0.25 * np.sqrt((np.abs(gradient) ** 2).sum(0)))
    return image - strength * divergence(dual)


def differences(image: Complex) -> Complex:
    return np.stack([np.roll(image, -1, axis) - image for axis in (0, 1)])


def divergence(dual: Complex) -> Complex:
    return dual[0] - np.roll(dual[0], 1, 0) + dual[1] - np.roll(dual[1], 1, 1)

