"""Raw MR data made ready for the unrolled network: coils compressed, sensitivities estimated, undersampled, its normal operator as a kernel."""
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.errors import InputError
from data.kspace import fft2c, ifft2c
from vision.kspace import Complex, Gridding, cartesian_kernel, estimate_sensitivities

COILS = 4           # virtual coils kept: most of the signal, at half of the work
CENTRE = 16         # lines in the middle that every mask keeps


def compress_coils(samples: Complex) -> Complex:
    """(coils, ...) to at most COILS by singular values (Buehrer 2007)."""
    flat = samples.reshape(len(samples), -1)
    basis = np.linalg.svd(flat[:, :: max(1, flat.shape[1] // 20_000)], full_matrices=False)[0][:, :COILS]
    return (basis.conj().T @ flat).reshape(-1, *samples.shape[1:])


def rebuild_arrays(name: str, case: Any) -> dict[str, NDArray[Any]]:
    """start (F, S, H, W), coils (N, S, H, W) complex64, kernels (F, G, G), targets (1, S, H, W), inside (S, H, W); F undersamplings."""
    kspace = np.asarray(case.truth["kspace"])
    if not np.isfinite(kspace).all():
        raise InputError("kspace holds values that are no numbers; send the raw data as acquired")
    kspace = compress_coils(kspace)
    if "trajectory" in case.truth:
        target = case.channels["TARGET"]
        starts, coils, kernels = from_trajectory(kspace, np.asarray(case.truth["trajectory"]), target.shape[-1])
    else:
        starts, coils, kernels = from_lines(kspace, [np.asarray(case.truth[k], bool) for k in ("mask_4x", "mask_8x") if k in case.truth])
    arrays: dict[str, NDArray[Any]] = {"start": starts.astype(np.complex64), "coils": coils.astype(np.complex64), "kernels": kernels}
    if "TARGET" in case.channels:
        target = np.abs(case.channels["TARGET"]).astype(np.float32)
        top = float(np.quantile(target, 0.99))
        arrays |= {"targets": target[None], "inside": (target > 0.05 * top).astype(np.uint8)}
    return arrays


def from_lines(kspace: Complex, masks: list[NDArray[np.bool_]]) -> tuple[Complex, Complex, NDArray[np.float32]]:
    """Cartesian: (coils, S, H, W) and the lines (H,), or the points (H, W), that each undersampling keeps."""
    full = [np.broadcast_to(mask if mask.ndim == 2 else mask[:, None], kspace.shape[-2:]) for mask in masks]
    coils = np.stack([estimate_sensitivities(kspace[:, s] * full[-1], CENTRE) for s in range(kspace.shape[1])], 1)
    starts = np.stack([(ifft2c(kspace * mask) * coils.conj()).sum(0) for mask in full])
    return starts, coils, np.stack([cartesian_kernel(mask) for mask in full])


def from_trajectory(samples: Complex, trajectory: NDArray[np.float64], size: int) -> tuple[Complex, Complex, NDArray[np.float32]]:
    """Radial, spiral: (coils, S, P) at (P, 2) cycles a pixel."""
    gridding, weights, kernel = gridding_of(trajectory.astype(np.float64).tobytes(), size)
    images = gridding.adjoint(samples * weights)
    coils = np.stack([estimate_sensitivities(fft2c(images[:, s]), CENTRE) for s in range(images.shape[1])], 1)
    return (images * coils.conj()).sum(0)[None], coils, kernel[None]


@lru_cache(maxsize=8)
def gridding_of(trajectory: bytes, size: int) -> tuple[Gridding, NDArray[np.float64], NDArray[np.float32]]:
    gridding = Gridding(np.frombuffer(trajectory).reshape(-1, 2) * size, size)
    weights = gridding.density()
    return gridding, weights, gridding.kernel(weights)
