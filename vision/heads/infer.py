"""Whole volumes through a head: neighbouring slices as channels, tiles with Gaussian weights for any size, flips, uncertainty."""
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

NEIGHBOURS = 1                  # slices above and below that a slice is read with
TILE, OVERLAP = 640, 64         # points; a plane up to TILE goes through whole: overlapping tiles of 256 are 2.3 times the work at 512
SMALL = 48                      # a plane with a shorter side is mirrored at its edges up to it: networks know whole heads
BATCH_POINTS = 2**17            # of the planes that go through together: 8 of 128 x 128, the most that the caches of a CPU serve well
Floats = NDArray[np.float32]


def stack_neighbours(volume: Tensor) -> Tensor:
    """(C, S, H, W) -> (S, C * 3, H, W), channel by channel below, here, above; the end slices stand in for what lies beyond."""
    padded = torch.cat([volume[:, :1]] * NEIGHBOURS + [volume] + [volume[:, -1:]] * NEIGHBOURS, 1)
    slices = volume.shape[1]
    return torch.stack([padded[:, k:k + slices] for k in range(2 * NEIGHBOURS + 1)], 2).flatten(0, 0).permute(1, 0, 2, 3, 4).flatten(1, 2)


def pad_to(image: Tensor, stride: int) -> Tensor:
    """Zeros to the right and below until both sides are multiples of `stride`."""
    high, wide = (-n % stride for n in image.shape[-2:])
    return functional.pad(image, (0, wide, 0, high)) if high or wide else image


def starts(length: int) -> list[int]:
    """Where tiles begin along one side: they overlap by OVERLAP or more and end at the end."""
    if length <= TILE:
        return [0]
    count = int(np.ceil((length - OVERLAP) / (TILE - OVERLAP)))
    return [round(v) for v in np.linspace(0, length - TILE, count)]


def gaussian(height: int, width: int) -> Tensor:
    rows, columns = (torch.exp(-(((torch.arange(n) - (n - 1) / 2) / (n / 4)) ** 2) / 2) for n in (height, width))
    return torch.outer(rows, columns).clamp_min(1e-3)


def tiled(net: Callable[[Tensor], Tensor], images: Tensor, stride: int) -> Tensor:
    """(B, C, H, W) of any size -> (B, K, H, W)."""
    height, width = images.shape[-2:]
    if height <= TILE and width <= TILE:
        return net(pad_to(images, stride))[..., :height, :width]
    total, weights = torch.zeros(0), torch.zeros(height, width)
    for row in starts(height):
        for col in starts(width):
            piece = images[..., row:row + TILE, col:col + TILE]
            weight = gaussian(*piece.shape[-2:])
            answer = net(pad_to(piece, stride))[..., :piece.shape[-2], :piece.shape[-1]].float().cpu()
            if not total.numel():
                total = torch.zeros(len(images), answer.shape[1], height, width)
            total[..., row:row + piece.shape[-2], col:col + piece.shape[-1]] += answer * weight
            weights[row:row + piece.shape[-2], col:col + piece.shape[-1]] += weight
    return total / weights


