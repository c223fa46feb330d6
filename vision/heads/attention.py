"""Slice-attention classifier: a class for a whole volume, and which slices it was read from."""
from typing import NamedTuple

import torch
from torch import Tensor, nn

from data.errors import ShapeError
from vision.heads.unet import Down, UNetConfig


class Verdict(NamedTuple):
    logits: Tensor              # (B, outputs)
    weights: Tensor             # (B, slices), sum 1


class SliceAttention(nn.Module):
    """The shared encoder reads each slice; attention (Ilse, arXiv 1802.04712) weighs the slices; a linear layer answers."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        self.down = Down(config)
        deep = config.widths[-1]
        self.gate = nn.Sequential(nn.Linear(2 * deep, 32), nn.Tanh(), nn.Linear(32, 1))
        self.drop = nn.Dropout(0.3)
        self.answer = nn.Linear(4 * deep, config.outputs)

    def forward(self, slices: Tensor) -> Verdict:               # (B, slices, channels_in, H, W)
        if slices.ndim != 5:
            raise ShapeError(f"slices are {tuple(slices.shape)}, expected (batch, slices, channels, rows, columns)")
        batch, count = slices.shape[:2]
        deep = self.down(slices.flatten(0, 1))[-1]
        seen = torch.cat([deep.mean((2, 3)), deep.amax((2, 3))], 1).reshape(batch, count, -1)
        weights = torch.softmax(self.gate(seen)[..., 0], 1)
        whole = torch.cat([(weights[..., None] * seen).sum(1), seen.mean(1)], 1)
        return Verdict(self.answer(self.drop(whole)), weights)
