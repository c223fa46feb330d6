"""Examples changed as another patient and another scanner might: turned, scaled, mirrored, brighter, noisier."""
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

Rng = np.random.Generator


def column(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(values)).float()


def move(stack: Tensor, centres: np.ndarray, size: int, rng: Rng, codes: int = 0) -> Tensor:
    """(B, C, H, W) -> (B, C, size, size) around `centres` (B, 2) in -1..1 (column, row), turned, scaled, mirrored.

    The last `codes` channels are masks or class codes, taken from the nearest point.
    """
    batch, channels, height, width = stack.shape
    angle, zoom = column(np.radians(rng.normal(0, 8, batch))), column(rng.uniform(0.88, 1.15, batch))
    mirror = column(np.where(rng.uniform(size=batch) < 0.5, -1.0, 1.0))
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    wide, high = size / width, size / height
    at = column(centres)
    theta = torch.stack([torch.stack([mirror * cos * wide, -sin * wide, at[:, 0]], 1),
                         torch.stack([mirror * sin * high, cos * high, at[:, 1]], 1)], 1)
    places = functional.affine_grid(theta, [batch, 1, size, size], align_corners=False)
    if not codes:
        return functional.grid_sample(stack, places, align_corners=False)
    smooth = functional.grid_sample(stack[:, :channels - codes], places, align_corners=False)
    return torch.cat([smooth, functional.grid_sample(stack[:, channels - codes:], places, mode="nearest", align_corners=False)], 1)


def cut(stack: Tensor, size: int, rng: Rng) -> Tensor:
    """(B, C, H, W) -> a square of it, mirrored or not: no point is between two others, so that fine detail stays."""
    height, width = stack.shape[-2:]
    high, wide = min(size, height), min(size, width)
    kept = []
    for image in stack:
        row, col = int(rng.integers(height - high + 1)), int(rng.integers(width - wide + 1))
        piece = image[:, row:row + high, col:col + wide]
        kept.append(piece.flip(-1) if rng.uniform() < 0.5 else piece)
    return torch.stack(kept)


def look(image: Tensor, rng: Rng, groups: int = 1) -> Tensor:
    """Another scanner's brightness, contrast, shading, blur and noise on (B, C, H, W); slices of one channel (C / groups of them) alike."""
    batch, channels, height, width = image.shape
    each = channels // groups

    def draw(low: float, high: float) -> Tensor:
        return column(rng.uniform(low, high, (batch, groups)).repeat(each, 1))[..., None, None]

    shade = functional.interpolate(column(rng.normal(0, 0.08, (batch, 1, 3, 3))), (height, width), mode="bicubic", align_corners=True)
    changed = image.clamp_min(0) ** draw(0.75, 1.3) * draw(0.85, 1.18) * torch.exp(shade)
    changed = torch.where(image >= 0, changed, image)
    if rng.uniform() < 0.3:
        changed = functional.avg_pool2d(functional.pad(changed, (1, 1, 1, 1), mode="replicate"), 3, stride=1) * 0.5 + changed * 0.5
    grain = column(rng.uniform(0, 0.05, batch) * (rng.uniform(size=batch) < 0.6))[:, None, None, None]
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(int(rng.integers(2**31))))
    return changed + noise * grain
