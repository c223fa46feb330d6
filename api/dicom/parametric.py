"""Images that a head made, and its maps of uncertainty and heat, as DICOM Parametric Map (PS3.3 A.75), on the geometry of the volume read."""
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.uid import generate_uid

from api.dicom.seg import geometry, source_images
from data.errors import InputError
from data.records import Volume

# unit as vision.heads.channels names it -> (UCUM code, meaning); "" are units of the input that nobody knows
UNITS = {"": ("[arb'U]", "arbitrary unit"), "1": ("1", "no units"), "HU": ("[hnsf'U]", "Hounsfield unit"), "1e-6 mm2/s": ("um2/s", "um2/s"),
         "mL/100 g/min": ("mL/(100.g.min)", "mL/100 g/min"), "mL/100 g": ("mL/(100.g)", "mL/100 g"), "s": ("s", "s"), "rad": ("rad", "rad"),
         "SUVR": ("{ratio}", "SUV ratio")}


def write_parametric_map(volume: Volume, values: NDArray[np.float32], study_path: Path, out: Path, meaning: str, unit: str, algorithm: str,
                         version: str, anatomy: bool) -> None:
    """One map (slices, rows, columns) as float32, values as they are; raises InputError where the study is no DICOM.

    anatomy: the map is an image of the head, in which a face may be seen.
    """
    import highdicom
    from highdicom.sr.coding import CodedConcept

    if volume.affine is None or volume.spacing_mm is None:
        raise InputError(f"{study_path.name} has no geometry; a DICOM Parametric Map needs it")
    low, high = float(values.min()), float(values.max())
    code, named = UNITS[unit]
    mapping = highdicom.pm.RealWorldValueMapping(meaning[:16], meaning[:64], CodedConcept(code, "UCUM", named), (low, high), 1.0, 0.0)
    dark, bright = (float(v) for v in np.quantile(values, (0.01, 0.995)))
    shown = highdicom.VOILUTTransformation(window_center=(dark + bright) / 2, window_width=max(bright - dark, 1e-6), voi_lut_function="LINEAR_EXACT")
    sources = source_images(study_path, volume.series_uid)
    made = highdicom.pm.ParametricMap(
        sources, np.ascontiguousarray(values, np.float32), generate_uid(), 9903, generate_uid(), 1,
        "Wetread", "wetread head", version, "0", anatomy, [mapping], voi_lut_transformations=[shown],
        content_label=re.sub("[^A-Z0-9]+", "_", meaning.upper())[:16].strip("_"),
        content_description=f"{algorithm}: {meaning}"[:64], series_description=f"Wetread {algorithm} {meaning}, not verified"[:64],
        **geometry(volume))
    made.BodyPartExamined = sources[0].get("BodyPartExamined") or "HEAD"
    made.save_as(out)
