"""DICOM files -> Study: series sorted, in physical units, on an orthogonal grid, in one orientation convention.

Axial volumes come inferior -> superior, rows -> posterior, columns -> patient left (radiological convention);
coronal: slices -> posterior, rows -> inferior, columns -> left; sagittal: slices -> left, rows -> inferior, columns -> posterior.
"""
import io
import mmap
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import UID_dictionary

from data.dicom_limits import check_pixels, check_structure, ends_early, panics_as_errors
from data.errors import ImageError, SeriesError
from data.records import Patient, Study, Volume

MAX_FILES = 20_000
MAX_VOLUME_PIXELS = 512 * 512 * 2048        # 2 GiB as float32; checked before anything is decoded
MAX_STUDY_PIXELS = 2 * MAX_VOLUME_PIXELS    # of all series that are read
AIR_HU = -1024.0
POSITION_TOLERANCE_MM = 0.01                # two slices nearer than this stand at one position
GAP_TOLERANCE = 0.05                        # of the usual gap; wider differences are resampled
TILT_TOLERANCE_MM = 0.1                     # in-plane drift a slice, below which no shear is worth its blur
UNEVEN_GAPS = "uneven gaps"                 # how a note of a volume that was resampled begins
MAX_HOLE_MM = 20.0                          # interpolating across more would invent tissue
TAGS = ("BodyPartExamined", "ContrastBolusAgent", "KVP", "ConvolutionKernel", "SliceThickness", "StudyDescription",
        "SeriesDescription", "ImageType", "Manufacturer", "ProtocolName", "ScanningSequence", "SequenceVariant", "SequenceName", "RepetitionTime",
        "EchoTime", "InversionTime", "DiffusionBValue", "MagneticFieldStrength", "FrameOfReferenceUID", "BurnedInAnnotation")
# the same facts in an enhanced image: (functional group, attribute) by the tag they stand for
ENHANCED = {"EchoTime": ("MREchoSequence", "EffectiveEchoTime"), "DiffusionBValue": ("MRDiffusionSequence", "DiffusionBValue"),
            "RepetitionTime": ("MRTimingAndRelatedParametersSequence", "RepetitionTime"), "InversionTime": ("MRModifierSequence", "InversionTimes")}
IDENTIFYING = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality", "PatientID", "PatientName",
               "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyDate", "StudyTime", "StudyDescription",
               "SeriesDescription", "SeriesNumber", "InstanceNumber", "ImagePositionPatient", "ImageOrientationPatient",
               "Rows", "Columns", "NumberOfFrames")
# the axis (0 x, 1 y, 2 z of LPS) and sign that slices, rows and columns run along, by orientation
CONVENTION = {"axial": ((2, 1), (1, 1), (0, 1)), "coronal": ((1, 1), (2, -1), (0, 1)), "sagittal": ((0, 1), (2, -1), (1, 1))}
PLANE_OF_AXIS = ("sagittal", "coronal", "axial")


@dataclass(frozen=True)
class Frame:
    """One slice before decoding: geometry and the rescale that belongs to it."""

    header: FileDataset
    path: Path
    index: int                          # frame in the file
    position: NDArray[np.float64] | None
    orientation: NDArray[np.float64] | None     # (2, 3): along a row, along a column
    spacing: tuple[float, float] | None         # row, column mm
    slope: float
    intercept: float
    facts: dict[str, str] = field(default_factory=dict)         # tags of ENHANCED that stand in functional groups

    @property
    def uid(self) -> str:
        return str(self.header.SOPInstanceUID)


def instance_header(data: bytes) -> dict[str, str]:
    """Identifying tags of one instance, without its pixels; absent ones are "". Raises ImageError for what is no DICOM."""
    header = read_header(data, "the instance", IDENTIFYING)
    row = {name: as_text(header, name) for name in IDENTIFYING}
    row["TransferSyntaxUID"] = str(header.file_meta.get("TransferSyntaxUID", "")) if hasattr(header, "file_meta") else ""
    return row


