"""Figures of the heads as they are kept in files."""
import json
from pathlib import Path

import numpy as np
import pytest

from data.model_files import MODELS
from vision.evaluate_head import accuracy_of_three, summary, words
from vision.heads import HEADS
from vision.metrics import with_interval


def mean(values):
    return float(np.mean(values)) if values else float("nan")


def test_of_one_patient_a_figure_has_no_limits_and_of_none_there_is_none():
    assert with_interval([3.0], mean) == [3.0] and with_interval([], mean) == []
    value, low, high = with_interval([1.0, 2.0, 3.0], mean)
    assert low < value == 2.0 < high


def test_what_cannot_be_told_of_a_row_is_left_out_and_a_figure_without_limits_is_written_as_it_is():
    rows = [{"dice": 0.5, "validation": 0.5}, {"false_ml": 2.0, "validation": 0.1}]
    found = summary(HEADS["flair_lesions"], rows)
    assert found == {"dice": [0.5], "false_ml": [2.0]} and words(found["dice"]) == "0.5" and words(None) == ""
    alike = [{"p0": 0.3, "p1": 0.7, "label": 1.0}] * 3
    assert set(summary(HEADS["schizophrenia_pattern"], alike)) == {"accuracy", "ece"}      # an AUC needs both classes
    json.dumps(found, allow_nan=False)


def test_both_kinds_of_mci_are_one_class_of_three():
    def row(label, *probability):
        return {f"p{k}": p for k, p in enumerate(probability)} | {"label": float(label)}

    rows = [row(1, 0.35, 0.15, 0.3, 0.2),     # the kind is wrong, by both together MCI is not
            row(2, 0.4, 0.3, 0.3, 0.0), row(2, 0.6, 0.2, 0.2, 0.0), row(0, 0.5, 0.0, 0.1, 0.4)]
    assert accuracy_of_three(HEADS["ad_volumes"], rows) == 0.75
    assert summary(HEADS["ad_volumes"], rows)["accuracy, MCI as one"][0] == 0.75


@pytest.mark.parametrize("path", sorted(MODELS.rglob("figures.json")), ids=lambda path: path.parent.name)
def test_shipped_figures_are_json_as_its_standard_has_it_and_no_card_says_nan(path: Path):
    def refuse(word):
        raise AssertionError(f"{path} holds {word}")

    json.loads(path.read_text(), parse_constant=refuse)
    card = path.with_name("card.md")
    assert not card.exists() or "nan]" not in card.read_text()
