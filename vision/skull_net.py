"""Fractures of the calvarium: the skull of a head CT laid out flat, slices by angles, and a small U-Net that follows lines in it.

A fracture is a gap one or two mm wide through bone ten mm thick: in a slice a few pixels, on the flat skull a line. What runs alike on both
sides is a suture, so the net sees each place beside its mirror image.
"""
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional

ANGLES = 512                        # columns of the flat skull, clockwise from the front of the image; about 1 mm each
FIRST_MM, LAST_MM = -15.0, 13.75    # of the rays, from the outer table; what lies inside is negative
DEPTHS, DEPTH_MM = 24, 1.25
RAYS_MM = np.arange(15.0, 135.0)    # from the middle of a slice
HEAD_HU, BONE_HU = -300.0, 300.0
DENSE_HU = 800.0                    # what is denser counts no more: metal would pull the outer table to itself
LOWEST_HU, STEP_HU = -200.0, 8.0    # a flat skull is kept in bytes
TOP = 24                            # places of a study whose mean answers for it: a line, not a speck
TURN = 56                           # columns, twice the 20 degrees within which the plane between the sides is looked for
ALIKE = (3, 13)                     # slices, columns within which the other side shows the same


class FlatSkull(NamedTuple):
    grey: NDArray[np.uint8]             # (slices, DEPTHS, ANGLES): LOWEST_HU + STEP_HU * grey
    outer_mm: NDArray[np.float32]       # (slices, ANGLES) the outer table from the middle of the slice
    middle: NDArray[np.float64]         # (slices, 2) row and column of the middle
    turned: int                         # columns by which the plane between the sides lies from the image's middle column


class SkullNet(nn.Module):
    """(B, DEPTHS, slices, ANGLES) in 0..1 -> (B, slices, ANGLES) logits of a fracture; any number of slices, angles joined in a ring."""

    def __init__(self, width: int = 20) -> None:
        super().__init__()
        self.first = nn.Sequential(Convolve(DEPTHS, width), Convolve(width, width))
        self.second = nn.Sequential(Convolve(width, 2 * width, (1, 2)), Convolve(2 * width, 2 * width))
        self.third = nn.Sequential(Convolve(4 * width, 3 * width, (1, 2)), Convolve(3 * width, 3 * width))
        self.fourth = nn.Sequential(Convolve(3 * width, 4 * width, (2, 2)), Convolve(4 * width, 4 * width))
        self.to_third, self.to_second, self.to_first = Convolve(7 * width, 3 * width), Convolve(7 * width, 2 * width), Convolve(3 * width, width)
        self.answer = nn.Conv2d(width, 1, 1)

    def forward(self, flat: Tensor) -> Tensor:
        first = self.first(flat)
        second = self.second(first)
        second = torch.cat([second, other_side(second)], 1)
        third = self.third(second)
        rising = self.to_third(beside(self.fourth(third), third))
        rising = self.to_second(beside(rising, second))
        return self.answer(self.to_first(beside(rising, first)))[:, 0]


class Convolve(nn.Module):
    def __init__(self, channels_in: int, channels_out: int, stride: tuple[int, int] = (1, 1)) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 3, stride=stride, bias=False)
        self.norm = nn.BatchNorm2d(channels_out)

    def forward(self, features: Tensor) -> Tensor:
        ring = torch.cat([features[..., -1:], features, features[..., :1]], -1)
        return functional.relu(self.norm(self.conv(functional.pad(ring, (0, 0, 1, 1), mode="replicate"))))


def beside(rising: Tensor, skip: Tensor) -> Tensor:
    return torch.cat([functional.interpolate(rising, size=skip.shape[-2:], mode="nearest"), skip], 1)


