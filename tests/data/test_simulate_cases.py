"""Simulated cases of every recipe: what each holds, determinism, slabs, geometry, errors."""
import dataclasses

import numpy as np
import pytest

from data.errors import SimulatorError
from data.simulate.case import STRUCTURES
from data.simulate.recipes import MAKERS, RECIPES, simulate
from data.simulator import LABELS

TINY = {"ct_haemorrhage": (10, 64, 64), "reconstruction_radial": (1, 32, 32), "reconstruction_spiral": (1, 32, 32), "low_dose_ct": (1, 64, 64),
        "tumour_type": (1, 48, 48)}


def tiny(name, seed=3, **more):
    size = TINY.get(name, (6, 40, 40))
    field = 215.0 / size[1]
    more.setdefault("spacing_mm", (14.0 if name == "ct_haemorrhage" else 8.0 if size[0] > 1 else 5.0, field, field))
    return simulate(name, seed, size=size, **more)


@pytest.fixture(scope="module", params=sorted(MAKERS))
def case(request):
    return tiny(request.param)


def test_a_case_holds_all_that_its_row_promises(case):
    row = RECIPES[case.recipe]
    assert set(case.channels) == set(row.channels) and set(case.masks) == set(row.masks)
    assert set(row.truth) <= set(case.truth)
    shape = case.structures.shape
    for name, pixels in case.channels.items():
        assert pixels.dtype == np.float32 and pixels.shape[-3:] == shape and np.isfinite(pixels).all(), name
        assert pixels.std() > 0, name
    for name, mask in case.masks.items():
        assert mask.dtype == np.uint8 and mask.shape == shape and mask.max() <= 1, name
    assert case.category is None or row.categories[case.category]
    assert case.structures.max() < len(STRUCTURES)
    assert all(f.code in LABELS for f in case.findings)


def test_the_same_arguments_give_the_same_bytes(case):
    again = tiny(case.recipe)
    for group in ("channels", "masks"):
        for name, pixels in getattr(case, group).items():
            np.testing.assert_array_equal(pixels, getattr(again, group)[name], err_msg=name)
    for key, value in case.truth.items():
        np.testing.assert_equal(value, again.truth[key])
    assert case.findings == again.findings


@pytest.mark.parametrize("name", ["flair_lesions", "dwi_infarct"])
def test_another_seed_and_a_held_out_case_are_other_cases(name):
    one, other, held_out = tiny(name), tiny(name, 4), tiny(name, held_out=True)
    channel = RECIPES[name].channels[0]
    assert not np.array_equal(one.channels[channel], other.channels[channel])
    assert not np.array_equal(one.channels[channel], held_out.channels[channel])


@pytest.mark.parametrize("name", ["tumour_segmentation", "white_matter_disease", "microbleeds", "mr_to_ct"])
def test_a_slab_shows_the_same_head_and_lesion_as_the_whole(name):
    whole, slab = tiny(name, 5), tiny(name, 5, slices=(2, 5))
    np.testing.assert_array_equal(whole.structures[2:5], slab.structures)
    for mask in whole.masks:
        if mask in ("bone", "air", "soft"):
            continue
        np.testing.assert_array_equal(whole.masks[mask][2:5], slab.masks[mask], err_msg=mask)
    step = whole.affine[:3, 2] * 2
    np.testing.assert_allclose(slab.affine[:3, 3], whole.affine[:3, 3] + step)


def test_a_slab_of_so_many_slices_lies_around_the_lesion():
    hits = [simulate("tumour_segmentation", s, size=(24, 40, 40), spacing_mm=(5.0, 5.4, 5.4), slices=2).masks["whole"].any() for s in range(6)]
    assert sum(hits) >= 5


def test_a_slab_chosen_by_its_number_of_slices_shows_the_same_head():
    whole = tiny("dwi_infarct", 2)
    slab = tiny("dwi_infarct", 2, slices=2)
    start = round(float((slab.affine[2, 3] - whole.affine[2, 3]) / whole.affine[2, 2]))
    np.testing.assert_array_equal(whole.structures[start : start + 2], slab.structures)
    np.testing.assert_array_equal(whole.masks["infarct"][start : start + 2], slab.masks["infarct"])


