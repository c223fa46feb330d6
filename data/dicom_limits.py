"""What one DICOM file may cost: depth, number of elements, inflated size and decoded size, settled before anything is parsed or decoded.

Source: PS3.5 7.1 and 7.5 (elements, nested items), PS3.5 A.4 and A.5 (encapsulated and deflated data).
"""
import mmap
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames, get_frame
from pydicom.pixels import get_decoder
from pydicom.uid import (
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    JPEGLSNearLossless,
)

from data.errors import ImageError

Bytes = bytes | mmap.mmap
MAX_DEPTH = 64                          # sequences within sequences; a structured report has some ten
MAX_ELEMENTS = 500_000                  # attributes, items and fragments; an enhanced CT of 2,000 frames has 150,000
MAX_INFLATED_BYTES = 128 * 2**20        # of a deflated data set
MAX_DECODED_BYTES = 2**31               # of a file's pixels, all its frames together
UNDEFINED = 0xFFFFFFFF
LONG_LENGTH = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"))
ITEM, ITEM_END, SEQUENCE_END = 0xE000, 0xE00D, 0xE0DD       # of group FFFE
PIXELS = (0x7FE00008, 0x7FE00009, 0x7FE00010)
SAMPLE_BITS = (1, 8, 16, 32, 64)


def check_structure(data: Bytes) -> None:
    """Raise ImageError when a Part 10 file is nested too deeply, has too many elements, or inflates to too much.

    Bytes that are no Part 10 file pass: reading them is refused at once. So does a file that ends early.
    """
    if data[128:132] == b"DICM":
        walked(data)


def ends_early(data: Bytes) -> bool:
    """Whether a Part 10 file stops within an element or before the end of a sequence, as one that was cut off on its way does."""
    if data[128:132] != b"DICM":
        return False
    try:
        return after_meta(data)[0] > len(data) or walked(data).cut
    except ImageError:
        return False


def walked(data: Bytes) -> "Walk":
    """The pass over a Part 10 file; raises ImageError as check_structure does."""
    start, syntax = after_meta(data)
    if syntax == DeflatedExplicitVRLittleEndian:
        return check_dataset(inflated(data[start:]), explicit=True)
    return check_dataset(data, start, syntax != ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian)


def check_dataset(data: Bytes, start: int = 0, explicit: bool = False, little: bool = True) -> "Walk":
    """The same for a data set without its file's head, as a DICOM message carries it."""
    walk = Walk(data, little)
    walk.dataset(start, len(data), explicit, 0, False, False)
    return walk


def after_meta(data: Bytes) -> tuple[int, str]:
    """Where the data set begins, and the Transfer Syntax UID; "" where there is none. Source: PS3.10 7.1."""
    at, syntax = 132, ""
    while data[at:at + 2] == b"\x02\x00" and at + 8 <= len(data):
        long = data[at + 4:at + 6] in LONG_LENGTH
        if long and at + 12 > len(data):
            break
        length = struct.unpack_from("<L", data, at + 8)[0] if long else struct.unpack_from("<H", data, at + 6)[0]
        value = at + (12 if long else 8)
        if data[at + 2:at + 4] == b"\x10\x00":
            syntax = data[value:value + min(length, 64)].rstrip(b"\0 ").decode("latin-1")
        at = value + length
    return at, syntax


def inflated(data: bytes) -> bytes:
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        plain = stream.decompress(data, MAX_INFLATED_BYTES + 1)
    except zlib.error:
        raise ImageError("the deflated data set cannot be inflated; send the instance again, or in another transfer syntax") from None
    if len(plain) > MAX_INFLATED_BYTES:
        raise ImageError(f"the deflated data set is more than {MAX_INFLATED_BYTES} bytes when inflated; send the instance in another transfer syntax")
    return plain


