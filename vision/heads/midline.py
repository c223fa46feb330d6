"""The two halves of the brain; the line between them, against the straight one, is the midline shift."""
from torch import Tensor, nn

from vision.encoder import Features


class Midline(nn.Module):
    def __init__(self, channels: tuple[int, int], outputs: int) -> None:
        super().__init__()
        self.answer = nn.Sequential(nn.Conv2d(channels[0], channels[0], 5, padding=4, dilation=2), nn.ReLU(inplace=True),
                                    nn.Conv2d(channels[0], outputs, 1))

    def forward(self, features: Features) -> Tensor:            # (B, outputs, H/2, W/2)
        return self.answer(features.fine)
