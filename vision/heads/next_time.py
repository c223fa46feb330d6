"""Networks of a resting series: an autoencoder that foretells the next time point, its few hidden values being the networks."""
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional

GRID = (10, 24, 24)             # slices, rows, columns that every series is brought to
NETWORKS = 16                   # hidden values: more than the networks expected
STRETCH = 60                    # time points of a stretch to learn from


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

    def maps(self, coarse: Tensor, series: Tensor) -> Tensor:
        """(networks, V): correlation of each of the series' points (T, V) with each network's time course."""
        with torch.inference_mode():
            courses = self.hidden(coarse[None])[0]
            courses = functional.normalize(courses - courses.mean(0), dim=0)
            return courses.T @ functional.normalize(series - series.mean(0), dim=0)


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