def read_study(paths: Iterable[Path] | Path) -> Study:
    """Every series of one study as Volumes; what is no readable image is listed in `skipped` with its reason.

    Raises: ImageError when nothing can be read, SeriesError when the only series make no volume.
    """
    files = list_files(paths)
    skipped: list[str] = []
    series: dict[str, list[FileDataset]] = defaultdict(list)
    studies: set[str] = set()
    seen: set[str] = set()
    for path in files:
        try:
            header = read_header(path, path.name)
        except ImageError as error:
            skipped.append(f"{path.name}: {cut_off(path) or error}")
            continue
        if reason := why_no_image(header):
            skipped.append(f"{path.name}: {cut_off(path) or reason}")
            continue
        uid = str(header.SOPInstanceUID)
        if uid in seen:
            skipped.append(f"{path.name}: a second copy of an instance")
            continue
        seen.add(uid)
        studies.add(as_text(header, "StudyInstanceUID"))
        header.filename = str(path)
        series[as_text(header, "SeriesInstanceUID")].append(header)
    if not series:
        raise ImageError(f"none of {len(files)} files is a readable DICOM image"
                         f"{': ' + skipped[0] if skipped else ''}; give the folder of one CT or MR study")
    if len(studies) > 1:
        raise SeriesError(f"the files belong to {len(studies)} studies (StudyInstanceUID); give one study at a time")
    volumes, failures, held = [], [], 0
    for headers in sorted(series.values(), key=lambda group: number(group[0], "SeriesNumber")):
        try:
            if held and held + pixels_of(headers) > MAX_STUDY_PIXELS:
                raise SeriesError(f"with the series before it these are more than {MAX_STUDY_PIXELS} pixels; send fewer series")
            volumes += read_series(headers, skipped)
            held += pixels_of(headers)
        except (SeriesError, ImageError, ArithmeticError, AttributeError, LookupError, NotImplementedError, TypeError, ValueError) as problem:
            # pydicom gives each value as its VR says, which is the sender's to choose and may be none
            error = problem if isinstance(problem, SeriesError | ImageError) else ImageError(
                f"an attribute has a value of another kind than it should ({type(problem).__name__}); have the images exported again")
            failures.append(error)
            skipped.append(f"series {as_text(headers[0], 'SeriesNumber') or '?'}: {error}")
    if not volumes:
        raise failures[0] if failures else SeriesError("the study holds only localisers; send the diagnostic series too")
    patients = {as_text(header, "PatientID") for headers in series.values() for header in headers}
    if len(patients) > 1:
        raise SeriesError(f"the images carry {len(patients)} PatientIDs; correct them at their source and send the study again")
    first = next(iter(series.values()))[0]
    sex = as_text(first, "PatientSex").upper()
    return Study(
        id=studies.pop(), volumes=tuple(volumes), accession_number=as_text(first, "AccessionNumber"),
        date=as_text(first, "StudyDate"), description=as_text(first, "StudyDescription"), skipped=tuple(skipped),
        patient=Patient(as_text(first, "PatientID"), as_text(first, "PatientName"), as_text(first, "PatientBirthDate"),
                        sex if sex in ("M", "F", "O") else "U"),  # type: ignore[arg-type]
    )


def list_files(paths: Iterable[Path] | Path) -> list[Path]:
    given = [Path(paths)] if isinstance(paths, str | Path) else [Path(p) for p in paths]
    files: list[Path] = []
    for path in given:
        if not path.exists():
            raise ImageError(f"{path.name} does not exist; give a DICOM file or folder")
        inside = path.rglob("*") if path.is_dir() else [path]
        for file in inside:
            if file.is_file() and not file.name.startswith(".") and file.name != "DICOMDIR":
                files.append(file)
            if len(files) > MAX_FILES:
                raise ImageError(f"more than {MAX_FILES} files; give the folder of one study")
    return sorted(files)


