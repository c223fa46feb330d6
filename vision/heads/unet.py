"""Residual U-Net in two or three dimensions: images with their neighbouring slices as channels -> classes or images at full size.

The first step halves the grid, so that most of the work is done on a quarter (an eighth in 3D) of the points: small enough for a CPU.
"""
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from data.errors import ShapeError


@dataclass(frozen=True)
class UNetConfig:
    channels_in: int
    outputs: int
    width: int = 16             # channels at half size
    widest: int = 64            # no stage is wider
    stages: int = 4             # halvings, the first one included
    dimensions: int = 2
    dropout: float = 0.1        # of whole channels in the deep stages; kept on for the uncertainty map

    @property
    def stride(self) -> int:
        return 2**self.stages

    @property
    def widths(self) -> list[int]:
        return [min(self.width * 2**i, self.widest) for i in range(self.stages)]


class Down(nn.Module):
    """The shared encoder: the classifier of slices stands on it too."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        widths, d = config.widths, config.dimensions
        self.stem = nn.Sequential(convolve(config.channels_in, widths[0], d, stride=2), Residual(widths[0], d))
        self.stages = nn.ModuleList(nn.Sequential(convolve(a, b, d, stride=2), Residual(b, d)) for a, b in pairwise(widths))
        self.drop = DROPOUT[d](config.dropout)

    def forward(self, image: Tensor) -> list[Tensor]:           # (B, channels_in, [S,] H, W) -> one map a stage, large to small
        config = self.config
        if image.ndim != config.dimensions + 2 or image.shape[1] != config.channels_in:
            raise ShapeError(f"image is {tuple(image.shape)}, expected (batch, {config.channels_in}) and {config.dimensions} axes more")
        if any(n % config.stride for n in image.shape[2:]):
            raise ShapeError(f"image is {tuple(image.shape[2:])}, each must be a multiple of {config.stride}; vision.heads.infer pads it")
        kept = [self.stem(image)]
        for i, stage in enumerate(self.stages):
            rising = stage(kept[-1])
            kept.append(self.drop(rising) if i >= len(self.stages) - 2 else rising)
        return kept


class UNet(nn.Module):
    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        widths, d = config.widths, config.dimensions
        self.down = Down(config)
        pairs = list(pairwise(reversed(widths)))
        self.up = nn.ModuleList(nn.Sequential(convolve(deep + skip, skip, d), Residual(skip, d)) for deep, skip in pairs)
        self.fine = convolve(widths[0], 8 * 2**d, d)
        self.last = convolve(8 + config.channels_in, 16, d)
        self.answer = CONVOLUTION[d](16, config.outputs, 1)

    def forward(self, image: Tensor) -> Tensor:                 # (B, channels_in, [S,] H, W) -> (B, outputs, [S,] H, W)
        return self.both(image)[1]

    def both(self, image: Tensor) -> tuple[list[Tensor], Tensor]:
        """The encoder's maps, large to small, and the answer."""
        kept = self.down(image)
        rising = kept[-1]
        for stage, skip in zip(self.up, reversed(kept[:-1]), strict=True):
            rising = stage(torch.cat([functional.interpolate(rising, size=skip.shape[2:], mode="nearest"), skip], 1))
        return kept, self.answer(self.last(torch.cat([spread(self.fine(rising), self.config.dimensions), image], 1)))


class PatchDiscriminator(nn.Module):
    """Says of each patch whether it is a measured image: the adversary of the image heads (Isola, arXiv 1611.07004)."""

    def __init__(self, channels_in: int, width: int = 16) -> None:
        super().__init__()
        steps = [nn.Conv2d(channels_in, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        for a, b in ((width, 2 * width), (2 * width, 4 * width)):
            steps += [nn.Conv2d(a, b, 4, 2, 1, bias=False), nn.InstanceNorm2d(b, affine=True), nn.LeakyReLU(0.2)]
        self.judge = nn.Sequential(*steps, nn.Conv2d(4 * width, 1, 3, 1, 1))

    def forward(self, image: Tensor) -> Tensor:                 # (B, channels_in, H, W) -> (B, 1, H/8, W/8) logits
        return self.judge(image)


class Residual(nn.Module):
    def __init__(self, channels: int, dimensions: int) -> None:
        super().__init__()
        self.first = convolve(channels, channels, dimensions)
        self.second = CONVOLUTION[dimensions](channels, channels, 3, padding=1, bias=False)
        self.norm = NORM[dimensions](channels)

    def forward(self, features: Tensor) -> Tensor:
        return functional.relu(features + self.norm(self.second(self.first(features))))


CONVOLUTION: dict[int, type[nn.Conv2d] | type[nn.Conv3d]] = {2: nn.Conv2d, 3: nn.Conv3d}
NORM: dict[int, type[nn.BatchNorm2d] | type[nn.BatchNorm3d]] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
CONVOLUTIONS, NORMS = tuple(CONVOLUTION.values()), tuple(NORM.values())
DROPOUT: dict[int, type[nn.Dropout2d] | type[nn.Dropout3d]] = {2: nn.Dropout2d, 3: nn.Dropout3d}


def convolve(channels_in: int, channels_out: int, dimensions: int, stride: int = 1) -> nn.Sequential:
    conv = CONVOLUTION[dimensions](channels_in, channels_out, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(conv, NORM[dimensions](channels_out), nn.ReLU(inplace=True))


def fused(net: nn.Module) -> nn.Module:
    """Each norm folded into the convolution before it: the same answer but for rounding, at less work. For answering only; changes `net`."""
    for module in net.modules():
        if isinstance(module, nn.Sequential):
            for i in range(len(module) - 1):
                if isinstance(module[i], CONVOLUTIONS) and isinstance(module[i + 1], NORMS):
                    module[i], module[i + 1] = fuse_conv_bn_eval(module[i], module[i + 1]), nn.Identity()
        elif isinstance(module, Residual):
            module.second, module.norm = fuse_conv_bn_eval(module.second, module.norm), nn.Identity()  # type: ignore[assignment]  # the norm goes
    return net


def spread(features: Tensor, dimensions: int) -> Tensor:
    """Channels to points: (B, C * 2^d, [S,] H, W) -> (B, C, [2S,] 2H, 2W)."""
    if dimensions == 2:
        return functional.pixel_shuffle(features, 2)
    batch, channels, s, h, w = features.shape
    parts = features.reshape(batch, channels // 8, 2, 2, 2, s, h, w).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return parts.reshape(batch, channels // 8, 2 * s, 2 * h, 2 * w)
