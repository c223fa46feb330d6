"""Unrolled reconstruction: steps of data consistency and a small U-Net in turn, for any trajectory whose normal operator is a convolution."""
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from vision.heads.infer import pad_to
from vision.heads.unet import UNet, UNetConfig

TINY = 1e-20                # what is smaller is not divided by


@dataclass(frozen=True)
class UnrolledConfig:
    steps: int = 5
    width: int = 12
    stages: int = 3             # of each step's U-Net
    solving: int = 6            # rounds of conjugate gradients in each step


class Unrolled(nn.Module):
    """z <- x + net(x); x <- argmin |A x - y|^2 + trust |x - z|^2, a few rounds of conjugate gradients (MoDL, Aggarwal, arXiv 1712.02862).

    N = A^H W A is what the scanner did and undid. Plain descent by one gradient a step leaves most of what was measured unused where the
    trajectory weighs the middle of k-space far more than its edge, as spokes and spirals do.
    """

    def __init__(self, config: UnrolledConfig) -> None:
        super().__init__()
        self.config = config
        unet = UNetConfig(2, 2, width=config.width, widest=4 * config.width, stages=config.stages, dropout=0.0)
        self.nets = nn.ModuleList(UNet(unet) for _ in range(config.steps))
        self.trust = nn.Parameter(torch.full((config.steps,), -3.0))       # softplus of it: 0.05 of the steepest direction
        for net in self.nets:                                   # begin as plain conjugate gradients
            assert isinstance(net, UNet)
            nn.init.zeros_(net.answer.weight)
            assert net.answer.bias is not None
            nn.init.zeros_(net.answer.bias)

    def forward(self, start: Tensor, coils: Tensor, kernel: Tensor) -> Tensor:
        """(B, H, W) complex A^H W y, (B, coils, H, W) complex sensitivities, (B, G, G) spectrum of N -> (B, H, W) complex."""
        scale = start.abs().amax((1, 2), keepdim=True).clamp_min(1e-8)
        start, steepest = start / scale, kernel.abs().amax((1, 2), keepdim=True).clamp_min(1.0)
        image = start
        for trust, net in zip(functional.softplus(self.trust), self.nets, strict=True):
            height, width = image.shape[-2:]
            change = net(pad_to(torch.view_as_real(image).permute(0, 3, 1, 2), 2**self.config.stages))[..., :height, :width]
            better = image + torch.complex(change[:, 0].float(), change[:, 1].float())
            image = solve(start, better, trust * steepest, coils, kernel, self.config.solving)
        return image * scale


def solve(start: Tensor, near: Tensor, trust: Tensor, coils: Tensor, kernel: Tensor, rounds: int) -> Tensor:
    """`rounds` of conjugate gradients on (N + trust) x = start + trust * near, from `near` on."""
    image = near
    rest = start - normal(near, coils, kernel)              # start + trust near - (N + trust) near
    along, size = rest, power(rest)
    for _ in range(rounds):
        seen = normal(along, coils, kernel) + trust * along
        step = size / (along.conj() * seen).real.sum((1, 2), keepdim=True).clamp_min(TINY)
        image, rest = image + step * along, rest - step * seen
        left = power(rest)
        along, size = rest + left / size.clamp_min(TINY) * along, left
    return image


def power(image: Tensor) -> Tensor:
    return torch.view_as_real(image).square().sum((1, 2, 3))[:, None, None]


def normal(image: Tensor, coils: Tensor, kernel: Tensor) -> Tensor:
    """A^H W A: each coil's image is convolved by the kernel, on the grid of the kernel, which holds the image in its corner."""
    height, width = image.shape[-2:]
    grid = kernel.shape[-2:]
    seen = torch.fft.fft2(coils * image[:, None], s=grid)
    back = torch.fft.ifft2(seen * kernel[:, None])[..., :height, :width]
    return (back * coils.conj()).sum(1)
