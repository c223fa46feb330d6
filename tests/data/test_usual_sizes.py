"""People of the simulated population have sizes of a population, whichever head they are drawn from."""
from itertools import pairwise

import numpy as np
import pytest
from scipy import ndimage

from data.simulate import usual_sizes
from data.simulate.anatomy import HIPPOCAMPUS, SYNTHSEG, VENTRICLE, WHITE, read_head
from data.simulate.build import start
from data.simulate.case import STRUCTURES
from data.simulate.recipes import simulate
from data.simulate.scene import Ask
from data.simulate.usual_sizes import SMALL_BRAIN, SMALL_HIPPOCAMPI_ML, brain_share, hippocampi_ml
from data.simulator import LEFT

HIPPOCAMPI, VENTRICLES = STRUCTURES.index("hippocampus"), STRUCTURES.index("ventricles")


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    """The embedded head as a label map, and the same with smaller hippocampi and wider ventricles."""
    head = read_head("")
    x, y, z = np.ogrid[tuple(slice(n) for n in head.tissue.shape)]
    right = head.lateral([x.astype(np.float32), y.astype(np.float32), z.astype(np.float32)]) > 0
    shrunken = head.tissue.copy()
    own = head.tissue == HIPPOCAMPUS
    shrunken[own & ~ndimage.binary_erosion(own)] = WHITE
    shrunken[ndimage.binary_dilation(head.tissue == VENTRICLE, iterations=2) & (head.tissue == WHITE)] = VENTRICLE
    found = []
    for name, tissue in (("usual", head.tissue), ("shrunken", shrunken)):
        labels = np.zeros(tissue.shape, np.int16)
        for label, code in SYNTHSEG.items():
            half = ~right if label in LEFT else right if any(SYNTHSEG[other] == code for other in LEFT) else np.ones_like(right)
            labels[(tissue == code) & half & (labels == 0)] = label
        path = tmp_path_factory.mktemp("heads") / f"{name}.npz"
        np.savez_compressed(path, lab=labels)
        found.append(str(path))
    return found


def shares(case):
    """mL of (hippocampi, ventricles) in a skull of 1500 mL."""
    counts = np.bincount(case.structures.ravel(), minlength=len(STRUCTURES)) * 1500 / (case.sides > 0).sum()
    return counts[HIPPOCAMPI], counts[VENTRICLES]


def people(head, recipe="ad_classes", seeds=range(16)):
    cases = [simulate(recipe, seed, anatomy=head) for seed in seeds]
    return np.array([shares(case) for case in cases]), np.array([case.category for case in cases])


@pytest.fixture(scope="module")
def populations(heads):
    return [people(head) for head in heads]


def test_the_heads_of_this_test_differ_themselves(heads):
    (_, usual, _), (_, shrunken, _) = (usual_sizes.sizes_of(head) for head in heads)
    assert sum(ml for _, ml in shrunken) < 0.7 * sum(ml for _, ml in usual)
    at_rest = usual_sizes.PUSHES_MM.tolist().index(0.0)
    assert usual_sizes.widths_of(heads[1])[at_rest] > 1.1 * usual_sizes.widths_of(heads[0])[at_rest]


def test_people_of_two_heads_have_hippocampi_and_ventricles_of_one_population(populations):
    (usual, _), (shrunken, _) = populations
    assert np.median(shrunken / usual, 0) == pytest.approx([1, 1], abs=0.25)


def test_healthy_elders_have_the_sizes_of_the_table(populations):
    sizes, category = populations[0]
    hippocampi, ventricles = np.median(sizes[category == 0], 0)
    assert hippocampi == pytest.approx(usual_sizes.usual(usual_sizes.HIPPOCAMPI, 74), rel=0.15)
    assert ventricles == pytest.approx(usual_sizes.usual(usual_sizes.VENTRICLES, 74), rel=0.35)


def test_patients_with_alzheimers_disease_lost_a_fifth_or_more_of_their_hippocampi(populations):
    for sizes, category in populations:
        assert np.median(sizes[category == 3, 0]) < 0.85 * np.median(sizes[category == 0, 0])
        assert np.median(sizes[category == 3, 1]) > np.median(sizes[category == 0, 1])


def ventricles_ml(head, age_years, ratio=1.0):
    patient = start(Ask("ad_classes", 3, (64, 96, 96), (2.0, 2.0, 2.0), head, options={"age_years": age_years}), steady=True)
    usual_sizes.grow_usual(patient, ratio)
    patient.scene.settle()
    return (patient.scene.structures() == VENTRICLES).sum() * 0.008


def test_ventricles_are_as_large_as_the_age_and_the_disease_ask_for(heads):
    for head in heads:
        young, old, ill = ventricles_ml(head, 25), ventricles_ml(head, 85), ventricles_ml(head, 85, ratio=1.4)
        assert 1.7 < old / young < 4.5 and 1.15 < ill / old < 1.65          # 3.1 times by the table, and 1.4


def test_a_wider_push_makes_larger_ventricles(heads):
    widths = usual_sizes.widths_of(heads[0])
    assert all(a <= b for a, b in pairwise(widths)) and widths[0] < 0.3 * widths[-1]


def test_hippocampi_are_called_atrophied_where_they_are_small_for_the_head():
    cases = [simulate("ad_classes", seed) for seed in (4, 5)]
    assert [case.findings[0].present for case in cases] == [True, False]
    for case in cases:
        small = hippocampi_ml(case.structures, case.sides) < SMALL_HIPPOCAMPI_ML
        assert case.findings[0].code == "hippocampal_atrophy" and case.findings[0].present == small
    assert 5.5 < SMALL_HIPPOCAMPI_ML < 6.0


def test_a_brain_is_called_atrophied_where_it_is_small_in_its_skull_but_not_beside_ventricles_under_pressure(monkeypatch):
    monkeypatch.setattr("data.simulate.population_cases.SMALL_BRAIN", 0.72)        # the embedded head is a young one
    cases = [simulate("global_atrophy", seed, size=(16, 48, 48), spacing_mm=(8.0, 4.0, 4.0)) for seed in range(16)]
    assert {case.truth["kind"] for case in cases} == {"of the age", "shrunken", "hydrocephalus"}
    for case in cases:
        fluid = np.isin(case.structures, (3, 4)).sum() / (case.structures > 0).sum()
        assert case.truth["brain_share"] == pytest.approx(1 - fluid, abs=1e-3) == round(brain_share(case.structures), 3)
        small = brain_share(case.structures) < 0.72
        assert bool(case.category) == case.findings[0].present == (small and case.truth["kind"] != "hydrocephalus")
    shares = {kind: np.mean([case.truth["brain_share"] for case in cases if case.truth["kind"] == kind]) for kind in ("of the age", "shrunken")}
    assert shares["shrunken"] < shares["of the age"] - 0.05 and any(case.category for case in cases)
    assert 0.6 < SMALL_BRAIN < 0.65
