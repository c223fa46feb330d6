"""Outlines: the fine grid back to full size, four sub-pixels a place."""
from torch import Tensor, nn
from torch.nn import functional

from vision.encoder import Features


class Segment(nn.Module):
    def __init__(self, channels: tuple[int, int], outputs: int) -> None:
        super().__init__()
        self.answer = nn.Conv2d(channels[0], outputs * 4, 1)
        assert self.answer.bias is not None
        nn.init.constant_(self.answer.bias, -4.0)               # blood is rare: begin by saying so

    def forward(self, features: Features) -> Tensor:            # (B, outputs, H, W)
        return functional.pixel_shuffle(self.answer(features.fine), 2)
