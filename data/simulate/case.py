"""What a simulation gives: named channels, masks, classes, findings and the truth behind them, on one grid."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.records import Finding, Study, Volume

Floats = NDArray[np.float32]

STRUCTURES = ("background", "grey matter", "white matter", "CSF", "ventricles", "deep nuclei", "hippocampus")  # index = code in a structure map


@dataclass(frozen=True)
class Recipe:
    """What one kind of case holds. `size` and `spacing_mm` (slices, rows, columns) are the defaults of `simulate`."""

    name: str
    about: str
    channels: tuple[str, ...] = ()  # always present; inputs and image targets alike
    masks: tuple[str, ...] = ()  # always present, all zero where there is nothing
    categories: tuple[str, ...] = ()  # class names; `SimulatedCase.category` is the index
    truth: tuple[str, ...] = ()  # keys always present in `SimulatedCase.truth`
    modality: str = "MR"  # DICOM Modality of the channels
    size: tuple[int, int, int] = (24, 128, 128)
    spacing_mm: tuple[float, float, float] = (4.0, 1.8, 1.8)
    options: tuple[str, ...] = ()  # keywords `simulate` takes for this recipe


@dataclass(frozen=True)
class SimulatedCase:
    """One simulated study; every array is (..., slices, rows, columns): slices from the feet up, rows to the back, columns to the patient's left.

    channels: float32; CT in HU, MR in arbitrary units (brain near 1), ADC in 1e-6 mm2/s, CBF mL/100 g/min, CBV mL/100 g,
        MTT and TMAX in s, PET as SUVR to the cerebellum. A series has its own axis first: (time or direction, slices, rows, columns).
    masks: uint8, 0 or 1. structures: uint8, index into STRUCTURES. sides: uint8, 1 the patient's right half of the brain, 2 the left, 0 outside.
    affine: (column, row, slice) to DICOM patient millimetres (LPS), that of data.records.Volume.
    """

    recipe: str
    seed: int
    channels: dict[str, Floats]
    masks: dict[str, NDArray[np.uint8]]
    structures: NDArray[np.uint8]
    sides: NDArray[np.uint8]
    affine: NDArray[np.float64]
    spacing_mm: tuple[float, float, float]  # slice, row, column
    modality: str = "MR"
    category: int | None = None  # index into Recipe.categories
    findings: tuple[Finding, ...] = ()  # present and absent
    truth: dict[str, Any] = field(default_factory=dict)  # numbers, words and arrays (raw data, time courses, directions)
    anatomy: str = ""
    held_out: bool = False

    def volume(self, name: str) -> Volume:
        """A channel as the record the rest of Wetread reads; only for channels with three axes."""
        pixels = self.channels[name]
        assert pixels.ndim == 3, f"{name} is a series of {len(pixels)}"
        return Volume(
            pixels,
            self.spacing_mm,
            self.affine,
            modality=self.modality,
            sequence=f"SIMULATED {name}",
            units="HU" if self.modality == "CT" else "",
            series_uid=f"simulated-{self.recipe}-{self.seed}-{name}",
        )

    @property
    def study(self) -> Study:
        volumes = tuple(self.volume(name) for name, pixels in self.channels.items() if pixels.ndim == 3)
        return Study(id=f"simulated-{self.recipe}-{self.seed}", volumes=volumes, description=f"SIMULATED {self.recipe}")
