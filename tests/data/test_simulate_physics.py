"""Simulated contrast is the textbook's: which tissue is bright on which sequence, lesions by their age, raw data that adds up."""
import numpy as np
import pytest

from data.errors import SimulatorError
from data.kspace import (
    cartesian_mask,
    coil_sensitivities,
    combine,
    fft2c,
    grid_back,
    ifft2c,
    radial_trajectory,
    sample,
    sampling_density,
    spiral_trajectory,
)
from data.simulate.anatomy import BONE, CORTEX, CSF, FAT, VENTRICLE, WHITE
from data.simulate.ct_cases import WATER_PER_MM, filtered_back, project
from data.simulate.recipes import simulate
from data.simulate.signal import sequence
from data.simulate.stroke import age_tissue
from data.simulate.surgery import with_metal
from data.simulate.tissue import ENHANCING, INFARCT, LEUKOARAIOSIS, OEDEMA, draw_tissues

GRID = {"size": (8, 56, 56), "spacing_mm": (10.0, 3.9, 3.9)}


@pytest.fixture
def tissues():
    return draw_tissues(np.random.default_rng(0), spread=0.3)


@pytest.mark.parametrize("seed", range(5))
def test_contrast_of_each_sequence(tissues, seed):
    s = {name: sequence(name, tissues, np.random.default_rng(seed)) for name in ("T1", "T2", "FLAIR", "T1CE", "DWI", "PD")}
    assert s["T1"][WHITE] > s["T1"][CORTEX] > s["T1"][CSF]
    assert s["T2"][CSF] > s["T2"][CORTEX] > s["T2"][WHITE]
    assert s["FLAIR"][CSF] < 0.3 * s["FLAIR"][WHITE]
    assert min(s["FLAIR"][[OEDEMA, LEUKOARAIOSIS]]) > s["FLAIR"][CORTEX]
    assert s["T1CE"][ENHANCING] > 1.15 * s["T1CE"][WHITE] and s["T1"][ENHANCING] < s["T1"][WHITE]
    assert s["T1"][FAT] > s["T1"][WHITE]
    assert s["DWI"][VENTRICLE] < s["DWI"][WHITE]
    assert s["T2"][BONE] < 0.1


def test_an_infarct_ages(tissues):
    adc, t2, hu = [], [], []
    for hours in (2, 24, 24 * 9, 24 * 60):
        age_tissue(tissues, hours, 1.0)
        adc.append(tissues.adc[INFARCT] / tissues.adc[CORTEX])
        t2.append(tissues.t2[INFARCT] / tissues.t2[CORTEX])
        hu.append(tissues.hu[INFARCT] - tissues.hu[CORTEX])
    assert adc[0] < 0.75 and adc[1] < 0.65 and 0.6 < adc[2] < 1.1 and adc[3] > 1.4
    assert t2[0] < 1.15 < t2[1]
    assert hu[0] > -4 and hu[1] < -8


def test_acute_infarct_is_bright_on_dwi_and_dark_on_adc():
    for seed in range(40):
        case = simulate("dwi_infarct", seed, hours=20, **GRID)
        mask = case.masks["infarct"] > 0
        if mask.sum() > 60:
            break
    brain = np.isin(case.structures, (1, 2)) & ~mask
    assert np.median(case.channels["DWI"][mask]) > 1.3 * np.median(case.channels["DWI"][brain])
    assert np.median(case.channels["ADC"][mask]) < 0.75 * np.median(case.channels["ADC"][brain])
    assert 600 < np.median(case.channels["ADC"][brain]) < 1000


def test_treatment_saves_tissue_and_the_core_dies_in_any_case():
    for seed in range(4):
        case = simulate("final_infarct", seed, **GRID)
        core, treated, untreated = (case.masks[n] for n in ("core", "final_treated", "final_untreated"))
        assert not (core & ~treated & 1).any() and not (treated & ~untreated & 1).any()
        np.testing.assert_array_equal(case.masks["final"], treated if case.truth["treated"] else untreated)
        if untreated.any():
            assert np.median(case.channels["TMAX"][untreated > 0]) > np.median(case.channels["TMAX"][case.structures == 1]) + 1


def test_tumour_masks_are_nested_and_the_ring_enhances():
    case = simulate("tumour_segmentation", 0, kind="metastases", size=(16, 72, 72), spacing_mm=(6.0, 3.0, 3.0))
    whole, core, enhancing = (case.masks[n] for n in ("whole", "core", "enhancing"))
    assert enhancing.any() and (core | whole == whole).all() and (enhancing | core == core).all()
    gain = case.channels["T1CE"][enhancing > 0].mean() / case.channels["T1"][enhancing > 0].mean()
    assert gain > 1.15


