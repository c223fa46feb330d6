"""A pixel format that contradicts itself is refused before any decoder sees it: one in C ends the process over it."""
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.pixels import get_decoder
from pydicom.uid import JPEG2000, JPEG2000Lossless, JPEGLSLossless, JPEGLSNearLossless

from data.dicom_limits import check_pixels, ends_early
from data.errors import ImageError


@pytest.fixture
def image():
    return dcmread(str(get_testdata_file("CT_small.dcm")))      # 16 bits, HighBit 15, signed


@pytest.mark.parametrize(("name", "value"), [("HighBit", 31503), ("HighBit", 3), ("HighBit", 0), ("BitsStored", 17), ("PixelRepresentation", 7)])
def test_a_pixel_format_that_contradicts_itself_is_refused(image, name, value):
    setattr(image, name, value)
    with pytest.raises(ImageError):
        check_pixels(image)


@pytest.mark.parametrize(("name", "value"), [("HighBit", 15), ("HighBit", None), ("BitsStored", None), ("BitsStored", 12)])
def test_a_format_that_can_be_meant_is_taken(image, name, value):
    setattr(image, name, value)
    check_pixels(image)


def test_GDCM_decodes_nothing_that_another_decoder_does():
    assert all(set(get_decoder(syntax).available_plugins) - {"gdcm"} and "gdcm" not in get_decoder(syntax).available_plugins
               for syntax in (JPEG2000, JPEG2000Lossless, JPEGLSLossless, JPEGLSNearLossless))


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small_implicit.dcm", "MR_small_bigendian.dcm", "MR_small_RLE.dcm", "JPEG2000.dcm",
                                  "image_dfl.dcm", "rtplan.dcm", "reportsi.dcm"])
def test_a_file_that_was_cut_off_is_told_from_a_whole_one(name):
    whole = Path(str(get_testdata_file(name))).read_bytes()
    assert not ends_early(whole)
    for size in (200, len(whole) // 2 + 1):
        assert ends_early(whole[:size]), size
