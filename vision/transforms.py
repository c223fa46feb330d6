"""From Hounsfield units or picture grey to what the encoder sees: fixed size and spacing, windows as channels."""
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from data.records import Volume

SIZE = 160              # pixels a side
FIELD_MM = 230.0        # millimetres a side: a head and a little air
# low and high HU of each channel; the two neighbours show the brain window too
WINDOWS = {"brain": (0.0, 80.0), "blood": (-20.0, 180.0), "bone": (-600.0, 1400.0)}
CHANNELS = ("brain", "blood", "bone", "below", "above")
PICTURE_HEAD = 128.0    # pixels that the longer side of the head takes in a picture made ready


@dataclass(frozen=True)
class Grid:
    """How the square the network sees lies in the slice as read: row = row0 + step_row * i, column alike."""

    row0: float
    column0: float
    step_row: float
    step_column: float
    rows: int
    columns: int
    size: int = SIZE


def window(hu: Tensor, low: float, high: float) -> Tensor:
    return ((hu - low) / (high - low)).clamp(0, 1)


def channels_from_hu(hu: Tensor, below: Tensor, above: Tensor) -> Tensor:
    """(B, H, W) in HU, with the slices below and above -> (B, 5, H, W) in 0..1."""
    return torch.stack([window(hu, *WINDOWS["brain"]), window(hu, *WINDOWS["blood"]), window(hu, *WINDOWS["bone"]),
                        window(below, *WINDOWS["brain"]), window(above, *WINDOWS["brain"])], 1)


def channels_from_picture(grey: Tensor) -> Tensor:
    """(B, H, W) in 0..1 -> (B, 5, H, W): only the brain channel is known."""
    empty = torch.zeros_like(grey)
    return torch.stack([grey, empty, empty, empty, empty], 1)


def head_box(plane: NDArray[np.float32], threshold: float) -> tuple[int, int, int, int] | None:
    """(row0, column0, row1, column1) of the largest thing brighter than `threshold`, or None."""
    from scipy import ndimage

    bright = ndimage.binary_opening(plane > threshold, iterations=2)
    spots, count = ndimage.label(bright)
    if not count:
        return None
    largest = 1 + int(np.argmax(np.bincount(spots.ravel())[1:]))
    rows, columns = ndimage.find_objects((spots == largest).astype(np.int32))[0]
    return rows.start, columns.start, rows.stop, columns.stop


def grid_for(volume: Volume) -> Grid:
    """The square around the head: FIELD_MM wide where millimetres are known, else scaled to the head."""
    rows, columns = volume.pixels.shape[1:]
    if volume.spacing_mm is not None:
        step_row, step_column = (FIELD_MM / SIZE / s for s in volume.spacing_mm[1:])
        shadow = np.quantile(volume.pixels, 0.7, axis=0) if len(volume.pixels) > 2 else volume.pixels.max(0)
        box = head_box(shadow.astype(np.float32), -300)
    else:
        box = head_box(volume.pixels[0], 0.15)
        longer = max(box[2] - box[0], box[3] - box[1]) if box else max(rows, columns)
        step_row = step_column = longer / PICTURE_HEAD
    middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2) if box else (rows / 2, columns / 2)
    return Grid(middle[0] - 0.5 - (SIZE - 1) / 2 * step_row, middle[1] - 0.5 - (SIZE - 1) / 2 * step_column, step_row, step_column, rows, columns)


def picture_grid(grey: NDArray[np.float32], size: int, head: float = 0.9) -> Grid:
    """The square that the head in a grey picture fills to `head` of its side."""
    box = head_box(grey, 0.15) or (0, 0, *grey.shape)
    step = max(box[2] - box[0], box[3] - box[1], 8) / (head * size)
    row, column = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return Grid(row - 0.5 - (size - 1) / 2 * step, column - 0.5 - (size - 1) / 2 * step, step, step, grey.shape[0], grey.shape[1], size)


def to_grid(pixels: NDArray[np.float32], grid: Grid, fill: float) -> Tensor:
    """(S, rows, columns) -> (S, grid.size, grid.size); averages when it makes smaller, outside the slice is `fill`."""
    image = torch.from_numpy(np.ascontiguousarray(pixels, np.float32))[:, None] - fill
    for axis, step in ((2, grid.step_row), (3, grid.step_column)):
        width = int(step)
        if width >= 2:      # no grain is folded into the smaller picture
            kernel = [1, 1]
            kernel[axis - 2] = width
            image = functional.avg_pool2d(functional.pad(image, (0, kernel[1] - 1, 0, kernel[0] - 1), mode="replicate"), kernel, stride=1)
    off = [(int(step) - 1) / 2 if step >= 2 else 0.0 for step in (grid.step_row, grid.step_column)]
    index = torch.arange(grid.size, dtype=torch.float32)
    y = (grid.row0 - off[0] + grid.step_row * index) / max(image.shape[2] - 1, 1) * 2 - 1
    x = (grid.column0 - off[1] + grid.step_column * index) / max(image.shape[3] - 1, 1) * 2 - 1
    places = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], -1)[None].expand(len(image), -1, -1, -1)
    return functional.grid_sample(image, places, align_corners=True, padding_mode="zeros")[:, 0] + fill


def from_grid(maps: Tensor, grid: Grid) -> Tensor:
    """(S, SIZE, SIZE) -> (S, rows, columns) of the slice as read."""
    y = (torch.arange(grid.rows) - grid.row0) / grid.step_row / (grid.size - 1) * 2 - 1
    x = (torch.arange(grid.columns) - grid.column0) / grid.step_column / (grid.size - 1) * 2 - 1
    places = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], -1)[None].expand(len(maps), -1, -1, -1)
    return functional.grid_sample(maps[:, None].float(), places.float(), align_corners=True, padding_mode="zeros")[:, 0]


def volume_channels(volume: Volume, grid: Grid) -> Tensor:
    """A whole volume as the encoder's input, (slices, 5, SIZE, SIZE)."""
    if volume.units != "HU":
        return channels_from_picture(to_grid(volume.pixels, grid, 0.0).clamp(0, 1))
    hu = to_grid(volume.pixels, grid, -1000.0)
    below = torch.cat([hu[:1], hu[:-1]]) if len(hu) > 1 else torch.full_like(hu, -1000.0)
    above = torch.cat([hu[1:], hu[-1:]]) if len(hu) > 1 else torch.full_like(hu, -1000.0)
    return channels_from_hu(hu, below, above)
