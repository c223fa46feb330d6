"""Model folders: what was saved comes back, what was altered or is missing is told apart."""
import json

import numpy as np
import pytest

from data.errors import ModelError
from data.model_files import from_int8, load_model, save_model, to_int8


@pytest.fixture
def folder(tmp_path):
    save_model(tmp_path / "m", {"w": np.arange(6, dtype=np.float32)}, {"width": 3}, {"name": "m"}, {"tokenizer.json": b"{}"})
    return tmp_path / "m"


def test_a_saved_model_comes_back(folder):
    config, tensors = load_model(folder)
    assert config == {"width": 3} and tensors["w"].tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_an_altered_file_is_named(folder, name):
    (folder / name).write_bytes((folder / name).read_bytes() + b" ")
    with pytest.raises(ModelError, match=name + " was altered"):
        load_model(folder)


def test_a_missing_file_is_named_with_the_cure(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"model.safetensors cannot be read.*wetread train"):
        load_model(folder)


def test_a_card_without_sums_is_not_trusted(folder):
    (folder / "card.json").write_text(json.dumps({"name": "m", "sha256": {}}))
    with pytest.raises(ModelError, match="altered"):
        load_model(folder)


def test_int8_keeps_each_row_within_half_a_step():
    values = np.random.default_rng(0).normal(size=(200, 100)).astype(np.float32) * np.logspace(-2, 2, 200)[:, None].astype(np.float32)
    back = from_int8(to_int8({"w": values}))["w"]
    assert (np.abs(back - values).max(1) <= np.abs(values).max(1) / 127 * 0.51 + np.abs(values).max(1) * 1e-3).all()


def test_a_tensor_that_lies_in_another_order_in_memory_comes_back_as_it_was(tmp_path):
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(2, 0, 1)
    save_model(tmp_path, {"weight": values}, {}, {})
    assert (load_model(tmp_path)[1]["weight"] == values).all()