def test_left_is_left_in_the_affine():
    """LPS: x grows to the patient's left."""
    case = tiny("structures")
    columns = np.nonzero(case.sides == 2)[2].mean(), np.nonzero(case.sides == 1)[2].mean()
    x = [case.affine[0, 0] * c for c in columns]
    assert x[0] > x[1]


def test_findings_state_the_side_of_their_mask():
    for seed in range(6):
        case = tiny("dwi_infarct", seed)
        found = case.findings[0]
        if found.present and found.side in ("left", "right"):
            right = (case.sides[case.masks["infarct"] > 0] == 1).mean()
            assert (right > 0.5) == (found.side == "right")


def test_an_old_infarct_is_a_hollow_with_free_diffusion_and_a_fresh_one_beside_it_is_another_mask():
    cases = [simulate("chronic_infarct", seed, size=(24, 64, 64), spacing_mm=(5.0, 3.6, 3.6)) for seed in range(12)]
    old = [case for case in cases if case.masks["infarct"].sum() * 0.0648 > 4]
    assert len(old) >= 3 and any(not case.category for case in cases) and {"acute infarct", "tumour"} & {case.truth["other"] for case in cases}
    for case in cases:
        acute, chronic = case.findings
        assert (acute.present, chronic.present) == (case.masks["acute"].any(), case.masks["infarct"].any())
        assert not (case.masks["infarct"] & case.masks["acute"]).any() and chronic.present == bool(case.category)
    for case in old:
        white = (case.structures == 2) & (case.masks["infarct"] == 0) & (case.masks["acute"] == 0)
        inside = case.masks["infarct"] > 0
        assert case.channels["ADC"][inside].mean() > 1.4 * np.median(case.channels["ADC"][white])
        assert case.channels["FLAIR"][inside].min() < 0.5 * np.median(case.channels["FLAIR"][white])


def test_a_volume_is_read_as_the_rest_of_wetread_reads_it():
    case = tiny("mr_to_ct")
    volume = case.volume("CT")
    assert volume.units == "" or volume.modality == "CT"
    assert {v.sequence for v in case.study.volumes} == {"SIMULATED T1", "SIMULATED T2", "SIMULATED CT"}
    assert dataclasses.replace(volume, notes=("x",)).notes == ("x",)


def test_what_cannot_be_simulated_is_named():
    with pytest.raises(SimulatorError, match=r"recipe is 'dwi'.*dwi_infarct"):
        simulate("dwi", 0)
    with pytest.raises(SimulatorError, match="no images"):
        simulate("triage", 0)
    with pytest.raises(SimulatorError, match=r"option 'colour'.*hours"):
        simulate("dwi_infarct", 0, colour=1)
    with pytest.raises(SimulatorError, match="size is"):
        simulate("dwi_infarct", 0, size=(0, 8, 8))
    with pytest.raises(SimulatorError, match="spacing_mm is"):
        simulate("dwi_infarct", 0, spacing_mm=(5.0, -1.0, 1.0))
    with pytest.raises(SimulatorError, match="slices is"):
        simulate("dwi_infarct", 0, slices=(5, 99))
    with pytest.raises(SimulatorError, match="does not exist"):
        simulate("dwi_infarct", 0, anatomy="/nowhere")
    with pytest.raises(SimulatorError, match="seed is -1"):
        simulate("dwi_infarct", -1)
    with pytest.raises(SimulatorError, match="factor is 9"):
        simulate("super_resolution", 0, factor=9)


def test_held_out_heads_are_the_last_four_of_a_folder(tmp_path):
    from data.simulate.anatomy import list_heads

    for i in range(12):
        np.savez(tmp_path / f"{i:02d}.npz", lab=np.zeros((2, 2, 2), np.int16))
    train, test = list_heads(tmp_path, False), list_heads(tmp_path, True)
    assert [p[-6:-4] for p in test] == ["08", "09", "10", "11"] and len(train) == 8 and not set(train) & set(test)