def other_side(features: Tensor) -> Tensor:
    """What the mirrored place shows, or its neighbours: no skull is quite alike on both sides."""
    mirror = torch.roll(torch.flip(features, (-1,)), 1, -1)
    around = ALIKE[1] // 2
    ring = torch.cat([mirror[..., -around:], mirror, mirror[..., :around]], -1)
    return functional.max_pool2d(ring, ALIKE, 1, (ALIKE[0] // 2, 0))


# ---------------------------------------------------------------- laying out

def flatten_skull(pixels: NDArray[np.float32], row_mm: float, column_mm: float) -> FlatSkull:
    """(slices, rows, columns) in HU, axial -> the flat skull, turned so that its first column lies between the sides."""
    pixels = pixels.astype(np.float32, copy=False)
    width = int(1.0 / min(row_mm, column_mm))
    if width >= 2:      # finer than what the net was taught
        pixels = ndimage.uniform_filter(pixels, (1, width, width))
    middle = np.array([middle_of(plane) for plane in pixels])
    middle = ndimage.median_filter(middle, (min(5, len(middle)), 1), mode="nearest")
    angle = np.linspace(0, 2 * np.pi, ANGLES, endpoint=False)
    along = np.outer(RAYS_MM, -np.cos(angle)) / row_mm, np.outer(RAYS_MM, np.sin(angle)) / column_mm
    rays = np.stack([ndimage.map_coordinates(plane, [row + along[0], column + along[1]], order=1, mode="constant", cval=-1000.0)
                     for plane, (row, column) in zip(pixels, middle, strict=True)])
    outer = outer_table(rays)
    depth = outer[:, None] + (FIRST_MM + DEPTH_MM * np.arange(DEPTHS))[None, :, None]
    at, column = np.arange(len(rays))[:, None, None], np.arange(ANGLES)[None, None]
    flat = ndimage.map_coordinates(rays, np.broadcast_arrays(at, depth, column), order=1, mode="nearest")
    grey = np.clip((flat - LOWEST_HU) / STEP_HU, 0, 255).astype(np.uint8)
    turned = between_sides(grey)
    return FlatSkull(np.roll(grey, -turned, -1), (outer + RAYS_MM[0]).astype(np.float32), middle, turned)


def middle_of(plane: NDArray[np.float32]) -> tuple[float, float]:
    """Middle of the bone of a slice, or of its head where there is little bone."""
    spots, count = ndimage.label(ndimage.binary_opening(plane > HEAD_HU, iterations=2))
    if not count:
        return plane.shape[0] / 2, plane.shape[1] / 2
    head = spots == 1 + int(np.argmax(np.bincount(spots.ravel())[1:]))
    bone = (plane > BONE_HU) & ndimage.binary_dilation(head, iterations=2)
    rows, columns = np.nonzero(bone if bone.sum() > 50 else head)
    return (rows.min() + rows.max()) / 2, (columns.min() + columns.max()) / 2


def outer_table(rays: NDArray[np.float32]) -> NDArray[np.float32]:
    """Where bone ends on each ray, in steps of it, smooth over angles and slices: a gap in the bone does not bend it."""
    dense = ndimage.gaussian_filter(np.clip(rays, 0, DENSE_HU), (0, 1.5, 0))
    dense = ndimage.maximum_filter(dense, (1, 1, 13), mode=["nearest", "nearest", "wrap"])
    bony = dense > 0.6 * np.maximum(dense.max(1, keepdims=True), BONE_HU)
    outer = np.where(bony.any(1), bony.shape[1] - 1 - bony[:, ::-1].argmax(1), 0).astype(np.float32)
    ring = np.concatenate([outer[:, -40:], outer, outer[:, :40]], 1)
    outer = ndimage.median_filter(ring, (3, 41), mode="nearest")[:, 40:-40]
    return ndimage.gaussian_filter(outer, (0.7, 6), mode=["nearest", "wrap"])


def between_sides(grey: NDArray[np.uint8]) -> int:
    """Columns from the image's middle column to the plane that the skull is most alike on both sides of."""
    seen = np.stack([grey.max(1), grey.mean(1)]).astype(np.float32).reshape(-1, ANGLES)
    seen = ndimage.uniform_filter1d(seen, 3, mode="wrap")
    seen -= seen.mean(1, keepdims=True)
    wave = np.fft.rfft(seen)
    alike = np.fft.irfft(wave * wave, ANGLES).sum(0)        # sum over a of seen(a) seen(shift - a)
    shift = (np.arange(ANGLES) + ANGLES // 2) % ANGLES - ANGLES // 2
    near = np.abs(shift) <= TURN
    return round(int(shift[near][alike[near].argmax()]) / 2)


def columns_of(mask: NDArray[np.uint8], flat: FlatSkull, row_mm: float, column_mm: float) -> NDArray[np.bool_]:
    """Mask of the volume, (slices, rows, columns), -> the columns of the flat skull that it lies under, (slices, ANGLES)."""
    angle = np.linspace(0, 2 * np.pi, ANGLES, endpoint=False)
    radius = flat.outer_mm[:, None] + (FIRST_MM + DEPTH_MM * np.arange(DEPTHS))[None, :, None]
    seen = np.zeros((len(mask), ANGLES), bool)
    for at in np.flatnonzero(mask.any((1, 2))):
        row, column = flat.middle[at, 0] - radius[at] * np.cos(angle) / row_mm, flat.middle[at, 1] + radius[at] * np.sin(angle) / column_mm
        seen[at] = (ndimage.map_coordinates(ndimage.binary_dilation(mask[at]).astype(np.uint8), [row, column], order=0) > 0).any(0)
    return np.roll(seen, -flat.turned, -1)


def to_mask(columns: NDArray[np.bool_], flat: FlatSkull, shape: tuple[int, ...], row_mm: float, column_mm: float) -> NDArray[np.uint8]:
    """Columns of the flat skull -> the skull of the volume under them, (slices, rows, columns)."""
    mask = np.zeros(shape, np.uint8)
    columns = np.roll(columns, flat.turned, -1)
    rows, across = np.mgrid[: shape[1], : shape[2]]
    for at in np.flatnonzero(columns.any(1)):
        up, right = (flat.middle[at, 0] - rows) * row_mm, (across - flat.middle[at, 1]) * column_mm
        column = np.rint(np.arctan2(right, up) / (2 * np.pi) * ANGLES).astype(int) % ANGLES
        depth = np.hypot(up, right) - flat.outer_mm[at][column]
        mask[at] = columns[at][column] & (depth > -8) & (depth < 2)
    return mask


# ---------------------------------------------------------------- answering

@torch.inference_mode()
def fracture_logits(net: SkullNet, grey: NDArray[np.uint8], device: str = "cpu") -> NDArray[np.float32]:
    """(slices, DEPTHS, ANGLES) bytes -> (slices, ANGLES)."""
    seen: Tensor = net(as_input(grey[None]).to(device))
    return seen[0].float().cpu().numpy()


def as_input(grey: NDArray[np.uint8]) -> Tensor:
    """(B, slices, DEPTHS, ANGLES) bytes -> (B, DEPTHS, slices, ANGLES) in 0..1."""
    return torch.from_numpy(np.ascontiguousarray(grey.swapaxes(1, 2))).float() / 255


def strongest(logits: Tensor) -> Tensor:
    """(B, slices, ANGLES) -> (B,): the mean of the TOP places that most look like a fracture."""
    return torch.topk(logits.flatten(1), TOP, 1).values.mean(1)