class Walk:
    """One pass over the heads of elements and items; no value is looked at."""

    def __init__(self, data: Bytes, little: bool) -> None:
        order = "<" if little else ">"
        self.data, self.seen = data, 0
        self.cut = False        # set where the data ends within an element
        self.head = struct.Struct(f"{order}HH2sH").unpack_from
        self.plain_head = struct.Struct(f"{order}HHL").unpack_from
        self.long = struct.Struct(f"{order}L").unpack_from
        self.item_tag = struct.pack(f"{order}HH", 0xFFFE, ITEM)

    def count(self) -> None:
        self.seen += 1
        if self.seen > MAX_ELEMENTS:
            raise ImageError(f"the instance has more than {MAX_ELEMENTS} attributes, items and fragments; send it in parts")

    def dataset(self, at: int, end: int, explicit: bool, depth: int, delimited: bool, strict: bool) -> int:
        """Walk the elements from `at`; gives where the data set ends.

        `strict`: within a sequence of undefined length, where a length that is too long would lead another reader elsewhere than us.
        """
        data, head, plain_head = self.data, self.head, self.plain_head
        if at + 8 <= end:           # what the first element shows counts, as in pydicom: some files are not what they say
            letters = data[at + 4:at + 6].isalpha() and data[at + 4:at + 6].isupper()
            explicit = letters if depth == 0 else explicit and letters
        while at + 8 <= end:
            self.seen += 1
            if self.seen > MAX_ELEMENTS:
                self.count()
            group, element, vr, length = head(data, at)
            value = at + 8
            if not (explicit and b"AA" <= vr <= b"ZZ"):
                vr = b""                            # implicit, as some writers do inside explicit sequences too
                length = plain_head(data, at)[2]
            elif vr in LONG_LENGTH:
                if at + 12 > end:
                    return self.ended_early(end)
                length, value = self.long(data, at + 8)[0], at + 12
            if group == 0xFFFE and delimited and element == ITEM_END:
                return at + 8
            if length == UNDEFINED:
                at = self.items(value, end, explicit, depth + 1, True, True, (group << 16 | element) in PIXELS)
                continue
            if value + length > end:
                if strict:
                    raise ImageError("an attribute within a sequence is longer than its item; send the instance again")
                return self.ended_early(end)        # what reads it stops here too
            if vr in (b"SQ", b"UN", b"") and length >= 8 and data[value:value + 4] == self.item_tag:
                self.items(value, value + length, explicit, depth + 1, False, strict, False)
            at = value + length
        return self.ended_early(end) if at < end or delimited else end      # a part of an element's head, or an item without its end

    def items(self, at: int, end: int, explicit: bool, depth: int, delimited: bool, strict: bool, pixels: bool) -> int:
        """Walk the items of a sequence, or the fragments of encapsulated pixels."""
        if depth > MAX_DEPTH:
            raise ImageError(f"the instance has sequences nested more than {MAX_DEPTH} deep; send it without them")
        while at + 8 <= end:
            group, element, length = self.plain_head(self.data, at)
            if group == 0xFFFE and element == SEQUENCE_END and delimited:
                return at + 8
            if group != 0xFFFE or element != ITEM:
                if strict:
                    raise ImageError("a sequence of undefined length holds something else than items; send the instance again")
                return end
            self.count()
            if length == UNDEFINED:
                at = self.dataset(at + 8, end, explicit, depth, True, strict)
                continue
            if at + 8 + length > end:
                if strict and not pixels:
                    raise ImageError("an item is longer than its sequence; send the instance again")
                return self.ended_early(end)
            if not pixels:
                self.dataset(at + 8, at + 8 + length, explicit, depth, False, strict)
            at += 8 + length
        return self.ended_early(end) if delimited else end

    def ended_early(self, end: int) -> int:
        """Of the whole data: where it is the end of a sequence alone, that has a wrong length."""
        self.cut |= end == len(self.data)
        return end


# GDCM throws C++ exceptions that end the process; it is kept where nothing else decodes (JPEG lossless, JPEG of 12 bits)
for syntax in (JPEGLSLossless, JPEGLSNearLossless, JPEG2000Lossless, JPEG2000):
    if "gdcm" in get_decoder(syntax).available_plugins:
        get_decoder(syntax).remove_plugin("gdcm")


# -- pixels ----------------------------------------------------------------------------------------------------------


