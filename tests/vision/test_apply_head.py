"""One head on one patient: any size and spacing, geometry kept, and plain refusals."""
from dataclasses import replace

import numpy as np
import pytest
import torch

from data.errors import InputError
from data.records import Volume
from data.simulate.case import STRUCTURES
from data.simulate.recipes import simulate
from tests.vision.heads_material import raw_data, tiny_case
from vision.apply_head import HeadModel, longest_mm, measure
from vision.heads import HEADS
from vision.heads.infer import TILE, planes, resample, stack_neighbours, tiled, uncertainty
from vision.heads.tasks import TASKS
from vision.heads.unet import fused

CONFIG = {"version": "x-1", "spacing_mm": [4.0, 2.0, 2.0]}


def model(name, seed=0):
    torch.manual_seed(seed)
    return HeadModel(HEADS[name], TASKS[HEADS[name].task].build(HEADS[name]).eval(), CONFIG)


def bright(name="flair_lesions", threshold=1.6):
    """A segmenter that calls bright what is brighter than `threshold` times the head's median: its answer is known."""
    made = model(name)

    class Bright(torch.nn.Module):
        config = made.net.config

        def forward(self, image):
            return (image[:, 1:2] - threshold) * 50
    made.net = Bright()
    return made


def volume(shape=(6, 40, 40), spacing=(4.0, 2.0, 2.0), **changes):
    rng = np.random.default_rng(0)
    z, y, x = np.meshgrid(*(np.arange(n) * s - n * s / 2 for n, s in zip(shape, spacing, strict=True)), indexing="ij")
    pixels = (y**2 + x**2 < 35**2) * (100 + rng.normal(0, 2, shape)) + 150 * ((y - 10) ** 2 + x**2 + z**2 < 9**2)
    affine = np.diag([spacing[2], spacing[1], spacing[0], 1.0])
    return replace(Volume(pixels.astype(np.float32), spacing, affine, modality="MR"), **changes)


def test_the_same_ball_measures_alike_at_any_spacing():
    """4/3 pi 9^3 mm3 is 3.05 mL, 18 mm across; outlines come back on the grid that came in."""
    for shape, spacing in (((6, 40, 40), (4.0, 2.0, 2.0)), ((24, 80, 80), (1.0, 1.0, 1.0)), ((12, 33, 50), (2.0, 2.4, 1.6))):
        answer = bright().apply({"FLAIR": volume(shape, spacing)})
        row = answer.measures[0]
        assert answer.masks["lesion"].shape == shape
        assert row["volume_ml"] == pytest.approx(3.05, rel=0.25) and row["longest_mm"] == pytest.approx(18, abs=3) and row["count"] == 1


def test_a_volume_whose_tissues_tell_its_class_is_read_at_the_spacing_taught_in_all_three_axes():
    """1 mm slices are averaged, 5 mm slices are divided: tissues would weigh otherwise in thicker ones. Another plane, or no spacing, is refused."""
    made, seen = model("huntington_pattern"), []
    made.net.spread.fill_(100)                                  # nothing is far from usual
    made.net.unet.register_forward_pre_hook(lambda module, given: seen.append(tuple(given[0].shape[2:])))
    for shape, spacing in (((104, 104, 104), (1.0, 1.0, 1.0)), ((21, 52, 52), (5.0, 2.0, 2.0))):
        seen.clear()
        answer = made.apply({"T1": volume(shape, spacing)})
        told, outlined = answer.measures[:3], answer.measures[3:]
        assert sum(m["probability"] for m in told) == pytest.approx(1, abs=0.01)
        assert [m["output"] for m in outlined] == list(answer.masks) == list(STRUCTURES[1:])
        assert all(mask.shape == shape for mask in answer.masks.values())
        assert seen == 2 * [(32, 56, 56)]                       # whole, up to a multiple of 8, and its mirror image
    heat = made.apply({"T1": volume((104, 104, 104), (1.0, 1.0, 1.0))}, explain=True).heat
    assert next(iter(heat.values())).shape == (104, 104, 104)
    for changes, words in (({"orientation": "sagittal"}, "expected axial"), ({"spacing_mm": None}, "no spacing"),
                           ({"spacing_mm": (7.0, 2.0, 2.0)}, "7.0 mm"), ({}, "whole head")):
        with pytest.raises(InputError, match=words):
            made.apply({"T1": volume(**changes)})
    made.net.spread.fill_(0.1)
    with pytest.raises(InputError, match="unlike"):
        made.apply({"T1": volume((52, 52, 52), (2.0, 2.0, 2.0))})


