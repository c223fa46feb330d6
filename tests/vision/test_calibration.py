"""Calibration: what is given a probability keeps it, or the error says how far off it is."""
import json

import numpy as np
import pytest

from tests.vision.heads_material import tiny_examples
from vision import train_head
from vision.calibration import LEAST, binned, calibration, counts_of, error_of
from vision.evaluate_head import main as evaluate
from vision.heads import HEADS
from vision.heads.examples import Example, write_example
from vision.heads.tasks import Spots


def drawn(seed, by=lambda p: p, count=4000):
    rng = np.random.default_rng(seed)
    probability = rng.uniform(0, 1, count)
    return binned(probability, rng.uniform(size=count) < by(probability))


def test_probabilities_that_are_kept_have_no_error_and_boasts_have_theirs():
    assert error_of(drawn(0)) < 0.02
    assert error_of(drawn(0, lambda p: 0.5 * p)) == pytest.approx(0.25, abs=0.02)      # mean of p - p / 2
    assert error_of(binned(np.array([1.0, 1.0]), np.array([True, False]))) == 0.5


def test_the_interval_holds_the_error_and_empty_bins_are_left_out():
    found = calibration(HEADS["flair_lesions"], [drawn(seed, lambda p: 0.8 * p, 300) for seed in range(10)])
    assert found["ece"][1] <= found["ece"][0] <= found["ece"][2] and len(found["bins"]) == 10
    sure = calibration(HEADS["flair_lesions"], [binned(np.full(5, 0.95), np.ones(5, bool))])
    assert sure["bins"] == [[0.95, 1.0, 5]] and sure["of"].startswith("points given 1%")
    assert calibration(HEADS["flair_lesions"], [binned(np.zeros(0), np.zeros(0, bool))]) == {}


def test_points_of_outlines_candidates_and_classes_are_counted_against_their_truth():
    outline = Example({"targets": np.array([[[[1, 0, 0]]]], np.uint8)}, {})
    counts = counts_of(HEADS["flair_lesions"], np.array([[[[0.92, 0.35, LEAST / 2]]]], np.float32), outline)
    assert counts[:, 0].sum() == 2 and counts[9].tolist() == pytest.approx([1, 0.92, 1]) and counts[3].tolist() == pytest.approx([1, 0.35, 0])
    labels = np.array([[[1, 1, 0, 2]]], np.int32)
    spots = Spots(labels.astype(np.float32), labels, [1, 2], [(0, 0, 0), (0, 0, 3)], np.array([0.8, 0.3], np.float32))
    counts = counts_of(HEADS["microbleeds"], spots, Example({"targets": np.array([[[[0, 1, 0, 0]]]], np.uint8)}, {}))
    assert counts[8].tolist() == pytest.approx([1, 0.8, 1]) and counts[3].tolist() == pytest.approx([1, 0.3, 0])
    counts = counts_of(HEADS["ad_stages"], np.array([0.1, 0.6, 0.2, 0.1], np.float32), Example({}, {"category": 2}))
    assert counts[6].tolist() == pytest.approx([1, 0.6, 0])


@pytest.mark.parametrize("name", ["flair_lesions", "ad_volumes"])
def test_an_evaluation_draws_the_plot_and_tells_the_error_in_the_card(name, tmp_path, monkeypatch):
    monkeypatch.setattr(train_head, "EPOCH", 2)
    examples = {split: tiny_examples(HEADS[name], 8, seed) for seed, split in enumerate(("train", "validation"))}
    train_head.main(name, out=tmp_path, epochs=1, examples=examples)
    for split, count in (("train", 20), ("test", 3)):      # as if simulated: the evaluation opens what it finds
        for i, example in enumerate(tiny_examples(HEADS[name], count)):
            write_example(tmp_path / "cases" / f"{split}-0-{i:05d}", example)
    figures = evaluate(name, out=tmp_path, size=3)
    kept = figures["simulated"]["calibration"]
    assert 0 <= kept["ece"][0] <= 1 and sum(n for _, _, n in kept["bins"]) > 0
    card = (tmp_path / "card.md").read_text()
    assert f"calibration of {kept['of']}: ECE" in card and "![calibration](calibration.png)" in card
    assert (tmp_path / "calibration.png").stat().st_size > 1000
    assert json.loads((tmp_path / "figures.json").read_text())["simulated"]["calibration"] == kept
