"""Images that are no DICOM series: NIfTI volumes and single pictures; `open_study` picks the reader by the file."""
import gzip
import warnings
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from data.dicom import read_study
from data.errors import ImageError, SeriesError
from data.records import Study, Volume

PIXELS_MAX = 64 * 2**20         # a picture
VOXELS_MAX = 512 * 2**20        # a volume: 2 GiB as float32
PICTURES = (".png", ".jpg", ".jpeg")
LABELS_MAX = 12                 # distinct values; an image has more
AIR_HU = -500.0                 # a NIfTI whose darkest value lies below is a CT in HU: nothing else goes there


def open_study(path: Path) -> Study:
    """A DICOM folder or file, a NIfTI or a folder of them, a PNG or JPEG; raises ImageError, SeriesError."""
    path = Path(path)
    if not path.exists():
        raise ImageError(f"{path} does not exist; give a DICOM folder or file, a NIfTI (.nii, .nii.gz), a PNG or a JPEG")
    if path.is_file() and path.name.lower().endswith((".nii", ".nii.gz")):
        return read_nifti(path)
    if path.is_file() and path.suffix.lower() in PICTURES:
        return read_picture(path)
    files = sorted(f for f in path.iterdir() if f.name.lower().endswith((".nii", ".nii.gz"))) if path.is_dir() else []
    # beside DICOM a NIfTI is what somebody made of it
    if files and not any(is_dicom(f) for f in path.rglob("*") if f.is_file()):
        return read_niftis(path, files)
    return read_study(path)


def read_niftis(folder: Path, files: list[Path]) -> Study:
    """One study of the NIfTI files of a folder, each a series named as its file; label maps are left out and named in `skipped`.

    Raises: ImageError when one cannot be read, SeriesError when together they are too large.
    """
    volumes, skipped, held = [], [], 0
    for file in files:
        [volume] = read_nifti(file).volumes
        if len(np.unique(volume.pixels[:: max(1, len(volume.pixels) // 8)])) <= LABELS_MAX and float(np.ptp(volume.pixels)) > 0:
            skipped.append(f"{file.name}: a label map, not an image")
            continue
        held += volume.pixels.size
        if held > 2 * VOXELS_MAX:
            raise SeriesError(f"the files of {folder.name} hold more than {2 * VOXELS_MAX} voxels together; give fewer")
        volumes.append(volume)
    if not volumes:
        raise ImageError(f"{folder.name} holds label maps only; give the images")
    return Study(id=folder.name, volumes=tuple(volumes), skipped=tuple(skipped))


def is_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def read_nifti(path: Path, series: bool = False) -> Study:
    """One volume of float32 (slices, rows, columns), slices from the feet up, rows to the back, columns to the patient's left.

    series: four axes are read too, as (time or direction, slices, rows, columns).
    """
    try:
        image = nibabel.as_closest_canonical(nibabel.load(path))  # type: ignore[arg-type]
        shape = image.shape
        if len(shape) == 4 and shape[3] == 1:
            shape = shape[:3]
        if len(shape) != 3 and not (series and len(shape) == 4):
            raise ImageError(f"{path.name} has shape {shape}, expected three axes; split a series of volumes into files")
        if np.prod(shape, dtype=np.int64) > VOXELS_MAX:
            raise ImageError(f"{path.name} has {np.prod(shape, dtype=np.int64)} voxels, at most {VOXELS_MAX} are read; crop or resample it")
        ras = np.asarray(image.dataobj, np.float32).reshape(shape)
    except (nibabel.filebasedimages.ImageFileError, nibabel.spatialimages.HeaderDataError, gzip.BadGzipFile, EOFError, OSError, ValueError) as error:
        raise ImageError(f"{path.name} is no readable NIfTI ({type(error).__name__}); write it again from its source") from None
    if not np.isfinite(ras).all():
        raise ImageError(f"{path.name} holds values that are no numbers; replace them by the background (air: -1000 on CT, 0 on MR)")
    pixels = np.ascontiguousarray(ras[::-1, ::-1].T)
    columns, rows = shape[0], shape[1]
    # canonical NIfTI counts to the right and the front; (column, row, slice) count to the left and the back
    flip = np.array([[-1, 0, 0, columns - 1], [0, -1, 0, rows - 1], [0, 0, 1, 0], [0, 0, 0, 1]], float)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.asarray(image.affine, float) @ flip
    spacing = np.sqrt((affine[:3, :3] ** 2).sum(0))
    if not (spacing > 0).all():
        raise ImageError(f"{path.name} has an affine with a zero axis; write its spacing in mm")
    tilted = np.abs(affine[:3, :3] / spacing).max(0).min() < 0.9
    ct = float(pixels.min()) < AIR_HU
    volume = Volume(pixels, (float(spacing[2]), float(spacing[1]), float(spacing[0])), affine, modality="CT" if ct else "", units="HU" if ct else "",
                    sequence=path.name.split(".nii")[0], orientation="oblique" if tilted else "axial", series_uid=path.name)
    return Study(id=path.name, volumes=(volume,))


def read_picture(path: Path) -> Study:
    """One grey picture scaled 0..1, without spacing: nothing can be measured in it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                if image.width * image.height > PIXELS_MAX:
                    raise ImageError(f"{path.name} is {image.width}x{image.height}, at most {PIXELS_MAX} pixels are read; make it smaller")
                deep = image.mode.startswith(("I", "F"))
                grey = np.asarray(image if deep else image.convert("L"), np.float32)
                colour = 0.0 if deep else coloured(np.asarray(image.convert("RGB"), np.int16))
    except (UnidentifiedImageError, Image.DecompressionBombWarning, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        raise ImageError(f"{path.name} is no readable picture ({type(error).__name__}); save it again as PNG or JPEG") from None
    low, high = (float(grey.min()), float(grey.max())) if deep else (0.0, 255.0)
    pixels = ((grey - low) / max(high - low, 1e-6))[None]
    return Study(id=path.name, volumes=(Volume(pixels.astype(np.float32), None, None, units="1", series_uid=path.name,
                                               tags={"coloured_share": f"{colour:.3f}"}),))


def coloured(rgb: NDArray[np.int16]) -> float:
    """Share of the pixels that are not grey; a CT has but burnt-in letters in colour."""
    return float((rgb.max(2) - rgb.min(2) > 40).mean())