def read_header(source: Path | bytes, name: str, keywords: tuple[str, ...] = ()) -> FileDataset:
    """All but the pixels, or of that only `keywords`, once the bytes are known to be cheap to read."""
    try:
        if isinstance(source, Path):
            with source.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                check_structure(data)
        else:
            check_structure(source)
        header = pydicom.dcmread(source if isinstance(source, Path) else io.BytesIO(source), stop_before_pixels=True,
                                 specific_tags=list(keywords) or None)
        header.get("SOPInstanceUID")
    except ImageError as error:
        raise ImageError(f"{name}: {error.args[0]}") from None
    except Exception as error:      # pydicom raises many kinds on hostile bytes; every one means the same to the caller
        raise ImageError(f"{name} is no readable DICOM file ({type(error).__name__}); send a DICOM Part 10 file") from error
    return header


def cut_off(path: Path) -> str:
    """What to say of a file that ends early, "" of a whole one: what its header lacks is then no fault of who made it."""
    size = path.stat().st_size
    if size:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if not ends_early(data):
                return ""
    return f"the file ends early, after {size} bytes, as one that was cut off on its way; copy or send it again from its source"


def why_no_image(header: Dataset) -> str:
    """Why an instance gives no slice, "" when it can."""
    for name in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"):
        if not as_text(header, name):
            return f"{name} is missing"
    modality = as_text(header, "Modality")
    if not count(header, "Rows") or not count(header, "Columns"):
        return f"no image (Modality {modality or 'missing'})"
    if number(header, "SamplesPerPixel", 1) != 1 or not as_text(header, "PhotometricInterpretation").startswith("MONOCHROME"):
        return "a colour image; only grey CT and MR images are read"
    if "Secondary Capture" in UID_dictionary.get(as_text(header, "SOPClassUID"), ("",))[0]:
        return "a secondary capture, not an acquired image"
    if modality in ("SEG", "RTDOSE", "PR", "OT", "DOC", "SR", "KO"):
        return f"Modality {modality} holds no acquired image"
    return ""


def read_series(headers: list[FileDataset], skipped: list[str]) -> list[Volume]:
    """The volumes of one series: usually one; one for each echo, b-value and temporal position."""
    kept = []
    for header in headers:
        if "LOCALIZER" in as_text(header, "ImageType").upper():
            skipped.append(f"{Path(str(header.filename)).name}: a localiser (ImageType)")
        else:
            kept.append(header)
    groups: dict[tuple[str, ...], list[Frame]] = defaultdict(list)
    for header in kept:
        for key, frame in frames_of(header):
            groups[key].append(frame)
    volumes = []
    for key in sorted(groups):
        volumes.append(build_volume(groups[key], skipped))
    return volumes


def pixels_of(headers: list[FileDataset]) -> int:
    return sum(max(count(header, "NumberOfFrames", 1), 1) * count(header, "Rows") * count(header, "Columns") for header in headers)


def frames_of(header: FileDataset) -> list[tuple[tuple[str, ...], Frame]]:
    """(what sets volumes of a series apart, the frame) for each frame of a file. Source: PS3.3 C.7.6.2, C.7.6.16."""
    path = Path(str(header.filename))
    frames = count(header, "NumberOfFrames", 1)
    found = []
    shared = first_item(header, "SharedFunctionalGroupsSequence")
    each = header.get("PerFrameFunctionalGroupsSequence") or []
    if frames > 1 and len(each) != frames:
        raise SeriesError(f"NumberOfFrames is {frames} but {len(each)} frames are described; send an enhanced multi-frame image")
    if pixels_of([header]) > MAX_VOLUME_PIXELS:
        raise ImageError(f"{frames} frames of {header.Rows}x{header.Columns} are more than {MAX_VOLUME_PIXELS} pixels; split it")
    for index in range(max(frames, 1)):
        groups = [each[index] if each else Dataset(), shared or Dataset()]

        def value(group: str, name: str, groups: list[Dataset] = groups) -> Any:
            for functional in groups:
                item = first_item(functional, group)
                if item is not None and item.get(name) is not None:
                    return item.get(name)
            return header.get(name)

        position = numbers(value("PlanePositionSequence", "ImagePositionPatient"), 3, "ImagePositionPatient")
        directions = numbers(value("PlaneOrientationSequence", "ImageOrientationPatient"), 6, "ImageOrientationPatient")
        spacing = numbers(value("PixelMeasuresSequence", "PixelSpacing"), 2, "PixelSpacing")
        slope = value("PixelValueTransformationSequence", "RescaleSlope")
        intercept = value("PixelValueTransformationSequence", "RescaleIntercept")
        rescale = numbers([1 if slope is None else slope, 0 if intercept is None else intercept], 2, "RescaleSlope")
        assert rescale is not None
        if rescale[0] == 0:
            raise ImageError(f"{path.name}: RescaleSlope is 0, expected a number other than 0; send the image again")
        orientation = None
        if directions is not None:
            orientation = directions.reshape(2, 3)
            lengths = np.linalg.norm(orientation, axis=1)
            if np.any(abs(lengths - 1) > 0.01) or abs(orientation[0] @ orientation[1]) > 0.01:
                raise SeriesError("ImageOrientationPatient is not two perpendicular unit vectors; have the image exported again")
            orientation = orientation / lengths[:, None]
        if spacing is not None and (spacing <= 0).any():
            raise SeriesError("PixelSpacing is not above 0 mm; have the image exported again")
        key = tuple(str(v or "") for v in (
            value("MREchoSequence", "EffectiveEchoTime"), header.get("EchoTime"), header.get("TemporalPositionIdentifier"),
            value("MRDiffusionSequence", "DiffusionBValue"), value("FrameContentSequence", "TemporalPositionIndex"),
            value("FrameContentSequence", "StackID")))
        facts = {name: str(v) for name, place in ENHANCED.items() if header.get(name) is None and (v := value(*place)) is not None}
        found.append((key, Frame(header, path, index, position, orientation,
                                 None if spacing is None else (float(spacing[0]), float(spacing[1])), *map(float, rescale), facts)))
    return found