def check_pixels(image: Dataset, frame: int | None = None, max_bytes: int = MAX_DECODED_BYTES) -> None:
    """Raise ImageError when decoding all frames, or the one counted from 0, would take too much or the compressed frames are of another size.

    A decoder believes the compressed stream, not Rows and Columns: a stream of a few hundred bytes can ask for gigabytes.
    """
    rows, columns = positive(image, "Rows", 65535), positive(image, "Columns", 65535)
    frames, samples = positive(image, "NumberOfFrames", 2**31 - 1, 1), positive(image, "SamplesPerPixel", 4, 1)
    bits = positive(image, "BitsAllocated", 64, 8 if "PixelData" not in image else None)
    if bits not in SAMPLE_BITS:
        raise ImageError(f"BitsAllocated is {bits}, expected one of {', '.join(map(str, SAMPLE_BITS))}; send the image again")
    stored = positive(image, "BitsStored", bits, bits)
    high = 0 if bits == 1 or image.get("HighBit") == 0 else positive(image, "HighBit", bits - 1, stored - 1)
    if high < stored - 1 or image.get("PixelRepresentation", 0) not in (0, 1):      # a decoder in C may end the process over such a format
        raise ImageError(f"HighBit, BitsStored {stored}, BitsAllocated {bits} and PixelRepresentation do not go together; send the image again")
    decoded = rows * columns * samples * max(bits // 8, 1) * (frames if frame is None else 1)
    if decoded > max_bytes:
        raise ImageError(f"{frames if frame is None else 1} frames of {rows}x{columns} take {decoded} bytes when decoded, "
                         f"at most {max_bytes} are; send it in parts")
    meta = getattr(image, "file_meta", None)
    syntax = None if meta is None else meta.get("TransferSyntaxUID")
    if not syntax or "PixelData" not in image:
        return
    if not UID(str(syntax)).is_transfer_syntax:
        raise ImageError("the TransferSyntaxUID is none that is known here, so its pixels cannot be read; send the image again uncompressed")
    if not UID(str(syntax)).is_encapsulated:
        return
    for stream in encoded_frames(image.PixelData, frames, frame):
        found = stream_size(stream)
        if found is not None and found != (rows, columns):
            raise ImageError(f"a compressed frame is {found[0]}x{found[1]}, Rows and Columns say {rows}x{columns}; send the image again")


@contextmanager
def panics_as_errors() -> Iterator[None]:
    """Around a decoder: a panic of one written in Rust is no Exception, and would end the thread that it happens in."""
    try:
        yield
    except BaseException as error:
        if type(error).__module__ != "pyo3_runtime":
            raise
        raise RuntimeError("the decoder panicked") from None


def positive(image: Dataset, name: str, most: int, absent: int | None = None) -> int:
    try:
        value = image.get(name)
        if value is None and absent is not None:
            return absent
        number = int(value)  # type: ignore[arg-type]  # whatever it is, a TypeError is caught
    except Exception:       # pydicom converts when asked, and raises many kinds on hostile bytes
        number = 0
    if not 1 <= number <= most:
        raise ImageError(f"{name} is missing or no whole number from 1 to {most}; send the image again")
    return number


def encoded_frames(data: bytes, frames: int, frame: int | None) -> Iterator[bytes]:
    try:
        if frame is None:
            yield from generate_frames(data, number_of_frames=frames)
        else:
            yield get_frame(data, frame, number_of_frames=frames)
    except ImageError:
        raise
    except Exception as error:      # the same bytes, the same many kinds
        raise ImageError(f"the compressed frames cannot be told apart ({type(error).__name__}); send the image again") from None


def stream_size(stream: bytes) -> tuple[int, int] | None:
    """(rows, columns) that a JPEG, JPEG-LS or JPEG 2000 stream is of; None for other coding. Raises ImageError for what no decoder should see."""
    if stream[:2] == b"\xff\xd8":
        return jpeg_size(stream)
    if stream[:4] == b"\xff\x4f\xff\x51":
        return jpeg_2000_size(stream, 0)
    if stream[4:8] == b"jP  ":                  # in the file format's boxes, which DICOM forbids and some send
        sizes, at = set(), stream.find(b"\xff\x4f\xff\x51")
        while at >= 0:
            sizes.add(jpeg_2000_size(stream, at))
            at = stream.find(b"\xff\x4f\xff\x51", at + 1)
        if len(sizes) == 1:
            return sizes.pop()
        raise ImageError("a JPEG 2000 frame says its size not at all or twice; send the image again")
    return None


def jpeg_size(stream: bytes) -> tuple[int, int]:
    """Of the frame header. Progressive coding, which no DICOM transfer syntax in use has, may be scanned without end. Source: ITU-T T.81 B.2.2."""
    at = 2
    while at + 4 <= len(stream):
        if stream[at] != 0xFF:
            break
        marker = stream[at + 1]
        if marker == 0xFF:                      # fill byte
            at += 1
            continue
        length = stream[at + 2] << 8 | stream[at + 3]
        if marker == 0xF8 and stream[at + 4:at + 5] == b"\x04":
            break                               # JPEG-LS beyond 65,535 rows
        if marker in (0xC0, 0xC1, 0xC3, 0xF7) and at + 9 <= len(stream):
            return stream[at + 5] << 8 | stream[at + 6], stream[at + 7] << 8 | stream[at + 8]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            raise ImageError("a JPEG frame is coded progressively, hierarchically or arithmetically; send baseline or lossless JPEG")
        at += 2 + length
    raise ImageError("a JPEG frame does not say its size; send the image again")


def jpeg_2000_size(stream: bytes, at: int) -> tuple[int, int]:
    """Of the SIZ marker segment. Source: ITU-T T.800 A.5.1."""
    if at + 24 > len(stream):
        raise ImageError("a JPEG 2000 frame ends before its size; send the image again")
    right, bottom, left, top = struct.unpack_from(">4L", stream, at + 8)
    return bottom - top, right - left
