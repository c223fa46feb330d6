"""The benchmark of the heads: ours and MONAI's give one answer, and every figure of the table is measured."""
import pytest
import torch

from api import bench_heads
from api.bench_heads import as_table, inference, measure, net_of, shipped, training, whole
from vision.heads import HEADS


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(bench_heads, "SIDE", 48)
    monkeypatch.setattr(bench_heads, "STEPS", 2)
    torch.set_num_threads(1)


def test_both_inferers_give_one_answer_where_a_plane_fits_a_window_and_nearly_one_in_tiles():
    """On tiles a net sees less around the edges: answers differ there, but little."""
    pytest.importorskip("monai", reason="monai is not installed: pip install monai")
    assert inference("flair_lesions", None, (3, 48, 48), 48, 1)["answers_apart"] < 1e-5
    assert inference("flair_lesions", None, (1, 96, 96), 48, 1)["answers_apart"] < 0.2


def test_weights_are_timed_as_they_are_stored():
    """The shipped ones, which are packed: both inferers give their answer."""
    pytest.importorskip("monai", reason="monai is not installed: pip install monai")
    head = HEADS["flair_lesions"]
    assert inference("flair_lesions", head.folder, (3, 48, 48), 48, 1)["answers_apart"] < 1e-4
    shipped, random = (net_of("flair_lesions", folder).state_dict()["answer.weight"] for folder in (head.folder, None))
    assert not torch.allclose(shipped, random)


def test_the_table_has_all_that_the_issue_asks_for():
    found = {"head": "flair_lesions", "threads": 1, "rounds": 1, "inference": [inference("flair_lesions", None, (3, 48, 48), 48, 1)],
             "whole": whole("flair_lesions", None, 1), "peak_mb": 500, "training": training("flair_lesions")}
    table = as_table(found)
    for row in ("probabilities of 3 x 48 x 48", "read to measures", "memory of it, at most | 500 MB", "studies learnt an hour", "studies simulated"):
        assert row in table
    assert min(found["training"]["learnt_an_hour"].values()) > 0


def test_the_simulator_is_timed_by_case_and_head(monkeypatch):
    monkeypatch.setattr(bench_heads, "SIMULATED", {"dwi_infarct": {}})
    found = measure("flair_lesions", None, 1, 1, ("simulation",))
    [row] = found["simulation"]["cases"]
    assert row["contrasts"] == 3 and row["slices"] == 48 and row["cpu_s"] > 0 and "MNI152" in found["simulation"]["first_use"]
    assert "| `dwi_infarct` | 3 | MNI152 |" in as_table(found) and "inference" not in found


def test_a_head_of_two_stages_is_timed_as_it_ships():
    took = shipped("dwi_infarct", 1)
    assert 0 < took["cpu_s"] < 30 and 100 < took["peak_mb"] < 2000
    assert "| `dwi_infarct` |" in as_table({"threads": 1, "rounds": 1, "heads": {"dwi_infarct": took}})
