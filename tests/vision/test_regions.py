"""A head is laid on the atlas by the inside of its skull, and a region is named only where it is clear."""
import numpy as np
import pytest

from data.atlas import CENTRE, REGIONS, skull_mm
from vision.evaluate_findings import region_verdict
from vision.regions import matrix_of, place, region_of

SHAPE, SPACING = (36, 80, 80), np.array((5.0, 2.875, 2.875))        # slices of 5 mm on the grid of the halves
AFFINE = np.diag((2.875, 2.875, 5.0, 1.0))
AFFINE[:3, 3] = -110.0, -100.0, -70.0
POSE = np.array((*np.radians((-15, 6, 4)), *np.log((1.08, 0.96, 1.05)), 6.0, -4.0, 5.0))     # nod, turn, lean, sizes, shift


def patient_points(shape=SHAPE, affine=AFFINE):
    """LPS millimetres of each point of a volume."""
    return np.argwhere(np.ones(shape, bool))[:, ::-1] @ affine[:3, :3].T + affine[:3, 3]


def true_place(point):
    """The pose of the head, which `place` is to find out."""
    return (point * (-1, -1, 1) - POSE[6:]) @ matrix_of(POSE).T + CENTRE


def inside_of(true, affine=AFFINE):
    off = true(patient_points(affine=affine)) - CENTRE
    return (np.linalg.norm(off, axis=1) < skull_mm(off)).reshape(SHAPE)


def blob(true, centre, radius, affine=AFFINE):
    """Mask of a ball in the atlas's millimetres."""
    return (np.linalg.norm(true(patient_points(affine=affine)) - centre, axis=1) < radius).reshape(SHAPE).astype(np.uint8)


@pytest.fixture(scope="module")
def inside():
    return inside_of(true_place)


@pytest.fixture(scope="module")
def placing(inside):
    return place(inside, AFFINE)


def error_mm(placing, inside, affine=AFFINE):
    at = patient_points(affine=affine)[inside.ravel()]
    return float(np.linalg.norm(placing(at) - true_place(at), axis=1).mean())


def test_a_turned_tilted_and_larger_head_is_found_in_thick_slices(inside, placing):
    assert error_mm(placing, inside) < 4


def test_a_vertex_or_a_base_that_is_missing_moves_it_little(inside):
    for cut in (slice(0, 8), slice(-5, None)):
        part = inside.copy()
        part[np.flatnonzero(part.any((1, 2)))[cut]] = False
        assert error_mm(place(part, AFFINE), inside) < 8


def test_slices_from_the_top_down_give_the_same_place(inside):
    turned = AFFINE @ np.array(((1, 0, 0, 0), (0, 1, 0, 0), (0, 0, -1, SHAPE[0] - 1), (0, 0, 0, 1.0)))
    assert error_mm(place(inside[::-1], turned), inside) < 4


def test_a_head_that_is_seen_only_in_part_has_no_place(inside):
    used = np.flatnonzero(inside.any((1, 2)))
    assert place(inside[used[0]:used[-1] - 12], AFFINE) is None
    assert place(np.zeros(SHAPE, bool), AFFINE) is None


def test_what_has_not_the_shape_of_a_head_has_no_place():
    off = np.abs(patient_points() - (5, 15, 15))
    assert place((off < (65, 80, 70)).all(1).reshape(SHAPE), AFFINE) is None                    # a box
    assert place(((off / (95, 110, 95)).sum(1) < 1).reshape(SHAPE), AFFINE) is None             # two pyramids, of the size of a head


def test_what_else_is_taken_for_the_inside_of_a_skull_moves_nothing(inside, placing):
    mouth = inside.copy()
    mouth[6:9, 70:79, 4:14] = True
    np.testing.assert_allclose(place(mouth, AFFINE)(np.eye(3)), placing(np.eye(3)), atol=1e-6)


