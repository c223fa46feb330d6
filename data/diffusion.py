"""Diffusion tensors: from signals to a tensor, to FA and MD, and back to the signals of any directions."""
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
LEAST = 1e-3                # of a signal: its logarithm is taken
# the usual six directions, of unit length: the edges of a cube
SIX = np.array([(1, 0, 1), (-1, 0, 1), (0, 1, 1), (0, 1, -1), (1, 1, 0), (-1, 1, 0)]) / np.sqrt(2)


def design_of(gradients: NDArray[np.float64], b_s_mm2: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, 7): what log S0 and the tensor (xx, yy, zz, xy, xz, yz; 1e-3 mm2/s) add to each log signal."""
    x, y, z = gradients.T
    return np.concatenate([np.ones((len(b_s_mm2), 1)),
                           -b_s_mm2[:, None] / 1000 * np.stack([x * x, y * y, z * z, 2 * x * y, 2 * x * z, 2 * y * z], 1)], 1)


def fit(signal: Floats, gradients: NDArray[np.float64], b_s_mm2: NDArray[np.float64]) -> NDArray[np.float64]:
    """Least squares of the logarithms (Basser 1994): (n, ...) -> (7, ...), log S0 first."""
    logs = np.log(np.maximum(signal.reshape(len(signal), -1), LEAST))
    return (np.linalg.pinv(design_of(gradients, b_s_mm2)) @ logs).reshape(7, *signal.shape[1:])


def signals_of(fitted: NDArray[np.float64], gradients: NDArray[np.float64], b_s_mm2: NDArray[np.float64]) -> Floats:
    """The signals that a fitted tensor gives in other directions: (7, ...) -> (n, ...)."""
    logs = design_of(gradients, b_s_mm2) @ fitted.reshape(7, -1)
    return np.exp(np.minimum(logs, 20)).reshape(-1, *fitted.shape[1:]).astype(np.float32)


def anisotropy(fitted: NDArray[np.float64]) -> Floats:
    """FA and MD (1e-3 mm2/s) of (7, ...): (2, ...)."""
    dxx, dyy, dzz, dxy, dxz, dyz = fitted[1:].reshape(6, -1)
    values = np.linalg.eigvalsh(np.stack([dxx, dxy, dxz, dxy, dyy, dyz, dxz, dyz, dzz], -1).reshape(-1, 3, 3))
    values = np.maximum(values, 0)
    mean = values.mean(1)
    fa = np.sqrt(1.5 * ((values - mean[:, None]) ** 2).sum(1) / np.maximum((values**2).sum(1), 1e-12))
    return np.stack([fa, mean]).reshape(2, *fitted.shape[1:]).astype(np.float32)
