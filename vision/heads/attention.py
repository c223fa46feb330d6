"""Slice-attention classifier: a class for a whole volume, and which slices it was read from."""
from typing import NamedTuple

import torch
from torch import Tensor, nn

from data.errors import ShapeError
from vision.heads.unet import Down, UNetConfig


class Verdict(NamedTuple):
    logits: Tensor              # (B, outputs)
    weights: Tensor             # (B, slices), sum 1
    numbers: Tensor             # (B, numbers): what else is known of a patient (volumes, age), standardised


class SliceAttention(nn.Module):
    """The shared encoder reads each slice; attention (Ilse, arXiv 1802.04712) weighs the slices; a linear layer answers.

    A slice is known by the means of every stage, which grow with the size of what is seen, and by the peaks of the deepest.
    `numbers` are taught beside the classes where they are known: few patients then teach what to look at.
    """

    def __init__(self, config: UNetConfig, numbers: int = 0) -> None:
        super().__init__()
        self.config = config
        self.down = Down(config)
        seen = sum(config.widths) + config.widths[-1]
        self.level = nn.LayerNorm(seen)
        self.gate = nn.Sequential(nn.Linear(seen, 32), nn.Tanh(), nn.Linear(32, 1))
        self.join = nn.Sequential(nn.Linear(2 * seen, 64), nn.GELU(), nn.Dropout(0.3))
        self.answer = nn.Linear(64, config.outputs)
        self.numbers = nn.Linear(64, numbers)

    def forward(self, slices: Tensor) -> Verdict:               # (B, slices, channels_in, H, W)
        if slices.ndim != 5:
            raise ShapeError(f"slices are {tuple(slices.shape)}, expected (batch, slices, channels, rows, columns)")
        batch, count = slices.shape[:2]
        maps = self.down(slices.flatten(0, 1))
        seen = torch.cat([*(m.mean((2, 3)) for m in maps), maps[-1].amax((2, 3))], 1).reshape(batch, count, -1)
        seen = self.level(seen)
        weights = torch.softmax(self.gate(seen)[..., 0], 1)
        whole = self.join(torch.cat([(weights[..., None] * seen).sum(1), seen.mean(1)], 1))
        return Verdict(self.answer(whole), weights, self.numbers(whole))
