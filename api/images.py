"""Images for the page: a study's volumes as int16 bytes, kept for a moment because a viewer asks for header and pixels apart."""
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.dicom import read_study
from data.errors import ImageError, NotFound
from data.records import Volume

KEPT_STUDIES = 3            # a 512 x 512 x 300 CT takes 300 MB while it is read, 150 MB afterwards
LETTERS = (("R", "L"), ("A", "P"), ("F", "H"))      # where -x, +x, -y, +y, -z, +z of LPS lie


class Images:
    """The last few studies as (header, pixels) by series number."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, int], list[tuple[dict[str, Any], bytes]]] = OrderedDict()
        self._reading = threading.Lock()        # one study is read at a time: reading takes memory and every core

    def series(self, home: Path, study: dict[str, Any], n: int) -> tuple[dict[str, Any], bytes]:
        """Header and int16 little endian pixels of the nth volume, counted from 0; slices, rows, columns in C order."""
        key = (study["id"], study["revision"])
        with self._reading:
            if key not in self._kept:
                paths = [home / instance["path"] for series in study["series"] for instance in series["instances"]]
                volumes = read_study(paths).volumes
                self._kept[key] = [(header(i, len(volumes), volume), pixels(volume)) for i, volume in enumerate(volumes)]
                while len(self._kept) > KEPT_STUDIES:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(key)
            found = self._kept[key]
        if not 0 <= n < len(found):
            raise NotFound(f"the study has {len(found)} series that can be shown; ask for one of them, counted from 0")
        return found[n]


def header(n: int, count: int, volume: Volume) -> dict[str, Any]:
    """Shape, spacing and where the patient's sides lie; value = stored * slope + intercept, in `units`."""
    slope, intercept = scale(volume)
    return {"n": n, "count": count, "shape": list(space(volume).shape), "spacing_mm": volume.spacing_mm, "orientation": volume.orientation,
            "modality": volume.modality, "units": volume.units, "description": volume.sequence, "series_uid": volume.series_uid,
            "slope": slope, "intercept": intercept, "marks": marks(volume.affine), "notes": list(volume.notes)}


def space(volume: Volume) -> NDArray[np.float32]:
    """(slices, rows, columns); of several channels the first."""
    if volume.pixels.ndim not in (3, 4):
        raise ImageError("the series is neither slices nor channels of slices; it cannot be shown")
    return volume.pixels if volume.pixels.ndim == 3 else volume.pixels[0]


def scale(volume: Volume) -> tuple[float, float]:
    if volume.units == "HU":
        return 1.0, 0.0
    low, high = float(space(volume).min()), float(space(volume).max())
    return max((high - low) / 60000, 1e-9), (high + low) / 2


def pixels(volume: Volume) -> bytes:
    slope, intercept = scale(volume)
    return np.clip(np.rint((space(volume) - intercept) / slope), -32768, 32767).astype("<i2").tobytes()


def marks(affine: NDArray[np.float64] | None) -> dict[str, str]:
    """The letter at each edge of the image, {} when the position in the patient is not known: a wrong side is worse than none."""
    if affine is None:
        return {}
    column, row = affine[:3, 0], affine[:3, 1]
    right, bottom = int(np.argmax(np.abs(column))), int(np.argmax(np.abs(row)))
    return {"left": LETTERS[right][int(column[right] < 0)], "right": LETTERS[right][int(column[right] > 0)],
            "top": LETTERS[bottom][int(row[bottom] < 0)], "bottom": LETTERS[bottom][int(row[bottom] > 0)]}


def mask_bytes(home: Path, draft: dict[str, Any], name: str) -> tuple[bytes, tuple[int, ...]]:
    """A mask of one of the draft's findings; only paths that the desk itself stored are opened."""
    for path in mask_paths(draft):
        if Path(path).stem == name:
            with np.load(home / path, allow_pickle=False) as file:
                mask = file["mask"]
            return mask.astype(np.uint8).tobytes(), mask.shape
    raise NotFound("there is no mask of that name; the draft's findings name them in evidence")


def mask_paths(draft: dict[str, Any]) -> list[str]:
    return [seen["mask"] for finding in draft["findings"] for seen in finding["evidence"] if seen["mask"]]
