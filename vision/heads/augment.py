"""Examples changed as another patient and another scanner might: turned, scaled, mirrored, brighter, noisier."""
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

Rng = np.random.Generator


def column(values: np.ndarray, like: Tensor | None = None) -> Tensor:
    made = torch.from_numpy(np.asarray(values)).float()
    return made if like is None else made.to(like.device)


def move(stack: Tensor, centres: np.ndarray, size: int, rng: Rng, codes: int = 0) -> Tensor:
    """(B, C, H, W) -> (B, C, size, size) around `centres` (B, 2) in -1..1 (column, row), turned, scaled, mirrored.

    The last `codes` channels are masks or class codes, taken from the nearest point.
    """
    batch, channels, height, width = stack.shape
    angle, zoom = column(np.radians(rng.normal(0, 8, batch)), stack), column(rng.uniform(0.88, 1.15, batch), stack)
    mirror = column(np.where(rng.uniform(size=batch) < 0.5, -1.0, 1.0), stack)
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    wide, high = size / width, size / height
    at = column(centres, stack)
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
        return column(rng.uniform(low, high, (batch, groups)).repeat(each, 1), image)[..., None, None]

    shade = functional.interpolate(column(rng.normal(0, 0.08, (batch, 1, 3, 3)), image), (height, width), mode="bicubic", align_corners=True)
    changed = image.clamp_min(0) ** draw(0.75, 1.3) * draw(0.85, 1.18) * torch.exp(shade)
    changed = torch.where(image >= 0, changed, image)
    if rng.uniform() < 0.3:
        changed = functional.avg_pool2d(functional.pad(changed, (1, 1, 1, 1), mode="replicate"), 3, stride=1) * 0.5 + changed * 0.5
    grain = column(rng.uniform(0, 0.05, batch) * (rng.uniform(size=batch) < 0.6), image)[:, None, None, None]
    return changed + noise_like(image, rng) * grain


def noise_like(image: Tensor, rng: Rng) -> Tensor:
    return torch.randn(image.shape, device=image.device, generator=torch.Generator(image.device).manual_seed(int(rng.integers(2**31))))


# ---------------------------------------------------------------- whole volumes

def move_whole(volumes: Tensor, codes: Tensor, rng: Rng) -> tuple[Tensor, Tensor]:
    """(B, C, S, H, W) and codes (B, 1, S, H, W), alike: turned about each axis, scaled, shifted, mirrored; codes from the nearest point."""
    batch = len(volumes)
    matrix = np.zeros((batch, 3, 4))
    half = np.array(volumes.shape[:1:-1]) / 2                   # points, x first
    for b in range(batch):
        x, y, z = np.radians(rng.normal(0, 7, 3))
        turn = (np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
                @ np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
                @ np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]]))
        turn = turn * rng.uniform(0.88, 1.15) * rng.uniform(0.95, 1.05, 3)
        turn[:, 0] *= 1 if rng.uniform() < 0.5 else -1
        matrix[b, :, :3] = turn * half / half[:, None]          # places are told in -1..1 of each axis
        matrix[b, :, 3] = rng.normal(0, 4, 3) / half
    places = functional.affine_grid(column(matrix, volumes), [batch, 1, *volumes.shape[2:]], align_corners=False)
    return (functional.grid_sample(volumes, places, align_corners=False),
            functional.grid_sample(codes, places, mode="nearest", align_corners=False))


def look_whole(volumes: Tensor, codes: Tensor, kinds: int, rng: Rng, spread: float) -> Tensor:
    """Another scanner on (B, C, S, H, W): each kind of tissue brighter or darker by itself, its brightness drawn with `spread` (Billot, SynthSeg,
    arXiv 2107.09559), then contrast, shading, blur and noise."""
    batch = len(volumes)

    def draw(low: float, high: float) -> Tensor:
        return column(rng.uniform(low, high, (batch, 1)), volumes)[..., None, None, None]

    tint = rng.normal(0, 1, (batch, kinds)) * spread * rng.uniform(0, 1, (batch, 1)) * (rng.uniform(size=(batch, 1)) < 0.7)
    tint[:, 0] = 0                                              # what is no tissue stays as it is
    tinted = torch.gather(column(tint, volumes), 1, codes.flatten(1).long()).reshape(codes.shape)
    changed = volumes * torch.exp(functional.avg_pool3d(tinted, 3, stride=1, padding=1, count_include_pad=False))
    shade = functional.interpolate(column(rng.normal(0, 0.12, (batch, 1, 4, 4, 4)), volumes), volumes.shape[2:], mode="trilinear", align_corners=True)
    changed = changed.clamp_min(0) ** draw(0.7, 1.4) * draw(0.85, 1.18) * torch.exp(shade)
    soft = functional.avg_pool3d(changed, 3, stride=1, padding=1, count_include_pad=False)
    changed = changed + (soft - changed) * draw(0, 0.7) * column((rng.uniform(size=(batch, 1)) < 0.4).astype(float), volumes)[..., None, None, None]
    grain = draw(0, 0.08) * column((rng.uniform(size=(batch, 1)) < 0.7).astype(float), volumes)[..., None, None, None]
    return changed + noise_like(changed, rng) * grain
