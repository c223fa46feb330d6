"""The two halves of the brain: how far the border between them is bent is the midline shift."""
import torch
from torch import Tensor, nn
from torch.nn import functional

from vision.encoder import Features
from vision.heads.unet import UNet, UNetConfig


class Midline(nn.Module):
    """A small U-Net of its own on the fine grid: where blood hides the falx the whole head must say where it would be."""

    def __init__(self, channels: tuple[int, int], outputs: int) -> None:
        super().__init__()
        self.answer = UNet(UNetConfig(channels[0], outputs, width=12, widest=24, stages=4, dropout=0.0))

    def forward(self, features: Features) -> Tensor:            # (B, outputs, H/2, W/2)
        return self.answer(features.fine)


def border_loss(logits: Tensor, halves: Tensor) -> Tensor:
    """Cross-entropy of outside, first and second half, and how far the border between the two lies off in each row, in points of the grid."""
    chance = torch.softmax(logits, 1)
    inside = (halves > 0).float()
    first = chance[:, 1] / (chance[:, 1] + chance[:, 2] + 1e-4)
    seen, true = (inside * first).sum(2), (halves == 1).float().sum(2)
    wide = inside.sum(2) > 0.25 * inside.shape[2]
    off = functional.smooth_l1_loss(seen[wide], true[wide], beta=0.5) if wide.any() else logits.sum() * 0
    return functional.cross_entropy(logits, halves) + 0.15 * off
