"""A plain U-Net from the zero-filled image to the image, which never looks at the raw data again: what the unrolled network is measured beside."""
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vision.heads.infer import pad_to
from vision.heads.unet import UNet, UNetConfig


@dataclass(frozen=True)
class PlainConfig:
    width: int = 16
    stages: int = 4


class PlainUNet(nn.Module):
    def __init__(self, config: PlainConfig) -> None:
        super().__init__()
        self.config = config
        self.net = UNet(UNetConfig(2, 2, width=config.width, widest=4 * config.width, stages=config.stages, dropout=0.0))
        nn.init.zeros_(self.net.answer.weight)                  # begin by giving the zero-filled image back
        assert self.net.answer.bias is not None
        nn.init.zeros_(self.net.answer.bias)

    def forward(self, start: Tensor, coils: Tensor, kernel: Tensor) -> Tensor:
        """Read as `Unrolled`, of which `start` alone is looked at: (B, H, W) complex -> (B, H, W) complex."""
        height, width = start.shape[-2:]
        scale = start.abs().amax((1, 2), keepdim=True).clamp_min(1e-8)
        image = start / scale
        change = self.net(pad_to(torch.view_as_real(image).permute(0, 3, 1, 2), self.net.config.stride))[..., :height, :width]
        return (image + torch.complex(change[:, 0].float(), change[:, 1].float())) * scale
