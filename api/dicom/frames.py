"""Instances as a viewer asks for them: whole, as metadata, as frames, or as a picture. Source: PS3.18 8.7, 10.4."""
import io
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import FileDataset
from pydicom.encaps import generate_frames
from pydicom.pixels import apply_modality_lut, apply_voi_lut, pixel_array
from pydicom.uid import UID, ExplicitVRLittleEndian

from data.dicom_limits import check_pixels, panics_as_errors, positive
from data.errors import ImageError, InputError, NotFound, WetreadError

BULK_BYTES = 1024           # longer binary values are given by reference
NATIVE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99")     # uncompressed, little endian
# transfer syntax -> media type of a compressed frame (PS3.18 table 8.7.3-2)
MEDIA = {"1.2.840.10008.1.2.4.50": "image/jpeg", "1.2.840.10008.1.2.4.51": "image/jpeg", "1.2.840.10008.1.2.4.57": "image/jpeg",
         "1.2.840.10008.1.2.4.70": "image/jpeg", "1.2.840.10008.1.2.4.80": "image/jls", "1.2.840.10008.1.2.4.81": "image/jls",
         "1.2.840.10008.1.2.4.90": "image/jp2", "1.2.840.10008.1.2.4.91": "image/jp2", "1.2.840.10008.1.2.5": "image/dicom-rle"}
PICTURE_MAX = 4096          # rows or columns of a picture
FRAME_MAX_BYTES = 2**28     # decoded, of one frame; a mammogram takes 50 MB
WHOLE_MAX_BYTES = 2**30     # decoded, of all frames of an instance
DECODING = threading.Lock() # one at a time: decoding takes several times the memory of what it gives
KINDS = {"image/png": "PNG", "image/jpeg": "JPEG"}


@contextmanager
def in_words() -> Iterator[None]:
    """What pydicom raises on a value that is no such thing as its sender says, as ImageError: it reads a value when it is asked for it."""
    try:
        yield
    except (WetreadError, OSError, MemoryError):
        raise
    except Exception as error:
        raise ImageError(f"an attribute of the instance cannot be read ({type(error).__name__}); GET it with transfer-syntax=*") from None


@in_words()
def whole(path: Path, syntax: str) -> bytes:
    """The instance as stored where `syntax` is * or fits, else uncompressed; raises ImageError when it cannot be decoded."""
    data = path.read_bytes()
    stored = str(dcmread(io.BytesIO(data), stop_before_pixels=True, specific_tags=["SOPInstanceUID"]).file_meta.TransferSyntaxUID)
    if syntax in ("*", stored) or (not syntax and stored == ExplicitVRLittleEndian) or not compressed(stored):
        return data
    image = dcmread(io.BytesIO(data))
    try:
        check_pixels(image, max_bytes=WHOLE_MAX_BYTES)
        with DECODING, panics_as_errors():
            image.decompress()
    except ImageError:
        raise
    except Exception as error:      # each decoder has its own kinds; every one means the same to the caller
        raise ImageError(f"the instance cannot be decoded ({type(error).__name__}); ask for transfer-syntax=*") from None
    body = io.BytesIO()
    try:
        image.save_as(body)
    except Exception as error:      # into memory: an OSError is pydicom's word for a value that its VR forbids, and no disk's
        raise ImageError(f"the instance cannot be written uncompressed ({type(error).__name__}); ask for transfer-syntax=*") from None
    return body.getvalue()


def compressed(syntax: str) -> bool:
    """Raises ImageError for what names no transfer syntax, or one known to its maker alone."""
    if not UID(syntax).is_transfer_syntax:
        raise ImageError("the instance's TransferSyntaxUID is none that is known here; ask for transfer-syntax=*")
    return UID(syntax).is_compressed


@in_words()
def metadata(path: Path, address: str) -> dict[str, Any]:
    """DICOM JSON without pixels; long binary values by their address. Source: PS3.18 annex F."""
    image = dcmread(path, defer_size=1 << 20)
    pixels = "PixelData" in image
    vr = image["PixelData"].VR if pixels else ""
    if pixels:
        del image.PixelData
    try:
        # pydicom's own `to_json_dict` stops at a value its VR forbids; such a value is left out instead
        found: dict[str, Any] = image.to_json_dict(bulk_data_threshold=BULK_BYTES, suppress_invalid_tags=True,
                                                   bulk_data_element_handler=lambda e: f"{address}/bulkdata/{e.tag:08X}")
    except Exception as error:      # within sequences it reads on, and raises many kinds
        raise ImageError(f"a sequence cannot be read ({type(error).__name__}); GET the instance itself") from None
    if pixels:
        found["7FE00010"] = {"vr": vr if vr in ("OB", "OW") else "OW", "BulkDataURI": f"{address}/bulkdata/7FE00010"}
    found["00083002"] = {"vr": "UI", "Value": [str(image.file_meta.TransferSyntaxUID)]}
    plain: dict[str, Any] = finite(found)
    return plain


