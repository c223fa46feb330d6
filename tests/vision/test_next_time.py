"""Networks of a resting series."""
import numpy as np

from vision.heads.next_time import blurred, cut, follow, match_maps


def planted(seed=0, points=3000, time=120):
    rng = np.random.default_rng(seed)
    truth = np.zeros((2, points), np.float32)
    truth[0, :80], truth[1, 300:420] = 1, 1
    courses = rng.standard_normal((time, 2))
    return truth, courses, (courses @ truth + rng.normal(0, 1.5, (time, points))).astype(np.float32), rng


def test_a_rough_guess_of_the_courses_becomes_the_persons_own_maps():
    truth, courses, series, rng = planted()
    rough = courses + rng.normal(0, 1.0, courses.shape)
    begun = rough.T @ (series - series.mean(0))
    found = follow(rough, series)
    assert match_maps(found, truth).min() > 0.9 > match_maps(begun, truth).max()
    assert found.min() == 0 and np.allclose(found.max(1), 1)


def test_a_course_turned_upside_down_gives_the_same_map():
    _, courses, series, _ = planted(1)
    assert np.allclose(follow(courses, series), follow(-courses, series), atol=1e-3)


def test_what_all_points_share_is_no_network():
    truth, courses, series, rng = planted(2)
    found = follow(courses, series + 3 * rng.standard_normal((len(series), 1)).astype(np.float32))
    assert match_maps(found, truth).min() > 0.9


def test_maps_are_cut_to_their_strong_points_whatever_their_sign():
    maps = np.zeros((1, 100))
    maps[0, :5], maps[0, 50] = -4, 1
    assert np.flatnonzero(cut(maps)[0]).tolist() == [0, 1, 2, 3, 4]


def test_blur_takes_nothing_from_outside_the_brain_and_follows_millimetres():
    inside = np.zeros((3, 20, 20), bool)
    inside[:, 5:15, 5:15] = True
    flat = np.where(inside, 2.0, 500.0)[None].astype(np.float32)
    assert np.allclose(blurred(flat, inside, (6.0, 4.5, 4.5)), 2.0, atol=1e-3)
    noise = np.random.default_rng(0).standard_normal((1, 3, 20, 20)).astype(np.float32)
    assert blurred(noise, inside, (6.0, 2.0, 2.0)).std() < blurred(noise, inside, (6.0, 6.0, 6.0)).std()
