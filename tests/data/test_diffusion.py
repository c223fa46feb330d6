"""Diffusion tensors: fitted, told as FA and MD, and turned back into signals; dipy's real crop as cases."""
import importlib.util

import numpy as np
import pytest

from data.diffusion import SIX, anisotropy, fit, signals_of
from data.head_images import read_dipy

B = np.r_[0.0, np.full(6, 1000.0)]
WAYS = np.concatenate([np.zeros((1, 3)), SIX])


def fitted(values, turn=None):
    """log S0 and a tensor of these eigenvalues (1e-3 mm2/s)."""
    turn = np.eye(3) if turn is None else turn
    d = turn @ np.diag(values) @ turn.T
    return np.array([np.log(200.0), d[0, 0], d[1, 1], d[2, 2], d[0, 1], d[0, 2], d[1, 2]])


def test_six_signals_and_b0_are_one_tensor_and_the_other_way_round():
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    tensor = fitted([1.7, 0.3, 0.2], turn)
    signals = signals_of(tensor, WAYS, B)
    assert signals[0] == pytest.approx(200, rel=1e-5) and (signals[1:] < 200).all()
    np.testing.assert_allclose(fit(signals, WAYS, B), tensor, atol=1e-4)


def test_anisotropy_is_that_of_the_eigenvalues_whichever_way_they_lie():
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    fa, md = anisotropy(np.stack([fitted([0.8, 0.8, 0.8]), fitted([1.7, 0.3, 0.2], turn), fitted([1.0, 0.0, 0.0])], 1))
    np.testing.assert_allclose(fa, [0.0, 0.8352, 1.0], atol=2e-3)
    np.testing.assert_allclose(md, [0.8, 0.7333, 0.3333], atol=2e-3)


@pytest.mark.skipif(importlib.util.find_spec("dipy") is None, reason="dipy ships the crop: pip install --no-deps dipy==1.12.1")
def test_the_real_crop_comes_as_cases_of_six_directions_and_the_truth_of_all():
    cases = read_dipy(None)
    assert len(cases) == 8 and cases[0].channels["DIFFUSION"].shape == (7, 10, 10, 10)
    errors = []
    for case in cases:
        inside, ways = case.masks["brain"] > 0, case.truth["gradients"]
        fa = anisotropy(fit(case.channels["DIFFUSION"], ways[:, :3].astype(float), ways[:, 3].astype(float)))[0]
        errors.append(np.sqrt(((fa - case.channels["FA"])[inside] ** 2).mean()))
    assert 0.2 < np.mean(errors) < 0.28                 # least squares on six noisy signals: 0.264 with other sixes
    assert not np.array_equal(cases[0].channels["DIFFUSION"], cases[1].channels["DIFFUSION"])