def finite(value: Any) -> Any:
    """The same with null for what is no number, which JSON cannot say."""
    if isinstance(value, dict):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@in_words()
def bulk_data(path: Path, tag: str) -> bytes:
    image = dcmread(path)
    try:
        element = image[int(tag, 16)]
    except (KeyError, ValueError, OverflowError):
        raise NotFound("there is no such attribute in the instance; its metadata names those that are given by reference") from None
    if not isinstance(element.value, bytes):
        raise InputError("the attribute is no binary value; it stands in the metadata")
    return element.value


@in_words()
def frames(path: Path, numbers: list[int], syntax: str) -> list[tuple[str, bytes]]:
    """(media type, bytes) of each frame asked for, counted from 1: as stored where `syntax` is * or fits, else raw little endian."""
    image = dcmread(path)
    count = positive(image, "NumberOfFrames", 2**31 - 1, 1)
    if "PixelData" not in image:
        raise NotFound("the instance has no frames; ask for one with pixels")
    if any(not 1 <= number <= count for number in numbers):
        raise NotFound(f"the instance has {count} frames; ask for some of 1 to {count}")
    stored = str(image.file_meta.TransferSyntaxUID)
    if stored in NATIVE:
        return [(f"application/octet-stream; transfer-syntax={ExplicitVRLittleEndian}", native(image, number, count)) for number in numbers]
    if syntax in ("*", stored) and compressed(stored):
        parts = list(generate_frames(image.PixelData, number_of_frames=count))
        return [(f"{MEDIA.get(stored, 'application/octet-stream')}; transfer-syntax={stored}", parts[number - 1]) for number in numbers]
    return [(f"application/octet-stream; transfer-syntax={ExplicitVRLittleEndian}", decoded(image, number).tobytes()) for number in numbers]


def native(image: FileDataset, number: int, count: int) -> bytes:
    """One frame's own bytes; frames of single bits begin wherever the one before ended."""
    check_pixels(image, number - 1, FRAME_MAX_BYTES)
    bits = positive(image, "BitsAllocated", 64)
    samples = positive(image, "Rows", 65535) * positive(image, "Columns", 65535) * positive(image, "SamplesPerPixel", 4, 1)
    if bits == 1:
        first, end = (number - 1) * samples, number * samples
        single = np.unpackbits(np.frombuffer(image.PixelData[first // 8:-(-end // 8)], np.uint8), bitorder="little")[first % 8:first % 8 + samples]
        return np.packbits(single, bitorder="little").tobytes()
    length = samples * bits // 8
    return image.PixelData[(number - 1) * length:number * length]


def decoded(image: FileDataset, number: int) -> NDArray[Any]:
    check_pixels(image, number - 1, FRAME_MAX_BYTES)
    try:
        with DECODING, panics_as_errors():
            found = pixel_array(image, index=number - 1, raw=True)
            return found.astype(found.dtype.newbyteorder("<"), copy=False)
    except Exception as error:
        raise ImageError(f"the frame cannot be decoded ({type(error).__name__}); ask for transfer-syntax=*") from None


@in_words()
def rendered(path: Path, number: int, kind: str, window: tuple[float, float] | None, size: int = PICTURE_MAX) -> bytes:
    """A frame as PNG or JPEG through its window (centre, width), the given one first."""
    image = dcmread(path)
    if "PixelData" not in image:
        raise NotFound("the instance has no frames; ask for one with pixels")
    check_pixels(image, number - 1, FRAME_MAX_BYTES)
    body = io.BytesIO()
    with DECODING:
        try:
            with panics_as_errors():
                pixels = pixel_array(image, index=number - 1)
            picture = Image.fromarray(shown(image, pixels, window))
        except Exception as error:      # of the decoder, or of a window or table that is none
            raise ImageError(f"the frame cannot be shown ({type(error).__name__}); fetch it as it is stored, with /frames/N") from None
        picture.thumbnail((size, size))
        picture.save(body, KINDS[kind])
    return body.getvalue()


def shown(image: FileDataset, pixels: NDArray[Any], window: tuple[float, float] | None) -> NDArray[np.uint8]:
    """Stored values as grey levels, or colours as they are."""
    if pixels.ndim != 2:
        return pixels.astype(np.uint8)
    values = apply_modality_lut(pixels, image).astype(np.float64)
    if window:
        levels = (values - (window[0] - 0.5)) / max(window[1] - 1, 1e-6) + 0.5       # PS3.3 C.11.2.1.2.1
    else:
        values = apply_voi_lut(values, image) if "WindowWidth" in image else values
        levels = (values - values.min()) / max(float(np.ptp(values)), 1e-6)
    grey = np.rint(np.clip(np.nan_to_num(levels), 0, 1) * 255).astype(np.uint8)
    return 255 - grey if image.PhotometricInterpretation == "MONOCHROME1" else grey
