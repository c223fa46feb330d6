"""Networks of a resting series: an autoencoder that foretells the next time point, its few hidden values being the networks."""
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional

GRID = (10, 24, 24)             # slices, rows, columns that every series is brought to
NETWORKS = 16                   # hidden values: more than the networks expected
STRETCH = 60                    # time points of a stretch to learn from
BLUR_MM = 4.5                   # standard deviation; 10.6 mm at half height, as is usual before looking for networks
ROUNDS, KEPT, SHOWN = 20, 0.5, 1.0      # of `follow`; standard deviations above which a point belongs to a network, on the way and in the answer


class NextTime(nn.Module):
    def __init__(self, networks: int = NETWORKS, points: int = int(np.prod(GRID))) -> None:
        super().__init__()
        self.read = nn.Linear(points, networks, bias=False)
        self.step = nn.GRU(networks, networks, batch_first=True)
        self.write = nn.Parameter(torch.rand(networks, points) * 0.1 - 2.0)     # through softplus: a network only adds

    def hidden(self, coarse: Tensor) -> Tensor:                 # (B, T, points) -> (B, T, networks)
        return self.read(functional.dropout(coarse, 0.1, self.training))

    def loss(self, coarse: Tensor) -> Tensor:
        """Error of the same and of the next time point; maps sparse, networks unlike each other."""
        hidden, maps = self.hidden(coarse), functional.softplus(self.write)
        coming = hidden + self.step(hidden)[0]
        now = functional.mse_loss(hidden @ maps, coarse)
        following = functional.mse_loss(coming[:, :-1] @ maps, coarse[:, 1:])
        flat = functional.normalize(hidden.flatten(0, 1) - hidden.flatten(0, 1).mean(0), dim=0)
        alike = (flat.T @ flat - torch.eye(flat.shape[1], device=flat.device)).pow(2).mean()
        overlap = functional.normalize(maps, dim=1)
        return now + following + 0.3 * alike + 0.3 * (overlap @ overlap.T - torch.eye(len(maps), device=maps.device)).pow(2).mean()

    def maps(self, coarse: Tensor, series: NDArray[np.float32]) -> NDArray[np.float32]:
        """(networks, V) from 0 to 1, the point that follows the network best: how each of the series' points (T, V) follows each network."""
        with torch.inference_mode():
            courses = self.hidden(coarse[None])[0].cpu().numpy()
        return follow(courses, series)


def follow(courses: NDArray[Any], series: NDArray[Any]) -> NDArray[np.float32]:
    """From what the net foretells of everybody to the person: time courses (T, networks) and maps of the series (T, V) by turns.

    Maps by least squares on all time courses at once (and on the mean of the brain, which is nobody's network), cut to the points well above
    the rest; time courses by least squares on these maps. Dual regression (Nickerson 2017, Front Neurosci 11:115), with sparse maps and repeated.
    """
    level = series.astype(np.float64) - series.mean(0)
    shared = np.column_stack([courses, level.mean(1)]).astype(np.float64)
    maps = np.zeros((courses.shape[1], series.shape[1]))
    for turn in range(ROUNDS):
        shared -= shared.mean(0)
        shared /= np.linalg.norm(shared, axis=0) + 1e-9
        maps = np.linalg.lstsq(shared, level, rcond=1e-3)[0]
        maps = cut(maps, SHOWN if turn == ROUNDS - 1 else KEPT)
        shared = level @ np.linalg.pinv(maps + 1e-9)
    maps = maps[:courses.shape[1]]
    return (maps / np.maximum(maps.max(1, keepdims=True), 1e-9)).astype(np.float32)


def cut(maps: NDArray[Any], above: float = SHOWN) -> NDArray[Any]:
    """Maps turned so that their few strong points are positive (no course is known from its mirror image), and cut to what stands out."""
    turned = maps * np.sign((maps**3).mean(1, keepdims=True) + 1e-12)
    return np.maximum(turned - above * turned.std(1, keepdims=True), 0)


def blurred(series: NDArray[Any], inside: NDArray[np.bool_], spacing_mm: tuple[float, float, float]) -> NDArray[np.float32]:
    """(T, S, H, W) -> (T, points inside), blurred by BLUR_MM among the points inside alone."""
    sigma = [BLUR_MM / mm for mm in spacing_mm]
    weight = np.maximum(ndimage.gaussian_filter(inside.astype(np.float32), sigma), 1e-3)
    return np.stack([(ndimage.gaussian_filter(np.where(inside, frame, 0).astype(np.float32), sigma) / weight)[inside] for frame in series])


def to_coarse(series: NDArray[np.float32]) -> NDArray[np.float32]:
    """(T, S, H, W) -> (T, points of GRID), each point with mean 0 and spread 1, silent outside the brain."""
    coarse = functional.adaptive_avg_pool3d(torch.from_numpy(np.ascontiguousarray(series))[:, None], GRID)[:, 0].flatten(1).numpy()
    inside = coarse.mean(0) > 0.3 * float(np.quantile(coarse.mean(0), 0.95))
    level = (coarse - coarse.mean(0)) / np.maximum(coarse.std(0), 1e-6)
    return (level * inside).astype(np.float32)


def match_maps(found: NDArray[np.float32], truth: NDArray[np.float32]) -> NDArray[np.float64]:
    """Correlation of each true map with the found one that is given to it, each found one once; the sign does not count."""
    a, b = (m - m.mean(1, keepdims=True) for m in (truth.astype(np.float64), found.astype(np.float64)))
    a, b = (m / np.maximum(np.linalg.norm(m, axis=1, keepdims=True), 1e-12) for m in (a, b))
    alike = np.abs(a @ b.T)
    return alike[linear_sum_assignment(-alike)]
