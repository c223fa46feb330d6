"""Slice-attention classifier: a class for a whole volume, and which slices it was read from."""
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from data.errors import ShapeError
from vision.heads.unet import UNet, UNetConfig

PEAK = 4                    # points a side over which the surest point of a tissue is averaged


class Verdict(NamedTuple):
    logits: Tensor              # (B, outputs)
    weights: Tensor             # (B, slices), sum 1
    numbers: Tensor             # (B, numbers): what else is known of a patient (volumes, age), standardised


class Seen(NamedTuple):
    features: Tensor            # (B, slices, features)
    kinds: Tensor               # (B x slices, kinds, H, W): logits of each kind of tissue
    tissue: Tensor              # (B, 3 kinds): how much of each kind the volume holds, on average, in the fullest slice, at the surest point


class SliceAttention(nn.Module):
    """The shared encoder reads each slice; attention (Ilse, arXiv 1802.04712) weighs the slices; a small network answers.

    Where the tissue of training cases is known, a U-Net on the same encoder is taught it point by point, and the last layer reads how much of each
    kind a volume holds beside what the network answers: few patients then teach what to look at. `config.outputs` are the classes.
    """

    def __init__(self, config: UNetConfig, kinds: int, numbers: int = 0) -> None:
        super().__init__()
        self.config = config
        self.unet = UNet(replace(config, outputs=kinds))
        seen = sum(config.widths) + config.widths[-1]
        self.level, self.tissue_level = nn.BatchNorm1d(seen), nn.BatchNorm1d(3 * kinds)     # bring weak features up to the strong ones
        self.gate = nn.Sequential(nn.Linear(seen, 32), nn.Tanh(), nn.Linear(32, 1))
        self.join = nn.Sequential(nn.Linear(2 * seen, 64), nn.GELU(), nn.Dropout(0.3))
        self.answer = nn.Linear(64, config.outputs)
        self.numbers = nn.Linear(64, numbers)
        self.last = nn.Linear(config.outputs + 3 * kinds, config.outputs)
        with torch.no_grad():                                   # begin with what the network answers
            self.last.weight.zero_()
            self.last.weight[:, :config.outputs] = torch.eye(config.outputs)

    def see(self, slices: Tensor) -> Seen:                      # (B, slices, channels_in, H, W)
        if slices.ndim != 5:
            raise ShapeError(f"slices are {tuple(slices.shape)}, expected (batch, slices, channels, rows, columns)")
        batch, count = slices.shape[:2]
        maps, kinds = self.unet.both(slices.flatten(0, 1))
        held = torch.softmax(kinds.float(), 1)
        features = self.level(torch.cat([*(m.mean((2, 3)) for m in maps), maps[-1].amax((2, 3))], 1)).unflatten(0, (batch, count))
        means, peaks = (h.unflatten(0, (batch, count)) for h in (held.mean((2, 3)), functional.avg_pool2d(held, PEAK).amax((2, 3))))
        tissue = torch.cat([means.mean(1), means.amax(1), peaks.amax(1)], 1)
        return Seen(features, kinds, self.tissue_level(torch.log(tissue + 1e-4)))

    def weigh(self, features: Tensor) -> Verdict:               # (B, slices, features): what the network answers without the tissue
        weights = torch.softmax(self.gate(features)[..., 0], 1)
        whole = self.join(torch.cat([(weights[..., None] * features).sum(1), features.mean(1)], 1))
        return Verdict(self.answer(whole), weights, self.numbers(whole))

    def forward(self, slices: Tensor) -> Verdict:
        seen = self.see(slices)
        verdict = self.weigh(seen.features)
        return verdict._replace(logits=self.last(torch.cat([verdict.logits, seen.tissue], 1)))
