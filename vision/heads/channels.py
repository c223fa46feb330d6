"""From a channel as read (HU, mm2/s, arbitrary MR units) to what a network sees, and back."""
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from data.diffusion import SIX, anisotropy, fit
from data.errors import InputError

Floats = NDArray[np.float32]

# channels with a physical unit: the value that becomes 1
UNITS = {"ADC": 1000.0, "MD": 1000.0, "FA": 1.0, "CBF": 60.0, "CBV": 4.0, "MTT": 6.0, "TMAX": 6.0, "PET": 1.0, "PHASE": float(np.pi), "CT": 1000.0,
         "LOW_DOSE": 100.0, "FULL_DOSE": 100.0, "NOISELESS": 100.0}
UNIT_NAMES = {"ADC": "1e-6 mm2/s", "MD": "1e-6 mm2/s", "FA": "1", "CBF": "mL/100 g/min", "CBV": "mL/100 g", "MTT": "s", "TMAX": "s", "PET": "SUVR",
              "PHASE": "rad", "CT": "HU", "LOW_DOSE": "HU", "FULL_DOSE": "HU", "NOISELESS": "HU"}
RANGES = {"CT": (-1000.0, 2000.0), "LOW_DOSE": (-200.0, 300.0), "FULL_DOSE": (-200.0, 300.0), "NOISELESS": (-200.0, 300.0), "ADC": (0.0, 4000.0),
          "MD": (0.0, 4000.0), "CBF": (-30.0, 200.0), "CBV": (0.0, 20.0), "MTT": (0.0, 30.0), "TMAX": (0.0, 30.0), "PET": (0.0, 4.0)}
WINDOWS = ((-20.0, 100.0), (-600.0, 1400.0))    # a CT read for outlines: brain and bone
BRIGHT_MAX = 6.0                                # times the head's median: brighter is clipped
B_S_MM2, MD_MAX = 1000.0, 4.0                   # of diffusion series; MD in 1e-3 mm2/s
LIKE = {"ASL_SIX": "ASL", "HIGH": "LOW", "T1_7T": "T1_3T"}      # a target in the arbitrary units of its input is scaled as that is


def head_scale(pixels: Floats) -> float:
    """Median of what is brighter than a tenth of the 99th percentile: arbitrary MR units over it have brain near 1."""
    top = float(np.quantile(pixels, 0.99))
    inside = pixels[pixels > 0.1 * top]
    return float(np.median(inside)) if top > 0 and len(inside) else 0.0


def scale_of(name: str, channels: Mapping[str, Floats]) -> float:
    """The value of channel `name` that becomes 1. Raises InputError for an empty one."""
    if name in UNITS:
        return UNITS[name]
    source = LIKE.get(name, name)
    pixels = channels.get(source, channels.get(name))
    assert pixels is not None, f"no channel {name}"
    scale = head_scale(pixels[0] if pixels.ndim == 4 else pixels)
    if scale <= 0:
        raise InputError(f"{source} is empty: no value above zero; send the series with its pixels")
    return scale


def prepare(name: str, pixels: Floats, scale: float) -> Floats:
    """Clipped and scaled, same shape."""
    low, high = RANGES.get(name, (-BRIGHT_MAX * scale, BRIGHT_MAX * scale))
    return np.clip(pixels, low, high).astype(np.float32) / np.float32(scale)


def windows(prepared: Floats) -> list[Floats]:
    """A prepared CT in the two windows outlines are read from."""
    hu = prepared * np.float32(UNITS["CT"])
    return [np.clip((hu - low) / (high - low), 0, 1).astype(np.float32) for low, high in WINDOWS]


def network_channels(name: str, pixels: Floats, scale: float) -> list[Floats]:
    """The maps a channel becomes, each (slices, rows, columns)."""
    prepared = prepare(name, pixels, scale)
    if name == "CT":
        return windows(prepared)
    if name == "DIFFUSION" and len(prepared) == len(SIX) + 1:
        return [*prepared, *tensor_maps(prepared)]
    return list(prepared) if prepared.ndim == 4 else [prepared]


def tensor_maps(prepared: Floats) -> Floats:
    """FA and MD by least squares, from b0 and the usual six directions (turned together they give the same): where the network starts from."""
    ways, strength = np.concatenate([np.zeros((1, 3)), SIX]), np.concatenate([[0.0], np.full(len(SIX), B_S_MM2)])
    return np.clip(anisotropy(fit(np.maximum(prepared, 1e-3), ways, strength)), 0, MD_MAX)


def width_of(name: str, series: int) -> int:
    """How many maps `network_channels` makes of a channel; `series` for one that is a series."""
    if name == "DIFFUSION":
        return series + 2 if series == len(SIX) + 1 else series
    return len(WINDOWS) if name == "CT" else series if name == "BOLD" else 1
