"""Gridding against the sum it stands for; the normal operator as a convolution; sensitivities."""
import numpy as np
import pytest
import torch

from data.kspace import fft2c, ifft2c, radial_trajectory, spiral_trajectory
from vision.heads.raw import from_lines
from vision.heads.unrolled import Unrolled, UnrolledConfig, normal, solve
from vision.kspace import Gridding, cartesian_kernel, estimate_sensitivities, total_variation

SIZE = 24


@pytest.fixture
def image():
    rng = np.random.default_rng(0)
    return rng.normal(size=(SIZE, SIZE)) + 1j * rng.normal(size=(SIZE, SIZE))


def test_gridding_gives_the_exact_sum_within_a_half_percent(image):
    points = np.random.default_rng(1).uniform(-SIZE / 2, SIZE / 2 - 1e-6, (150, 2))
    x = np.arange(SIZE) - SIZE // 2
    exact = np.einsum("pi,pj,ij->p", np.exp(-2j * np.pi * points[:, :1] * x / SIZE), np.exp(-2j * np.pi * points[:, 1:] * x / SIZE), image) / SIZE
    assert np.abs(Gridding(points, SIZE).forward(image) - exact).max() < 5e-3 * np.abs(exact).max()


@pytest.mark.parametrize("points", [SIZE * radial_trajectory(20, SIZE), SIZE * spiral_trajectory(6, 90, turns=3)], ids=["radial", "spiral"])
def test_the_adjoint_is_the_adjoint_and_the_kernel_is_the_normal_operator(image, points):
    gridding = Gridding(points, SIZE)
    samples = np.random.default_rng(2).normal(size=len(points)) + 0j
    assert np.vdot(samples, gridding.forward(image)) == pytest.approx(np.vdot(gridding.adjoint(samples), image), rel=1e-5)
    weights = gridding.density()
    kernel = torch.from_numpy(gridding.kernel(weights))[None]
    one_coil = torch.ones(1, 1, SIZE, SIZE, dtype=torch.complex64)
    found = normal(torch.from_numpy(image).to(torch.complex64)[None], one_coil, kernel)[0].numpy()
    wanted = gridding.adjoint(weights * gridding.forward(image))
    assert np.abs(found - wanted).max() < 0.02 * np.abs(wanted).max()


def test_a_smooth_image_keeps_its_scale_through_radial_sampling_and_back():
    line = np.exp(-(((np.arange(SIZE) - SIZE // 2) / 3) ** 2))
    blob = np.outer(line, line)
    gridding = Gridding(SIZE * radial_trajectory(60, SIZE), SIZE)
    back = gridding.adjoint(gridding.density() * gridding.forward(blob.astype(complex)))
    assert np.abs(back)[SIZE // 2, SIZE // 2] == pytest.approx(1, abs=0.15)


def test_the_unrolled_net_begins_as_conjugate_gradients_and_leaves_full_data_as_they_are(image):
    full = torch.from_numpy(cartesian_kernel(np.ones((SIZE, SIZE), bool)))[None]
    start = torch.from_numpy(image).to(torch.complex64)[None]
    net = Unrolled(UnrolledConfig(steps=2, width=4)).eval()
    torch.testing.assert_close(net(start, torch.ones(1, 1, SIZE, SIZE, dtype=torch.complex64), full), start, rtol=1e-3, atol=1e-3)


def test_data_of_any_size_are_rebuilt_by_lines_or_points_that_were_measured():
    """20 x 30 is no multiple of the networks' stride; points given in two dimensions as in one give the same image."""
    torch.manual_seed(0)
    truth = np.random.default_rng(0).normal(size=(20, 30)).astype(complex)
    lines = np.arange(20) % 2 == 0
    lines[6:14] = True
    whole = np.repeat(lines[:, None], 30, 1)
    net, made = Unrolled(UnrolledConfig(steps=2, width=4)).eval(), []
    for unet in net.nets:
        torch.nn.init.normal_(unet.answer.weight, std=0.1)
    for mask in (lines, whole):
        start, coils, kernels = from_lines((fft2c(truth) * whole)[None, None], [mask])
        with torch.no_grad():
            made.append(net(torch.from_numpy(start[0]).to(torch.complex64), torch.from_numpy(coils[:, 0])[None], torch.from_numpy(kernels)))
    assert made[0].shape == (1, 20, 30) and torch.equal(made[0], made[1])


def test_conjugate_gradients_solve_what_spokes_and_coils_measured(image):
    """Sixteen rounds leave a hundredth of the right side; two leave more, so that it is the rounds that do it."""
    gridding = Gridding(SIZE * radial_trajectory(24, SIZE), SIZE)
    kernel = torch.from_numpy(gridding.kernel(gridding.density())).float()[None]
    side = torch.linspace(-1, 1, SIZE)
    coils = torch.stack([torch.cos(side + c).expand(SIZE, SIZE) for c in (-0.5, 0.5)]).to(torch.complex64)[None]
    truth = torch.from_numpy(image).to(torch.complex64)[None]
    start, trust = normal(truth, coils, kernel), torch.tensor(0.02)

    def left(rounds: int) -> float:
        found = solve(start, torch.zeros_like(start), trust, coils, kernel, rounds)
        return float((normal(found, coils, kernel) + trust * found - start).abs().norm() / start.abs().norm())

    assert left(16) < 0.01 < left(2)


def test_estimated_sensitivities_have_unit_length_inside_and_follow_the_coils():
    y, x = np.mgrid[-1:1:32j, -1:1:32j]
    truth = np.stack([np.exp(-((x - c) ** 2)) for c in (-1, 1)]).astype(complex)
    truth /= np.sqrt((np.abs(truth) ** 2).sum(0))
    head = (x**2 + y**2 < 0.6).astype(float)
    found = estimate_sensitivities(fft2c(truth * head), 16)
    assert np.abs(np.abs(found) - np.abs(truth))[:, x**2 + y**2 < 0.3].max() < 0.1


def test_compressed_sensing_is_nearer_to_the_truth_than_zero_filling():
    rng = np.random.default_rng(3)
    truth = np.zeros((32, 32), complex)
    truth[8:22, 10:24] = 1
    mask = rng.uniform(size=32) < 0.4
    mask[12:20] = True
    plane = np.broadcast_to(mask[:, None], (32, 32))
    start = ifft2c(fft2c(truth) * plane)
    made = total_variation(start, np.ones((1, 32, 32), complex), cartesian_kernel(plane), 5e-3)
    assert np.abs(made - truth).mean() < 0.7 * np.abs(start - truth).mean()
