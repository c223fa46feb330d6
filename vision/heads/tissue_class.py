"""A class for a whole volume from its tissues: how much of each lies in each cell of the brain, and a logistic regression."""
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from vision.heads.unet import UNet, UNetConfig

# cells by axis (slices, rows, and columns from the middle to either side, both sides alike) of the box that holds the brain
GRIDS = ((1, 1, 1), (6, 6, 3))
CELLS = sum(int(np.prod(grid)) for grid in GRIDS)
EDGE = 0.02                 # of the fullest plane: planes with less brain lie outside the box
SHRINK = 100.0              # weight of the squared coefficients beside the sum of the cases' losses: few patients, many cells
ROUNDS = 200                # of L-BFGS
TOLD = 0.01                 # spread of a share's root below which it says nothing, and half precision would not keep it apart
Floats = NDArray[np.float32]


class TissueClass(nn.Module):
    """`unet` outlines the tissues (background first), `forward` reads the class off `shares_of` what it found."""

    def __init__(self, config: UNetConfig, outputs: int) -> None:
        super().__init__()
        self.config = config
        self.unet = UNet(config)
        count = CELLS * (config.outputs - 1)
        self.register_buffer("usual", torch.zeros(count))
        self.register_buffer("spread", torch.ones(count))
        self.answer = nn.Linear(count, outputs)

    def forward(self, shares: Tensor) -> Tensor:                # (B, CELLS x tissues) -> (B, outputs) logits
        return self.answer((shares - self.usual) / self.spread)

    def fit(self, shares: Tensor, labels: Tensor) -> None:
        """Logistic regression on standardised shares; what hardly differs between patients says nothing."""
        usual, spread = shares.mean(0), shares.std(0)
        told = spread > TOLD
        self.usual.copy_(usual)                                 # type: ignore[operator]  # a buffer
        self.spread.copy_(torch.where(told, spread, torch.inf))  # type: ignore[operator]
        with torch.no_grad():
            self.answer.weight.zero_()
            self.answer.bias.zero_()
        best = torch.optim.LBFGS(self.answer.parameters(), max_iter=ROUNDS, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            best.zero_grad()
            found = functional.cross_entropy(self(shares), labels) + 0.5 * SHRINK / len(labels) * self.answer.weight.square().sum()
            found.backward()  # type: ignore[no-untyped-call]
            return found

        best.step(loss)


def shares_of(tissue: Floats) -> Floats:
    """(tissues, S, H, W) probabilities -> (CELLS x tissues,): the square root of each cell's share of each tissue."""
    low, high = zip(*(extent(tissue.sum(0), axis) for axis in range(3)), strict=True)
    box = tissue[:, low[0]:high[0], low[1]:high[1], low[2]:high[2]]
    slices, rows, columns = box.shape[1:]
    across = np.abs((np.arange(columns) + 0.5) / columns * 2 - 1)
    found = []
    for s, r, c in GRIDS:
        at = [np.arange(slices) * s // slices, np.arange(rows) * r // rows, np.minimum((across * c).astype(int), c - 1)]
        cell = ((at[0][:, None, None] * r + at[1][None, :, None]) * c + at[2][None, None, :]).ravel()
        size = np.maximum(np.bincount(cell, minlength=s * r * c), 1)
        found += [np.sqrt(np.bincount(cell, weights=kind.ravel(), minlength=s * r * c) / size) for kind in box]
    return np.concatenate(found).astype(np.float32)


def extent(brain: Floats, axis: int) -> tuple[int, int]:
    """Where the brain begins and ends along an axis; all of it where there is none."""
    held = brain.sum(tuple(a for a in range(3) if a != axis))
    inside = np.flatnonzero(held > EDGE * held.max())
    return (int(inside[0]), int(inside[-1]) + 1) if len(inside) else (0, len(held))