def test_ct_has_hounsfield_units():
    case = simulate("ct_oedema", 1, **GRID)
    pixels = case.channels["CT"]
    blood, oedema, white = (case.masks["intraparenchymal"] > 0, case.masks["oedema"] > 0, case.structures == 2)
    assert np.median(pixels[blood]) > 45 and np.median(pixels[white & ~blood & ~oedema]) == pytest.approx(28, abs=7)
    assert np.median(pixels[oedema]) < np.median(pixels[white & ~blood & ~oedema]) if oedema.sum() > 30 else True
    assert pixels.min() < -900 and np.quantile(pixels, 0.99) > 300


def test_low_dose_is_noisier_by_the_root_of_the_dose():
    case = simulate("low_dose_ct", 2, size=(1, 128, 128), spacing_mm=(5.0, 1.8, 1.8))
    inside = case.structures > 0
    noise = {n: (case.channels[n] - case.channels["NOISELESS"])[inside].std() for n in ("LOW_DOSE", "FULL_DOSE")}
    assert noise["LOW_DOSE"] / noise["FULL_DOSE"] == pytest.approx(case.truth["dose_share"] ** -0.5, rel=0.25)
    assert 1 < noise["FULL_DOSE"] < 12


def test_six_asl_repetitions_are_nearer_to_the_truth_than_one():
    case = simulate("asl_boost", 1, **GRID)
    truth, inside = case.channels["CBF"], case.channels["CBF"] > 5
    one, six = (np.sqrt(((case.channels[n] - truth)[inside] ** 2).mean()) for n in ("ASL", "ASL_SIX"))
    assert six < 0.5 * one


def test_a_tensor_fit_of_many_directions_finds_the_true_fa():
    case = simulate("dti_few_directions", 1, directions=60, **GRID)
    gradients, series = case.truth["gradients"], np.maximum(case.channels["DIFFUSION"], 1e-3)
    g, inside = gradients[1:, :3], (case.structures == 2) & (case.masks["brain"] > 0)
    design = np.stack([g[:, 0]**2, g[:, 1]**2, g[:, 2]**2, 2*g[:, 0]*g[:, 1], 2*g[:, 0]*g[:, 2], 2*g[:, 1]*g[:, 2]], 1) * case.truth["b_s_mm2"]
    logs = -np.log(series[1:, inside] / series[0, inside])
    xx, yy, zz, xy, xz, yz = np.linalg.lstsq(design, logs, rcond=None)[0]
    md = (xx + yy + zz) / 3
    norm = xx**2 + yy**2 + zz**2 + 2 * (xy**2 + xz**2 + yz**2)
    fa = np.sqrt(np.clip(1.5 * (norm - 3 * md**2) / norm, 0, 1))
    assert np.sqrt(((fa - case.channels["FA"][inside]) ** 2).mean()) < 0.12
    assert np.corrcoef(fa, case.channels["FA"][inside])[0, 1] > 0.8


def test_bold_carries_the_networks_time_courses():
    case = simulate("fmri_networks", 1, size=(8, 32, 32), spacing_mm=(14.0, 6.8, 6.8), time=80)
    series, maps, courses = case.channels["BOLD"], case.truth["maps"], case.truth["time_courses"]
    assert maps.shape == (6, *series.shape[1:]) and courses.shape == (6, 80)
    for k, course in enumerate(courses):
        inside = maps[k] > 0.6 * maps[k].max()
        if inside.sum() >= 5 and k != 4:
            mean = series[:, inside].mean(1)
            assert np.corrcoef(mean - np.poly1d(np.polyfit(np.arange(80), mean, 1))(np.arange(80)), course)[0, 1] > 0.4


def test_kspace_of_all_coils_gives_the_target_back():
    case = simulate("reconstruction_cartesian", 1, size=(2, 48, 48), spacing_mm=(5.0, 4.5, 4.5), coils=4)
    image = np.abs(combine(ifft2c(case.truth["kspace"]), case.truth["sensitivities"]))
    np.testing.assert_allclose(image, case.channels["TARGET"], atol=1e-4)
    np.testing.assert_allclose((np.abs(case.truth["sensitivities"]) ** 2).sum(0), 1, atol=1e-4)
    for name, factor in (("mask_4x", 4), ("mask_8x", 8)):
        assert case.truth[name].sum() == pytest.approx(48 / factor, abs=1) and case.truth[name][24] == 1