@pytest.mark.parametrize(("code", "centre", "radius", "said"), [
    ("intraparenchymal_haemorrhage", (30, 45, 15), 14, "frontal"), ("intraparenchymal_haemorrhage", (-25, -65, -38), 14, "cerebellum"),
    ("intraparenchymal_haemorrhage", (50, -22, -14), 12, "temporal"), ("intraparenchymal_haemorrhage", (45, -15, 45), 32, "frontal, parietal"),
    ("subdural_haemorrhage", (-60, 20, 30), 20, "frontal"), ("subdural_haemorrhage", (40, 12, 12), 8, "frontal"),
    ("subdural_haemorrhage", (30, -75, -45), 14, "posterior fossa")])
def test_an_outline_is_given_the_region_that_holds_it_wherever_within_8_mm_it_lies(placing, code, centre, radius, said):
    assert region_of(code, blob(true_place, centre, radius), AFFINE, placing) == said


def test_a_small_outline_on_a_border_is_given_no_region(placing):
    assert region_of("intraparenchymal_haemorrhage", blob(true_place, (40, -18, 48), 7), AFFINE, placing) == ""


def test_two_outlines_far_apart_are_given_no_region_between_them(placing):
    apart = blob(true_place, (40, 35, 10), 12) | blob(true_place, (-40, 35, 10), 12)
    assert region_of("intraparenchymal_haemorrhage", apart, AFFINE, placing) == ""
    speck = blob(true_place, (40, 35, 10), 12) | blob(true_place, (-40, -60, 45), 4)
    assert region_of("intraparenchymal_haemorrhage", speck, AFFINE, placing) == "frontal"


def test_deep_blood_that_has_pushed_the_brain_apart_is_named_by_where_it_began(placing):
    assert region_of("intraparenchymal_haemorrhage", blob(true_place, (24, 4, 2), 22), AFFINE, placing) == "basal ganglia"


def test_an_infarct_pushes_nothing_and_is_named_by_all_of_it(placing):
    around = blob(true_place, (24, 4, 2), 26) & (1 - blob(true_place, (24, 4, 2), 18))
    assert region_of("intraparenchymal_haemorrhage", around, AFFINE, placing) == "basal ganglia"
    assert region_of("acute_infarct", around, AFFINE, placing) == region_of("oedema", around, AFFINE, placing) == ""
    assert region_of("acute_infarct", blob(true_place, (-25, -65, -38), 14), AFFINE, placing) == "cerebellum"


def test_on_mr_it_must_lie_further_from_another_region_to_be_named_than_blood_on_ct(placing):
    near = blob(true_place, (40, -3, 35), 6)
    assert region_of("intraparenchymal_haemorrhage", near, AFFINE, placing) == "frontal"
    assert region_of("mass", near, AFFINE, placing) == ""
    assert region_of("mass", blob(true_place, (30, 45, 15), 14), AFFINE, placing) == "frontal"


def test_a_flair_lesion_has_no_region_as_too_many_were_wrong(placing):
    assert region_of("flair_lesion", blob(true_place, (30, 45, 15), 14), AFFINE, placing) == ""


def test_blood_in_ventricles_and_an_empty_outline_have_no_region(placing):
    frontal = blob(true_place, (30, 45, 15), 14)
    assert region_of("intraventricular_haemorrhage", frontal, AFFINE, placing) == ""
    assert region_of("intraparenchymal_haemorrhage", np.zeros(SHAPE, np.uint8), AFFINE, placing) == ""


@pytest.mark.parametrize(("said", "verdict"), [("", "none named"), ("frontal", "right"), ("frontal, parietal", "right"), ("parietal", "wrong"),
                                               ("frontal, temporal", "wrong"), ("posterior fossa", "wrong")])
def test_a_region_is_right_if_it_holds_most_of_the_blood_and_each_named_one_a_good_part(said, verdict):
    shares = np.zeros(len(REGIONS))
    shares[[REGIONS.index("frontal"), REGIONS.index("parietal")]] = 0.7, 0.3
    assert region_verdict(said, shares) == verdict
