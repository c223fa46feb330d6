"""A class for one grey MR picture: the early and middle blocks of EfficientNet-Lite0, started from ImageNet, and one layer."""
import torch
from torch import Tensor, nn
from torch.nn import functional

from vision.picture_net import LATE, PictureNet

WHITE = 2.5                 # times the head's median: what ImageNet's white is
LARGEST = 128               # points a side; larger pictures are made smaller


class PictureClass(nn.Module):
    """(B, slices, H, W), a head's median near 1 -> (B, slices, outputs) logits."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        whole = PictureNet()
        self.stem, self.blocks = whole.stem, whole.blocks[:LATE]
        self.drop = nn.Dropout(0.3)
        self.answer = nn.Linear(2 * 112, outputs)

    def forward(self, pictures: Tensor) -> Tensor:
        batch, slices = pictures.shape[:2]
        grey = smaller((pictures.flatten(0, 1)[:, None] / WHITE).clamp(0, 1))
        features = self.stem(((grey - 0.5) * 2).expand(-1, 3, -1, -1))
        for block in self.blocks:
            features = block(features)
        seen = torch.cat([features.mean((2, 3)), features.amax((2, 3))], 1)
        return self.answer(self.drop(seen)).unflatten(0, (batch, slices))

    def start_from_imagenet(self) -> None:
        """Raises InputError where the package that holds those weights is not installed."""
        from vision.train_pictures import imagenet

        theirs = imagenet()
        self.stem.load_state_dict(theirs.stem.state_dict())
        self.blocks.load_state_dict(theirs.blocks[:LATE].state_dict())


def smaller(grey: Tensor) -> Tensor:
    longest = max(grey.shape[-2:])
    if longest <= LARGEST:
        return grey
    return functional.interpolate(grey, scale_factor=LARGEST / longest, mode="bilinear", antialias=True)