def test_the_non_uniform_transform_agrees_with_the_fourier_transform_on_its_grid():
    image = np.random.default_rng(0).standard_normal((16, 12))
    grid = np.stack(np.meshgrid((np.arange(16) - 8) / 16, (np.arange(12) - 6) / 12, indexing="ij"), -1).reshape(-1, 2)
    np.testing.assert_allclose(sample(image, grid).reshape(16, 12), fft2c(image), atol=1e-5)
    np.testing.assert_allclose(grid_back(sample(image, grid), grid, np.ones(len(grid)), (16, 12)), image, atol=1e-5)
    np.testing.assert_allclose(ifft2c(fft2c(image)), image, atol=1e-5)


@pytest.mark.parametrize("trajectory", [radial_trajectory(80, 48), spiral_trajectory(24, 400, turns=4)])
def test_a_fully_sampled_trajectory_grids_back_to_the_image(trajectory):
    y, x = np.mgrid[:48, :48] - 24
    image = np.exp(-(x**2 + y**2) / 90) + 0.5 * np.exp(-((x - 8) ** 2 + (y + 5) ** 2) / 12)
    back = grid_back(sample(image, trajectory), trajectory, sampling_density(trajectory, (48, 48)), (48, 48)).real
    assert np.sqrt(((back - image) ** 2).mean() / (image**2).mean()) < 0.15
    assert np.abs(trajectory).max() <= 0.5


def test_the_mask_keeps_the_centre_and_the_share_asked_for():
    mask = cartesian_mask(160, 4, np.random.default_rng(1))
    assert mask.sum() == 40 and mask[74:86].all()
    assert coil_sensitivities(np.random.default_rng(1), 3, (1, 8, 8)).shape == (3, 1, 8, 8)


def test_a_childs_head_is_smaller_and_a_newborns_white_matter_is_brighter_than_grey_on_t2():
    def look(age_years):
        case = simulate("hydrocephalus", 3, size=(24, 64, 64), spacing_mm=(6.0, 3.6, 3.6), age_years=age_years)
        t2 = case.channels["T2"]
        return (case.sides > 0).sum(), t2[case.structures == 2].mean() / t2[case.structures == 1].mean()

    (newborn, unripe), (child, _), (adult, ripe) = look(0.1), look(2), look(40)
    assert 0.25 < newborn / adult < 0.5 and 0.7 < child / adult < 0.95
    assert ripe < 1 < unripe
    with pytest.raises(SimulatorError, match="age_years is 300"):
        look(300)


def operated():
    for seed in range(40):
        case = simulate("post_operative", seed, **GRID)
        if case.masks["metal"].any() and case.masks["air"].any():
            return case
    raise AssertionError("no operated head with metal and air among 40")


def test_an_operated_head_has_a_gap_in_its_bone_air_in_front_of_fluid_and_streaks_around_metal():
    case = operated()
    ct, masks = case.channels["CT"], case.masks
    assert ct[masks["metal"] > 0].max() > 2000
    assert ct[masks["air"] > 0].mean() < -300
    rows = [np.nonzero(masks[name])[1].mean() for name in ("air", "cavity")]
    assert rows[0] < rows[1]                                    # the patient lies on the back: air is in front
    brain = (case.structures == 2) & (masks["cavity"] == 0)
    with_metal = masks["metal"].sum((1, 2)) > 0
    spread = [ct[k][brain[k]].std() for k in range(len(ct)) if brain[k].sum() > 200 and with_metal[k]]
    calm = [ct[k][brain[k]].std() for k in range(len(ct)) if brain[k].sum() > 200 and not with_metal[k]]
    assert not spread or np.max(spread) > np.median(calm)
    assert {f.code: f.present for f in case.findings} == {"postoperative_change": True, "pneumocephalus": True}


def test_metal_does_nothing_to_slices_without_it():
    clean = np.zeros((2, 40, 40), np.float32)
    metal = np.zeros_like(clean)
    metal[0, 20, 20] = 1
    made = with_metal(clean, metal, 2.0, project, filtered_back, WATER_PER_MM, 0)
    assert np.array_equal(made[1], clean[1]) and made[0, 20, 20] > 3000
    assert made[0][:, [0, -1]].std() > 0