@pytest.mark.parametrize(("changes", "words"), [
    ({"modality": "CT", "units": "HU"}, "expected MR; give "), ({"orientation": "coronal"}, "expected axial"), ({"spacing_mm": None}, "no spacing"),
    ({"pixels": np.full((6, 40, 40), np.nan, np.float32)}, "NaN"), ({"pixels": np.zeros((6, 40, 40), np.float32)}, "empty"),
    ({"pixels": np.full((6, 40, 40), 7.0, np.float32)}, "empty"), ({"spacing_mm": (20.0, 2.0, 2.0)}, "20.0 mm")])
def test_what_cannot_be_read_is_refused_with_its_reason(changes, words):
    with pytest.raises(InputError, match=words):
        bright().apply({"FLAIR": volume(**changes)})


def test_mr_for_a_ct_head_and_other_channels_than_the_rows_are_refused():
    with pytest.raises(InputError, match="expected CT in HU"):
        model("perihaematomal_oedema").apply({"CT": volume()})
    with pytest.raises(InputError, match="expected DWI, ADC"):
        model("dwi_infarct").apply({"DWI": volume()})
    with pytest.raises(InputError, match="one grid"):
        model("dwi_infarct").apply({"DWI": volume(), "ADC": volume((6, 20, 20), (4.0, 4.0, 4.0))})


def test_a_head_of_pictures_answers_one_picture_and_refuses_a_volume():
    measures = model("tumour_type").apply({"MR": volume((1, 40, 40))}).measures
    assert sum(row["probability"] for row in measures) == pytest.approx(1, abs=0.01)
    with pytest.raises(InputError, match="6 slices, expected one picture"):
        model("tumour_type").apply({"MR": volume()})


def test_series_of_one_shape_that_lie_apart_are_not_taken_for_one_grid():
    """The same matrix, but 6 mm further up: outlines would lie on the wrong slice."""
    moved = volume().affine.copy()
    moved[2, 3] += 6
    with pytest.raises(InputError, match=r"ADC lies up to 6 mm away from DWI"):
        model("dwi_infarct").apply({"DWI": volume(), "ADC": volume(affine=moved)})
    moved[2, 3] -= 5.9
    model("dwi_infarct").apply({"DWI": volume(), "ADC": volume(affine=moved)})


def test_an_oblique_series_is_read_in_its_own_planes_and_thick_slices_are_said_to_be_thick():
    notes = bright().apply({"FLAIR": volume(spacing=(7.0, 2.0, 2.0), orientation="oblique")}).notes
    assert any("oblique" in n for n in notes) and any("7.0 mm" in n for n in notes)


def test_tiles_give_what_the_whole_gives():
    """A net that looks at each point alone: tiles must leave no seam; one that looks around leaves none away from the edges of the tiles."""
    image = torch.rand(1, 1, TILE + 90, TILE + 30)
    torch.testing.assert_close(tiled(lambda x: x * 2 + 1, image, 16), image * 2 + 1)


@pytest.mark.parametrize("name, shape", [("flair_lesions", (2, 3, 32, 32)), ("dwi_infarct", (2, 6, 32, 32)), ("ct_classes", (2, 4, 2, 32, 32)),
                                         ("structures", (2, 3, 32, 32))])
def test_a_net_with_its_norms_folded_in_answers_alike(name, shape):
    net = TASKS[HEADS[name].task].build(HEADS[name]).eval()
    for module in net.modules():
        if hasattr(module, "running_var"):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.3, 3)
    image = torch.rand(*shape)

    def answer():
        found = net(image)
        return found.logits if hasattr(found, "logits") else found

    with torch.inference_mode():
        before = answer()
        fused(net)
        torch.testing.assert_close(answer(), before, rtol=1e-4, atol=1e-5)
    assert not any(isinstance(m, (torch.nn.BatchNorm2d, torch.nn.BatchNorm3d)) for m in net.modules())


