"""Unrolled reconstruction: steps of data consistency and a small U-Net in turn, for any trajectory whose normal operator is a convolution."""
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vision.heads.unet import UNet, UNetConfig


@dataclass(frozen=True)
class UnrolledConfig:
    steps: int = 4
    width: int = 8
    stages: int = 3             # of each step's U-Net


class Unrolled(nn.Module):
    """x <- x - rate (N x - start) + net(x); N = A^H W A is what the scanner did and undid (Hammernik, arXiv 1704.00447)."""

    def __init__(self, config: UnrolledConfig) -> None:
        super().__init__()
        self.config = config
        unet = UNetConfig(2, 2, width=config.width, widest=4 * config.width, stages=config.stages, dropout=0.0)
        self.nets = nn.ModuleList(UNet(unet) for _ in range(config.steps))
        self.rates = nn.Parameter(torch.ones(config.steps))
        for net in self.nets:                                   # begin as plain gradient descent
            assert isinstance(net, UNet)
            nn.init.zeros_(net.answer.weight)
            assert net.answer.bias is not None
            nn.init.zeros_(net.answer.bias)

    def forward(self, start: Tensor, coils: Tensor, kernel: Tensor) -> Tensor:
        """(B, H, W) complex A^H W y, (B, coils, H, W) complex sensitivities, (B, G, G) spectrum of N -> (B, H, W) complex."""
        scale = start.abs().amax((1, 2), keepdim=True).clamp_min(1e-8)
        start, steepest = start / scale, kernel.abs().amax((1, 2), keepdim=True).clamp_min(1.0)
        image = start
        for rate, net in zip(self.rates, self.nets, strict=True):
            change = net(torch.view_as_real(image).permute(0, 3, 1, 2))
            image = image - rate / steepest * (normal(image, coils, kernel) - start) + torch.complex(change[:, 0].float(), change[:, 1].float())
        return image * scale


def normal(image: Tensor, coils: Tensor, kernel: Tensor) -> Tensor:
    """A^H W A: each coil's image is convolved by the kernel, on the grid of the kernel, which holds the image in its corner."""
    height, width = image.shape[-2:]
    grid = kernel.shape[-2:]
    seen = torch.fft.fft2(coils * image[:, None], s=grid)
    back = torch.fft.ifft2(seen * kernel[:, None])[..., :height, :width]
    return (back * coils.conj()).sum(1)
