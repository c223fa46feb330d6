"""What a class was read from: the place that decides is found, and hiding it changes the answer more than hiding any other."""
import numpy as np
import pytest

from data.errors import InputError
from tests.vision.test_apply_head import model, volume
from vision.heads import explain
from vision.heads.clinical import patient_values
from vision.heads.examples import Example
from vision.heads.explain import boxes, head_of, left_out, occlusion

SHAPE = (10, 48, 48)
SPOT = (slice(4, 6), slice(10, 18), slice(28, 36))


def head(bright=3.0):
    _, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    image = ((y**2 + x**2) < 0.8) * (1 + 0.05 * np.random.default_rng(0).normal(size=SHAPE))
    image[SPOT] = bright
    return Example({"inputs": image[None].astype(np.float16)}, {})


def by_the_spot(example):
    """A class that only the brightness of the spot decides."""
    sure = 1 / (1 + np.exp(-3 * (float(np.asarray(example["inputs"], np.float32)[0][SPOT].mean()) - 2)))
    return np.array([1 - sure, sure], np.float32)


def test_the_place_that_decides_is_the_hottest_and_other_places_are_cold():
    likeliest, heat = occlusion(by_the_spot, head())
    assert likeliest == 1 and heat.shape == SHAPE
    where = np.unravel_index(int(heat.argmax()), SHAPE)
    assert all(s.start - 3 <= w < s.stop + 3 for s, w in zip(SPOT, where, strict=True))
    assert heat[SPOT].mean() > 0.2 and heat.max() > 0.3 and np.abs(heat[:, 30:]).max() < 0.01 and np.abs(heat[8:]).max() < 0.01


def test_hiding_the_hottest_points_lowers_the_class_more_than_hiding_as_many_others():
    """Faithful: a tenth of the head by heat against ten random tenths."""
    example = head()
    likeliest, heat = occlusion(by_the_spot, example)
    inside = np.argwhere(head_of(np.asarray(example["inputs"], np.float32)))
    order, count, rng = np.argsort(-heat[tuple(inside.T)]), len(inside) // 10, np.random.default_rng(1)

    def without(points):
        hidden = np.array(example["inputs"], np.float32)
        hidden[0][tuple(points.T)] = 1.0
        return by_the_spot(Example({"inputs": hidden}, {}))[likeliest]

    others = [without(inside[rng.permutation(len(inside))[:count]]) for _ in range(10)]
    assert without(inside[order[:count]]) < min(others)


def test_of_a_thick_stack_some_slices_are_hidden_and_the_map_covers_all():
    many = Example({"inputs": np.repeat(head()["inputs"], 4, axis=1)}, {})
    asked = []

    def answer(example):
        asked.append(example["inputs"].shape[1])
        sure = float(np.asarray(example["inputs"], np.float32)[0, :, SPOT[1], SPOT[2]].max() > 2)
        return np.array([1 - sure, sure], np.float32)

    _, heat = occlusion(answer, many)
    assert heat.shape == (40, 48, 48) and asked[0] == 40 and set(asked[1:]) == {16}


def test_a_class_that_nothing_in_the_image_decides_is_cold_everywhere():
    assert np.abs(occlusion(lambda e: np.array([0.3, 0.7], np.float32), head())[1]).max() == 0


def test_boxes_cover_the_whole_head_and_a_single_picture_has_one_slice():
    for shape in (SHAPE, (1, 40, 40)):
        seen, inside = np.zeros(shape), np.ones(shape, bool)
        for box in boxes(inside):
            seen[box] += 1
        assert seen.min() >= 1
    assert not list(boxes(np.zeros(SHAPE, bool)))


def test_a_head_that_answers_a_class_tells_what_it_was_read_from_on_the_grid_of_the_input(monkeypatch):
    monkeypatch.setattr(explain, "BOXES", (2, 2, 2))
    given = volume((6, 40, 40), modality="CT", units="HU")
    answer = model("ct_classes").apply({"CT": given}, explain=True)
    (name, heat), = answer.heat.items()
    assert name in model("ct_classes").head.outputs and heat.shape == given.pixels.shape and heat.dtype == np.float32
    assert any("falls by at most" in note for note in answer.notes)
    assert not model("ct_classes").apply({"CT": given}).heat


def test_values_are_left_out_one_by_one_and_the_one_that_decides_comes_first():
    def answer(numbers):
        sure = 0.5 - 0.1 * float(patient_values(numbers)[2])        # the hippocampus alone
        return np.array([1 - sure, sure], np.float32)

    likeliest, falls = left_out(answer, {"age_years": 80, "sex": "F", "volumes_ml": {"hippocampus": 4.0, "brain": 1000.0}})
    assert likeliest == 1 and next(iter(falls)) == "hippocampus" and falls["hippocampus"] > 0.1
    assert set(falls) == {"hippocampus", "age_years", "sex", "brain"} and falls["brain"] == 0
    sides = {"hippocampus right": 2.0, "hippocampus left": 2.0, "brain": 1000.0}
    assert left_out(answer, {"age_years": 80, "sex": "F", "volumes_ml": sides})[1]["hippocampus"] == falls["hippocampus"] > 0
    assert left_out(answer, {"volumes_ml": {"hippocampus": 4.0}})[1] == {}
    rows = model("ad_volumes").apply({}, {"age_years": 80, "sex": "F"}, explain=True).measures
    assert {row["left_out"] for row in rows if "left_out" in row} == {"age_years", "sex"}


def test_outlines_and_images_explain_themselves():
    with pytest.raises(InputError, match="--explain"):
        model("flair_lesions").apply({"FLAIR": volume()}, explain=True)
