"""Teaching the head CT nets: studies and batches follow from the seed, whoever makes them."""
import numpy as np
import torch

from data.labelled_pictures import LabelledPicture
from vision.train_findings import Draws, RealSlices, Slices, draw_ahead, make_slices, make_study
from vision.transforms import SIZE


def slices(studies: int = 2, count: int = 4) -> Slices:
    rng = np.random.default_rng(0)
    hu = rng.normal(30, 10, (studies * count, SIZE, SIZE)).astype(np.int16)
    hu[:, :20] = -1000
    labels = np.full(hu.shape, 16, np.uint8)
    labels[::2, 60:90, 60:90] = 16 | 4
    return Slices(hu, labels, np.full(studies, count), np.zeros(studies), np.full(studies, 5.0))


def pictures() -> RealSlices:
    rng = np.random.default_rng(1)
    return RealSlices([LabelledPicture(f"p{i}", f"set:{i}", bool(i % 2), rng.integers(0, 255, (64, 64), np.uint8), turned=i > 1) for i in range(4)])


def tensors(batch):
    return [*batch[:4], *batch.real]


def test_a_steps_batch_is_the_same_whoever_draws_it_and_wherever_the_training_begins():
    draws = Draws(slices(), pictures(), 4, seed=3)
    alone = list(draw_ahead(draws, range(0, 4), 1))
    for step, drawn in enumerate(draw_ahead(draws, range(0, 4), 2)):
        assert all(torch.equal(a, b) for a, b in zip(tensors(alone[step]), tensors(drawn), strict=True))
    later = next(draw_ahead(draws, range(2, 4), 1))
    assert all(torch.equal(a, b) for a, b in zip(tensors(alone[2]), tensors(later), strict=True))
    assert not torch.equal(alone[0].images, alone[1].images)


def test_a_study_is_the_same_whichever_process_simulates_it():
    made = make_slices(2, 5, None, slice(0, 1), lambda *a, **k: None, workers=2)
    hu, labels, shift_mm, slice_mm = make_study((5, 1, ("",)))
    np.testing.assert_array_equal(made.hu[made.start[1]:], hu)
    np.testing.assert_array_equal(made.labels[made.start[1]:], labels)
    assert (made.shift_mm[1], made.slice_mm[1]) == (shift_mm, slice_mm) and made.counts[1] == len(hu)
