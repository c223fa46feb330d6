"""CNN encoder: a slice in five channels -> a fine grid for outlines and a deep grid for meaning and for the report decoder."""
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from data.errors import ShapeError


@dataclass(frozen=True)
class EncoderConfig:
    channels_in: int = 5
    width: int = 16         # channels at half size; doubles at each of three further stages
    stages: int = 3
    fine: int = 24          # channels of the fine grid

    @property
    def stride(self) -> int:
        return 2 ** (self.stages + 1)

    @property
    def channels_out(self) -> tuple[int, int]:
        """Channels of (fine, deep)."""
        return self.fine, self.width * 2**self.stages


class Features(NamedTuple):
    fine: Tensor            # (B, fine, H/2, W/2)
    deep: Tensor            # (B, width * 2**stages, H/stride, W/stride)


class Encoder(nn.Module):
    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        widths = [config.width * 2**i for i in range(config.stages + 1)]
        self.stem = nn.Sequential(convolve(config.channels_in, widths[0], stride=2), Residual(widths[0]))
        self.down = nn.ModuleList(nn.Sequential(convolve(a, b, stride=2), Residual(b)) for a, b in pairwise(widths))
        coming, up = widths[-1], []
        for skip in reversed(widths[:-1]):
            leaving = max(skip, config.fine)
            up.append(convolve(coming + skip, leaving))
            coming = leaving
        self.up = nn.ModuleList(up)
        self.last = convolve(coming, config.fine)

    def forward(self, image: Tensor) -> Features:               # (B, channels_in, H, W)
        stride, (height, width) = self.config.stride, image.shape[-2:]
        if image.ndim != 4 or image.shape[1] != self.config.channels_in:
            raise ShapeError(f"image is {tuple(image.shape)}, expected (batch, {self.config.channels_in}, rows, columns)")
        if height % stride or width % stride:
            raise ShapeError(f"image is {height}x{width}, both must be multiples of {stride}; vision.transforms.to_grid makes them so")
        kept = [self.stem(image)]
        for stage in self.down:
            kept.append(stage(kept[-1]))
        rising = kept[-1]
        for stage, skip in zip(self.up, reversed(kept[:-1]), strict=True):
            rising = stage(torch.cat([functional.interpolate(rising, size=skip.shape[-2:], mode="nearest"), skip], 1))
        return Features(self.last(rising), kept[-1])


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = convolve(channels, channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, features: Tensor) -> Tensor:
        return functional.relu(features + self.norm(self.second(self.first(features))))


def convolve(channels_in: int, channels_out: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels_out), nn.ReLU(inplace=True))