def test_planes_of_any_size_come_back_in_their_size_and_flips_make_mirror_images_alike():
    head, net = HEADS["t1_to_t2"], model("t1_to_t2").net
    inputs = np.random.default_rng(0).uniform(0, 1, (1, 3, 37, 50)).astype(np.float32)
    answer = planes(net, inputs, net.config.stride, flips=True)
    assert answer.shape == (len(head.outputs), 3, 37, 50)


def test_neighbours_stand_beside_each_slice_channel_by_channel():
    stack = stack_neighbours(torch.arange(6.0).reshape(2, 3, 1, 1))
    assert stack[:, :, 0, 0].tolist() == [[0, 0, 1, 3, 3, 4], [0, 1, 2, 3, 4, 5], [1, 2, 2, 4, 5, 5]]


def test_uncertainty_is_the_same_for_the_same_seed_and_leaves_the_net_as_it_was():
    net, inputs = model("flair_lesions").net, np.random.default_rng(0).uniform(0, 1, (1, 2, 32, 32)).astype(np.float32)
    first, again = (uncertainty(net, inputs, 16, finish=torch.sigmoid, draws=3)[1] for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert first.max() > 0 and not net.training and not any(m.training for m in net.modules())


def test_resampling_keeps_the_place_of_things():
    image = np.zeros((1, 4, 40, 40), np.float32)
    image[0, :, 8:16, 20:36] = 1
    back = resample(resample(image, (4, 20, 20)), (4, 40, 40))
    assert np.abs((back > 0.5) ^ (image > 0.5)).mean() < 0.02


def test_measures_are_of_the_mask():
    mask = np.zeros((4, 20, 20), np.uint8)
    mask[1, 2:4, 2:12] = 1
    mask[3, 15, 15] = 1
    row = measure("lesion", mask, (5.0, 1.0, 1.0), 0.5)
    assert row == {"output": "lesion", "volume_ml": 0.1, "count": 2, "longest_mm": pytest.approx(9.1, abs=0.1), "probability": 0.5}
    assert longest_mm(np.zeros((2, 4, 4), np.uint8), (1.0, 1.0, 1.0)) == 0.0


def test_volumes_and_raw_data_are_answered_without_images():
    stages = model("ad_volumes").apply({}, {"age_years": 80, "sex": "F", "volumes_ml": {"hippocampus": 5.0}})
    assert sum(row["probability"] for row in stages.measures) == pytest.approx(1, abs=0.01)
    case = tiny_case(HEADS["reconstruction_cartesian"], 0)
    made = model("reconstruction_cartesian").apply({}, {k: case.truth[k] for k in ("kspace", "mask_4x")})
    assert made.images["4x"].shape == (4, 32, 32)
    radial = raw_data("reconstruction_radial", case.channels["TARGET"], np.ones((2, 1, 32, 32)) / np.sqrt(2), 32)
    assert model("reconstruction_radial").apply({}, {**radial, "size": 32}).images["radial"].shape == (4, 32, 32)


@pytest.mark.parametrize(("numbers", "words"), [
    ({}, "kspace"), ({"kspace": np.ones((2, 3, 8, 8))}, "complex"), ({"kspace": np.ones((2, 3, 8, 8), complex)}, "mask_4x"),
    ({"kspace": np.ones((2, 3, 64), complex)}, "trajectory"),
    ({"kspace": np.full((2, 1, 8, 8), np.nan + 0j), "mask_4x": np.ones(8)}, "no numbers")])
def test_raw_data_that_cannot_be_read_is_refused(numbers, words):
    with pytest.raises(InputError, match=words):
        model("reconstruction_cartesian").apply({}, numbers)


def test_no_value_at_all_is_no_patient():
    with pytest.raises(InputError, match="none of"):
        model("ad_volumes").apply({}, {})
    with pytest.raises(InputError, match="age_years is old"):
        model("ad_volumes").apply({}, {"age_years": "old"})


def test_a_class_from_volumes_without_the_hippocampi_says_that_it_is_no_better_than_chance():
    made, volumes = model("ad_volumes"), {"intracranial": 1500.0, "brain": 1000.0}
    assert "no better than chance" in " ".join(made.apply({}, {"age_years": 70, "volumes_ml": volumes}).notes)
    assert not made.apply({}, {"age_years": 70, "volumes_ml": volumes | {"hippocampus right": 3.0, "hippocampus left": 3.1}}).notes


@pytest.mark.parametrize(("numbers", "words"), [
    ({"volumes_ml": {"hippocampus right": 2100.0, "hippocampus left": 2200.0}}, "give mL"), ({"volumes_ml": {"hippocampus": 0}}, "give mL"),
    ({"volumes_ml": {"hippocampus": float("nan")}}, "give mL"), ({"volumes_ml": [1, 2]}, "object"), ({"volumes_ml": {"ICV": 1500}}, "ICV"),
    ({"age_years": 700}, "years"), ({"sex": "X"}, "F or M")])
def test_values_that_no_patient_has_are_refused(numbers, words):
    with pytest.raises(InputError, match=words):
        model("ad_volumes").apply({}, {"age_years": 70, **numbers})


def test_a_pattern_of_a_group_says_with_each_answer_that_it_is_no_evidence_in_one_person():
    for name in ("schizophrenia_pattern", "huntington_pattern"):
        made = model(name)
        made.net.spread.fill_(100)
        assert any("no evidence in one person" in note for note in made.apply({"T1": volume((52, 52, 52), (2.0, 2.0, 2.0))}).notes)
    assert not HEADS["t1_structures"].caveat


def test_the_structures_of_a_t1_are_outlined_of_a_whole_head_alone_and_nothing_where_one_of_them_is_not_found():
    shipped, head = HeadModel.load("t1_structures"), simulate("ad_classes", 5).channels["T1"]

    def read(pixels):
        return shipped.apply({"T1": Volume(pixels.astype(np.float32), (2.0, 2.0, 2.0), np.diag([2.0, 2.0, 2.0, 1.0]), modality="MR")})

    found = read(head)
    assert list(found.masks) == list(STRUCTURES[1:]) and all(mask.shape == head.shape and mask.any() for mask in found.masks.values())
    with pytest.raises(InputError, match="whole head, 100 mm or more"):
        read(head[:40])
    with pytest.raises(InputError, match="hippocampus was found in T1, expected a T1 of a whole head"):
        read(np.where(np.arange(len(head))[:, None, None] > 40, head, 0))


def test_the_shipped_head_of_tissues_reads_a_whole_head_and_refuses_a_part_of_one_and_what_is_none():
    """Halves are padded with air to the extent of a head, so that what they hold is what is refused."""
    shipped, head = HeadModel.load("huntington_pattern"), simulate("huntington_pattern", 4711).channels["T1"]

    def read(pixels):
        return shipped.apply({"T1": Volume(pixels.astype(np.float32), (2.0, 2.0, 2.0), np.diag([2.0, 2.0, 2.0, 1.0]), modality="MR")})

    assert len(read(head).measures) == 3 + len(STRUCTURES) - 1
    half, upper = len(head) // 2, head.copy()
    upper[:half] = 0
    lower = head.copy()
    lower[half:] = 0
    for pixels in (upper, lower, np.random.default_rng(0).uniform(0, 2, head.shape)):
        with pytest.raises(InputError, match="unlike"):
            read(pixels)
    with pytest.raises(InputError, match="whole head"):
        read(head[:half])


def test_a_series_that_calls_itself_another_sequence_is_read_with_a_remark():
    flair = volume()
    quiet, told = (model("flair_lesions").apply({"FLAIR": replace(flair, sequence=name, modality="MR")}).notes for name in ("AX FLAIR", "AX T1"))
    assert any("given as FLAIR calls itself T1" in note for note in told) and not any("calls itself" in note for note in quiet)
