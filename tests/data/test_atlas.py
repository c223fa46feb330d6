"""Places known by their MNI millimetres lie in the regions that anatomy books put them in."""
import numpy as np
import pytest

from data.atlas import CENTRE, NONE, REGIONS, regions_at, skull_mm
from nlp.report_words import regions_in

# millimetres to the right, front and top
PLACES = [("frontal", (8, 60, 10)), ("frontal", (45, 25, 15)), ("frontal", (25, 0, 62)), ("parietal", (45, -50, 48)), ("parietal", (10, -60, 50)),
          ("temporal", (58, -20, -12)), ("temporal", (40, 12, -30)), ("occipital", (12, -88, 8)), ("occipital", (35, -82, -4)),
          ("basal ganglia", (26, 4, 2)), ("basal ganglia", (13, 12, 9)), ("thalamus", (11, -18, 8)), ("cerebellum", (25, -62, -38)),
          ("cerebellum", (0, -62, -25)), ("brainstem", (0, -26, -32))]


@pytest.mark.parametrize(("name", "place"), PLACES)
def test_a_known_place_lies_in_its_region_in_both_halves(name, place):
    right = np.array(place, float)
    assert [REGIONS[k] for k in regions_at(np.array([right, right * (-1, 1, 1)]))] == [name, name]


def test_white_matter_between_nuclei_and_cortex_is_given_to_neither():
    assert regions_at(np.array([(37.0, 5.0, 18.0)])) == NONE


def test_what_lies_on_the_brain_lies_over_a_lobe_even_above_the_nuclei():
    assert REGIONS[regions_at(np.array([(34.0, 24.0, 16.0)]), deep=False)[0]] == "frontal"


def test_blood_of_the_basal_cisterns_lies_over_no_lobe():
    assert regions_at(np.array([(0.0, -2.0, -18.0)]), deep=False) == NONE


@pytest.mark.parametrize("name", REGIONS)
def test_each_region_is_one_that_the_re_reader_knows_by_the_same_name(name):
    assert regions_in(name, (0, len(name))) == [name]


def test_the_skull_has_the_length_width_and_height_of_the_mni_head_with_its_thin_fluid():
    length, width, height = (skull_mm(np.array(ways, float)) for ways in (((0, 1, 0), (0, -1, 0)), ((1, 0, 0), (-1, 0, 0)), ((0, 0, 1),)))
    assert (length.sum(), width.sum(), height[0] + CENTRE[2]) == pytest.approx((177, 140, 81), abs=6)
