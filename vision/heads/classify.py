"""Findings in one slice: what is anywhere (maximum) and what is everywhere (mean)."""
import torch
from torch import Tensor, nn

from vision.encoder import Features


class Classify(nn.Module):
    def __init__(self, channels: tuple[int, int], outputs: int) -> None:
        super().__init__()
        fine, deep = channels
        self.spread = nn.Conv2d(deep, deep, 1)
        self.answer = nn.Linear(2 * deep + fine, outputs)

    def forward(self, features: Features) -> Tensor:            # (B, outputs)
        deep = torch.relu(self.spread(features.deep))
        return self.answer(torch.cat([deep.amax((2, 3)), deep.mean((2, 3)), features.fine.amax((2, 3))], 1))