def planes(net: nn.Module, inputs: NDArray[np.floating], stride: int, device: str = "cpu", finish: Callable[[Tensor], Tensor] = lambda x: x,
           flips: bool = False) -> Floats:
    """(C, S, H, W) -> (K, S, H, W): each slice with its neighbours, `finish` (sigmoid, say) before flips are averaged."""
    height, width = inputs.shape[-2:]
    edges = [(max(0, SMALL - n) + 1) // 2 for n in (height, width)]
    whole = np.pad(np.asarray(inputs, np.float32), ((0, 0), (0, 0), *((e, e) for e in edges)), mode="symmetric") if any(edges) else inputs
    stacked = stack_neighbours(torch.from_numpy(np.asarray(whole, np.float32)))
    found = [answer for images in batches(stacked) for answer in [run(net, images, stride, device, finish, flips)]]
    answers = torch.cat(found).permute(1, 0, 2, 3)[..., edges[0]:edges[0] + height, edges[1]:edges[1] + width]
    return answers.contiguous().numpy()


def whole(net: nn.Module, inputs: NDArray[np.floating], stride: int, device: str = "cpu", finish: Callable[[Tensor], Tensor] = lambda x: x,
          flips: bool = False) -> Tensor:
    """(C, S, H, W) -> (K, S, H, W) on `device`, by a net of three dimensions in one go; zeros lie beyond the ends."""
    volume = torch.from_numpy(np.asarray(inputs, np.float32)).to(device)[None]
    slices, height, width = volume.shape[2:]
    volume = functional.pad(volume, [side for n in (width, height, slices) for side in (0, -n % stride)])
    with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16, enabled=device.startswith("cuda")):
        found = finish(net(volume).float())
        if flips:
            found = (found + finish(net(volume.flip(-1)).float()).flip(-1)) / 2
    return found[0, :, :slices, :height, :width]


def through(net: nn.Module, inputs: NDArray[np.floating], stride: int, device: str = "cpu", finish: Callable[[Tensor], Tensor] = lambda x: x,
            flips: bool = False) -> Floats:
    """(C, S, H, W) -> (K, S, H, W), slice by slice or whole, as the net is."""
    if getattr(net.config, "dimensions", 2) == 3:
        return whole(net, inputs, stride, device, finish, flips).cpu().numpy()
    return planes(net, inputs, stride, device, finish, flips)


def batches(images: Tensor) -> Iterator[Tensor]:
    height, width = (min(n, TILE) for n in images.shape[-2:])
    count = max(1, BATCH_POINTS // (height * width))
    for i in range(0, len(images), count):
        yield images[i:i + count]


def run(net: nn.Module, images: Tensor, stride: int, device: str, finish: Callable[[Tensor], Tensor], flips: bool) -> Tensor:
    def answer(piece: Tensor) -> Tensor:
        piece = piece.to(device, memory_format=torch.channels_last)
        with torch.autocast("cuda", torch.bfloat16, enabled=device.startswith("cuda")):
            return finish(net(piece).float()).cpu()

    with torch.inference_mode():
        first = tiled(answer, images, stride)
        return (first + tiled(answer, images.flip(-1), stride).flip(-1)) / 2 if flips else first


def uncertainty(net: nn.Module, inputs: NDArray[np.floating], stride: int, device: str = "cpu", finish: Callable[[Tensor], Tensor] = lambda x: x,
                draws: int = 8, seed: int = 0) -> tuple[Floats, Floats]:
    """(mean, standard deviation) over passes with dropout left on (Gal, arXiv 1506.02142)."""
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    net.eval()
    dropouts = [m for m in net.modules() if isinstance(m, (nn.Dropout, nn.Dropout2d, nn.Dropout3d))]
    try:
        for module in dropouts:
            module.train()
        drawn = np.stack([through(net, inputs, stride, device, finish) for _ in range(draws)])
    finally:
        net.eval()
        torch.random.set_rng_state(state)
    return drawn.mean(0), drawn.std(0)


def resample(volume: Floats, shape: tuple[int, int, int], nearest: bool = False) -> Floats:
    """(C, S, H, W) onto another grid over the same box; averages when it makes smaller."""
    if tuple(volume.shape[1:]) == tuple(shape):
        return volume
    image = torch.from_numpy(np.ascontiguousarray(volume, np.float32))[None]
    if nearest:
        return functional.interpolate(image, size=shape, mode="nearest-exact")[0].numpy()
    shrink = [max(1, round(a / b)) for a, b in zip(volume.shape[1:], shape, strict=True)]
    if max(shrink) > 1:
        image = functional.avg_pool3d(image, shrink, ceil_mode=True, count_include_pad=False)
    return functional.interpolate(image, size=shape, mode="trilinear", align_corners=False)[0].numpy()