def build_volume(frames: list[Frame], skipped: list[str]) -> Volume:
    notes: list[str] = []
    frames = one_orientation(frames, skipped, notes)
    if len({(f.header.Rows, f.header.Columns, f.spacing) for f in frames}) > 1:
        raise SeriesError("slices differ in Rows, Columns or PixelSpacing; send each matrix as a series of its own")
    first = frames[0]
    if first.position is None or first.orientation is None or first.spacing is None:
        if len(frames) > 1:
            raise SeriesError("slices have no ImagePositionPatient, ImageOrientationPatient or PixelSpacing, "
                              "so they cannot be put in order; send the original images")
        notes.append("no geometry in the header: nothing can be measured")
        return finish(first, decode(frames, notes), None, None, "unknown", (first.uid,), notes)
    along_row, along_column = first.orientation
    normal = np.cross(along_row, along_column)
    frames = drop_same_position(sorted(frames, key=lambda f: (float(f.position @ normal), number(f.header, "InstanceNumber"))),
                                normal, skipped, notes)
    pixels = decode(frames, notes)
    offsets = np.array([f.position - frames[0].position for f in frames])
    depth = offsets @ normal
    origin = frames[0].position.astype(np.float64)
    row_mm, column_mm = first.spacing
    drift = offsets @ np.stack([along_column, along_row], axis=1)       # (slices, 2) mm along rows' and columns' index
    if len(frames) > 1 and np.abs(drift).max() > TILT_TOLERANCE_MM * (len(frames) - 1):
        degrees = np.degrees(np.arctan2(np.linalg.norm(drift[-1] - drift[0]), depth[-1] - depth[0]))
        pixels, shift = shear(pixels, drift / [row_mm, column_mm])
        origin = origin + along_column * shift[0] * row_mm + along_row * shift[1] * column_mm
        notes.append(f"gantry tilt of {degrees:.1f} degrees corrected by a shear")
    uids = [f.uid for f in frames]
    pixels, uids, step = even_out(pixels, depth, uids, first, notes)
    affine = np.eye(4)
    affine[:3] = np.stack([along_row * column_mm, along_column * row_mm, normal * step, origin], axis=1)
    pixels, affine, flipped, orientation = to_convention(pixels, affine)
    spacing = tuple(float(np.linalg.norm(affine[:3, axis])) for axis in (2, 1, 0))
    return finish(first, pixels, spacing, affine, orientation, tuple(uids[::-1] if flipped else uids), notes)


