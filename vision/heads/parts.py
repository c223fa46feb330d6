"""Parts of the head CT net: (channels of the fine and deep grid, outputs) -> module mapping Features to its answer, one row each."""
from collections.abc import Callable

from torch import nn

from vision.heads.classify import Classify
from vision.heads.midline import Midline
from vision.heads.segment import Segment

PARTS: dict[str, Callable[[tuple[int, int], int], nn.Module]] = {
    "classify": Classify,       # findings present or absent in a slice, (B, outputs) logits
    "segment": Segment,         # outlines at full size, (B, outputs, H, W) logits, not exclusive
    "midline": Midline,         # outside, image-left, image-right half of the brain, (B, outputs, H/2, W/2) logits, exclusive
}
