"""Slice-attention classifier: a class for a whole volume, and which slices it was read from."""
from typing import NamedTuple

import torch
from torch import Tensor, nn

from data.errors import ShapeError
from vision.heads.unet import Down, UNetConfig

SHARE_STRIDE = 4            # the shares of tissue are told on a grid so much coarser than the image


class Verdict(NamedTuple):
    logits: Tensor              # (B, outputs)
    weights: Tensor             # (B, slices), sum 1
    numbers: Tensor             # (B, numbers): what else is known of a patient (volumes, age), standardised


class Seen(NamedTuple):
    features: Tensor            # (B, slices, features)
    shares: Tensor              # (B, slices, kinds, H / 4, W / 4): logits of the share of each kind of tissue


class SliceAttention(nn.Module):
    """The shared encoder reads each slice; attention (Ilse, arXiv 1802.04712) weighs the slices; a small network answers.

    A slice is known by the means of every stage and the peaks of the deepest, and by how much of each kind of tissue it holds: where the tissue
    of a case is known, the shares are taught beside the classes, so that few patients teach what to look at.
    """

    def __init__(self, config: UNetConfig, kinds: int, numbers: int = 0) -> None:
        super().__init__()
        self.config = config
        self.down = Down(config)
        self.shares = nn.Conv2d(config.widths[1], kinds, 1)
        seen = sum(config.widths) + config.widths[-1] + 2 * kinds
        self.level = nn.BatchNorm1d(seen)                       # brings weak features up to the strong ones
        self.gate = nn.Sequential(nn.Linear(seen, 32), nn.Tanh(), nn.Linear(32, 1))
        self.join = nn.Sequential(nn.Linear(2 * seen, 64), nn.GELU(), nn.Dropout(0.3))
        self.answer = nn.Linear(64, config.outputs)
        self.numbers = nn.Linear(64, numbers)

    def see(self, slices: Tensor) -> Seen:                      # (B, slices, channels_in, H, W)
        if slices.ndim != 5:
            raise ShapeError(f"slices are {tuple(slices.shape)}, expected (batch, slices, channels, rows, columns)")
        batch, count = slices.shape[:2]
        maps = self.down(slices.flatten(0, 1))
        shares = self.shares(maps[1])
        held = torch.softmax(shares, 1)
        parts = [*(m.mean((2, 3)) for m in maps), maps[-1].amax((2, 3)), held.mean((2, 3)), held.amax((2, 3))]
        return Seen(self.level(torch.cat(parts, 1)).unflatten(0, (batch, count)), shares.unflatten(0, (batch, count)))

    def weigh(self, features: Tensor) -> Verdict:               # (B, slices, features)
        weights = torch.softmax(self.gate(features)[..., 0], 1)
        whole = self.join(torch.cat([(weights[..., None] * features).sum(1), features.mean(1)], 1))
        return Verdict(self.answer(whole), weights, self.numbers(whole))

    def forward(self, slices: Tensor) -> Verdict:
        return self.weigh(self.see(slices).features)