def one_orientation(frames: list[Frame], skipped: list[str], notes: list[str]) -> list[Frame]:
    """Split away a few images across the rest (localisers); refuse a real mixture."""
    groups: list[list[Frame]] = []
    for frame in frames:
        for group in groups:
            a, b = group[0].orientation, frame.orientation
            if (a is None) == (b is None) and (a is None or b is None or np.allclose(a, b, atol=0.01)):
                group.append(frame)
                break
        else:
            groups.append([frame])
    groups.sort(key=len, reverse=True)
    rest = sum(map(len, groups[1:]))
    if rest > max(3, len(groups[0]) // 10) or (rest and rest * 2 >= len(groups[0])):
        raise SeriesError(f"the series mixes {len(groups)} orientations ({', '.join(str(len(g)) for g in groups)} images); "
                          "send each plane as a series of its own")
    for group in groups[1:]:
        for frame in group:
            skipped.append(f"{frame.path.name}: a localiser (orientation differs from the series)")
    if rest:
        notes.append(f"{rest} images of another orientation left out")
    return groups[0]


def drop_same_position(frames: list[Frame], normal: NDArray[np.float64], skipped: list[str], notes: list[str]) -> list[Frame]:
    kept: list[Frame] = []
    for frame in frames:
        if kept and float((frame.position - kept[-1].position) @ normal) < POSITION_TOLERANCE_MM:
            skipped.append(f"{frame.path.name}: a second image at the same position")
        else:
            kept.append(frame)
    if len(kept) < len(frames):
        notes.append(f"{len(frames) - len(kept)} duplicates at the same position dropped")
    return kept


def decode(frames: list[Frame], notes: list[str]) -> NDArray[np.float32]:
    """Frames in physical units, (slices, rows, columns). Source: PS3.3 C.11.1 (rescale), C.7.5.1.1.2 (padding)."""
    first = frames[0].header
    rows, columns = int(first.Rows), int(first.Columns)
    if len(frames) * rows * columns > MAX_VOLUME_PIXELS:
        raise ImageError(f"{len(frames)} slices of {rows}x{columns} are more than {MAX_VOLUME_PIXELS} pixels; split the series")
    ct = as_text(first, "Modality") == "CT"
    pixels = np.empty((len(frames), rows, columns), np.float32)
    padded = np.zeros_like(pixels, bool)
    by_file: dict[Path, NDArray[Any]] = {}
    for i, frame in enumerate(frames):
        if frame.path not in by_file:
            by_file.clear() if len(by_file) > 1 else None       # a multi-frame file is decoded once, others are let go
            by_file[frame.path] = stored_pixels(frame.path)
        stored = by_file[frame.path][frame.index]
        if stored.shape != (rows, columns):
            raise ImageError(f"{frame.path.name}: pixels are {stored.shape}, the header says {(rows, columns)}; send it again")
        padded[i] = padding(frame.header, stored)
        values = stored.astype(np.float32)
        if frame.header.PhotometricInterpretation == "MONOCHROME1" and not ct:
            bits = int(frame.header.BitsStored)     # of the stored range, so that slices stay comparable
            values = (-1.0 if frame.header.PixelRepresentation else 2.0**bits - 1) - values
        pixels[i] = values * frame.slope + frame.intercept
    if not np.isfinite(pixels).all():
        raise ImageError("rescaled pixels overflow; RescaleSlope and RescaleIntercept must be ordinary numbers")
    if ct:
        pixels[padded] = AIR_HU
        np.maximum(pixels, AIR_HU, out=pixels)
    elif padded.any() and not padded.all():
        pixels[padded] = pixels[~padded].min()
    if first.PhotometricInterpretation == "MONOCHROME1" and not ct:
        notes.append("MONOCHROME1 inverted")
    if ct and first.get("RescaleSlope") is None and not first.get("SharedFunctionalGroupsSequence"):
        notes.append("no RescaleSlope: stored values taken as HU")
    return pixels


def stored_pixels(path: Path) -> NDArray[Any]:
    """(frames, rows, columns) as stored."""
    syntax = "?"
    try:
        dataset = pydicom.dcmread(path)
        syntax = str(dataset.file_meta.TransferSyntaxUID.name)
        check_pixels(dataset)
        with panics_as_errors():
            array = dataset.pixel_array
    except ImageError as error:
        raise ImageError(f"{path.name}: {cut_off(path) or error.args[0]}") from None
    except Exception as error:      # decoders raise many kinds; the bytes are the sender's
        why = cut_off(path) or (f"the pixels ({syntax}) cannot be decoded ({type(error).__name__}); "
                                "send it uncompressed, or as RLE, JPEG-LS or JPEG 2000")
        raise ImageError(f"{path.name}: {why}") from error
    return array[None] if array.ndim == 2 else array


def padding(header: Dataset, stored: NDArray[Any]) -> NDArray[np.bool_]:
    value, limit = header.get("PixelPaddingValue"), header.get("PixelPaddingRangeLimit")
    if not isinstance(value, int):
        return np.zeros(stored.shape, bool)
    if header.PixelRepresentation and value >= 2 ** 15 and header.BitsAllocated == 16:
        value -= 2 ** 16        # written as US by some scanners though the pixels are signed
    low, high = sorted((value, limit if isinstance(limit, int) else value))
    return (stored >= low) & (stored <= high)


def shear(pixels: NDArray[np.float32], drift: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Shift each slice by its in-plane drift (pixels: row, column) on a canvas that holds them all; returns the canvas's origin."""
    low, high = np.floor(drift.min(0)), np.ceil(drift.max(0))
    grown = (high - low).astype(int)
    slices, rows, columns = pixels.shape
    if slices * (rows + grown[0]) * (columns + grown[1]) > min(MAX_VOLUME_PIXELS, 4 * pixels.size + 10**6):
        raise SeriesError("slices drift sideways by more than the image's size; ImagePositionPatient is not of one stack")
    canvas = np.full((slices, rows + grown[0], columns + grown[1]), pixels.min(), np.float32)
    for i, (row, column) in enumerate(drift - low):
        plane = pixels[i]
        for axis, amount in ((0, row), (1, column)):
            plane = shift(plane, amount, axis, grown[axis], float(pixels.min()))
        canvas[i] = plane
    return canvas, low


def shift(plane: NDArray[np.float32], amount: float, axis: int, grown: int, fill: float) -> NDArray[np.float32]:
    """`plane` grown along `axis` by `grown` and moved by `amount` (0..grown) pixels, linear between pixels."""
    whole = int(np.floor(amount))
    part = np.float32(amount - whole)

    def at(start: int) -> NDArray[np.float32]:
        after = max(grown - start, 0)
        widths = [(0, 0), (0, 0)]
        widths[axis] = (start, after)
        padded = np.pad(plane, widths, constant_values=fill)
        return np.take(padded, range(plane.shape[axis] + grown), axis=axis)

    return at(whole) if part < 1e-3 else at(whole) * (1 - part) + at(whole + 1) * part


def even_out(pixels: NDArray[np.float32], depth: NDArray[np.float64], uids: list[str], first: Frame,
             notes: list[str]) -> tuple[NDArray[np.float32], list[str], float]:
    """Slices on a regular grid along the normal, the nearest instance to each, and the step in mm."""
    if len(depth) == 1:
        thickness = number(first.header, "SliceThickness", 1.0)
        return pixels, uids, thickness if np.isfinite(thickness) and thickness > 0 else 1.0
    gaps = np.diff(depth)
    usual = float(np.median(gaps))
    if gaps.max() > max(MAX_HOLE_MM, 3 * usual):
        raise SeriesError(f"a gap of {gaps.max():.1f} mm between slices (usually {usual:.1f} mm); send the missing slices")
    if np.ptp(gaps) <= GAP_TOLERANCE * usual:
        return pixels, uids, float(gaps.mean())
    step = float(np.quantile(gaps, 0.25))       # not the smallest: one overlap would multiply the slices
    step = max(step, (depth[-1] - depth[0]) / (3 * len(depth)))
    count = int(np.floor((depth[-1] - depth[0]) / step + 1e-6)) + 1
    if count * pixels[0].size > MAX_VOLUME_PIXELS:
        raise SeriesError(f"evening out the slices needs {count} of them, too many; send the series in parts")
    grid = np.arange(count) * step
    below = np.clip(np.searchsorted(depth, grid + 1e-6) - 1, 0, len(depth) - 2)
    part = np.clip((grid - depth[below]) / gaps[below], 0, 1).astype(np.float32)
    even = np.empty((count, *pixels.shape[1:]), np.float32)
    for i, (lower, weight) in enumerate(zip(below, part, strict=True)):
        even[i] = pixels[lower] * (1 - weight) + pixels[lower + 1] * weight
    notes.append(f"{UNEVEN_GAPS} ({gaps.min():.1f} to {gaps.max():.1f} mm) resampled to {step:.2f} mm")
    return even, [uids[int(i)] for i in below + (part > 0.5)], step


def to_convention(pixels: NDArray[Any], affine: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[np.float64], bool, str]:
    """Turn rows and columns (never the slice axis) to the convention; says whether the slices were reversed.

    affine maps (column, row, slice) to LPS mm and is kept right.
    """
    affine = affine.copy()
    unit = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    across = int(np.argmax(abs(unit[:, 2])))
    plane = PLANE_OF_AXIS[across]
    orientation = plane if abs(unit[across, 2]) > 0.8 else "oblique"
    slices, rows, columns = CONVENTION[plane]
    if abs(unit[rows[0], 0]) > abs(unit[rows[0], 1]):        # the picture lies on its side
        pixels = pixels.swapaxes(1, 2)
        affine = affine[:, [1, 0, 2, 3]]
    flipped = False
    for column_of_affine, array_axis, (axis, sign) in ((0, 2, columns), (1, 1, rows), (2, 0, slices)):
        if affine[axis, column_of_affine] * sign < 0:
            pixels = np.flip(pixels, array_axis)
            affine[:3, 3] += affine[:3, column_of_affine] * (pixels.shape[array_axis] - 1)
            affine[:3, column_of_affine] *= -1
            flipped = flipped or array_axis == 0
    return np.ascontiguousarray(pixels), affine, flipped, orientation


def finish(first: Frame, pixels: NDArray[np.float32], spacing: Any, affine: NDArray[np.float64] | None, orientation: str,
           uids: tuple[str, ...], notes: list[str]) -> Volume:
    header = first.header
    modality = as_text(header, "Modality")
    return Volume(pixels=pixels, spacing_mm=spacing, affine=affine, modality=modality, units="HU" if modality == "CT" else "",
                  sequence=as_text(header, "SeriesDescription"), orientation=orientation,
                  series_uid=as_text(header, "SeriesInstanceUID"), instance_uids=uids, notes=tuple(notes),
                  tags={name: as_text(header, name) for name in TAGS if as_text(header, name)} | first.facts)


def as_text(header: Dataset, name: str) -> str:
    try:
        value = header.get(name)
    except Exception:       # a value its VR forbids is as good as absent
        return ""
    if value is None:
        return ""
    if isinstance(value, list | tuple) or type(value).__name__ == "MultiValue":
        return "\\".join(str(v) for v in value)[:1000]
    return str(value).strip()[:1000]


def number(header: Dataset, name: str, default: float = 0.0) -> float:
    try:
        value = float(as_text(header, name) or default)
    except ValueError:
        return default
    return value if np.isfinite(value) else default


def count(header: Dataset, name: str, default: int = 0) -> int:
    """A whole number of 0 or more; 0 for what is none."""
    value = number(header, name, default)
    return int(value) if value >= 0 and value == int(value) else 0


def numbers(value: Any, count: int, name: str) -> NDArray[np.float64] | None:
    if value is None or value == "":
        return None
    try:
        array = np.array([float(v) for v in value], np.float64)
    except (TypeError, ValueError) as error:
        raise SeriesError(f"{name} is not {count} numbers; have the image exported again") from error
    if array.shape != (count,) or not np.isfinite(array).all() or (abs(array) > 1e6).any():
        raise SeriesError(f"{name} is not {count} ordinary numbers; have the image exported again")
    return array


def first_item(dataset: Dataset, name: str) -> Dataset | None:
    sequence = dataset.get(name)
    return sequence[0] if sequence else None
