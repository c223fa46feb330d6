"""Two-stage detector: a map of candidates, then a judge that looks at each candidate's surroundings in three dimensions."""
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn

from vision.heads.unet import UNet, UNetConfig, convolve

PATCH = 16                      # points a side that the judge sees
CANDIDATE = 0.15                # probability from which a point belongs to a candidate
CANDIDATES_MAX = 200            # the most probable of a volume: no more are judged


class Candidate(NamedTuple):
    centre: tuple[int, int, int]
    label: int                  # in the map of spots
    peak: float                 # highest probability of its points


class TwoStage(nn.Module):
    def __init__(self, config: UNetConfig, channels: int) -> None:
        super().__init__()
        self.map = UNet(config)
        width = config.width
        self.judge = nn.Sequential(convolve(channels + 1, width, 3), convolve(width, 2 * width, 3, stride=2), convolve(2 * width, 2 * width, 3),
                                   convolve(2 * width, 4 * width, 3, stride=2), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Dropout(0.2),
                                   nn.Linear(4 * width, 1))

    def forward(self, image: Tensor) -> Tensor:                 # (B, channels x neighbours, H, W) -> (B, outputs, H, W)
        return self.map(image)

    def judged(self, patches: Tensor) -> Tensor:                # (N, channels + 1, PATCH, PATCH, PATCH) -> (N,) logits
        return self.judge(patches)[:, 0]


def candidates(probability: NDArray[np.float32], threshold: float = CANDIDATE) -> tuple[list[Candidate], NDArray[np.int32]]:
    """Spots of a probability volume (slices, rows, columns), most probable first, and the map of their labels."""
    spots, count = ndimage.label(probability > threshold, np.ones((3, 3, 3)))
    if not count:
        return [], spots
    index = np.arange(1, count + 1)
    peaks = ndimage.maximum(probability, spots, index)
    centres = ndimage.maximum_position(ndimage.gaussian_filter(probability, 0.7), spots, index)
    found = [Candidate(tuple(int(v) for v in centre), int(i), float(peak)) for i, centre, peak in zip(index, centres, peaks, strict=True)]
    return sorted(found, key=lambda c: -c.peak)[:CANDIDATES_MAX], spots


def patches(channels: NDArray[np.float32], probability: NDArray[np.float32], centres: list[tuple[int, int, int]]) -> Tensor:
    """Cubes around the centres: (N, channels + 1, PATCH, PATCH, PATCH), zero outside the volume."""
    half = PATCH // 2
    stack = np.concatenate([channels, probability[None]]).astype(np.float32)
    stack = np.pad(stack, ((0, 0), *((half, half),) * 3))
    cut = [stack[:, a:a + PATCH, b:b + PATCH, c:c + PATCH] for a, b, c in centres]
    return torch.from_numpy(np.stack(cut)) if cut else torch.zeros((0, len(stack), PATCH, PATCH, PATCH))
