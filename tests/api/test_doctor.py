"""`wetread doctor` names what is wrong and what mends it."""
import socket

import numpy as np
from sqlalchemy import text

import data.model_files as model_files
from api.doctor import examine, folder, models, port


def test_a_taken_port_is_named_with_its_option():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        check = port("MLLP", number)
    assert not check.ok and str(number) in check.words and "--mllp" in check.words


def test_a_home_that_is_a_file_or_lies_in_one_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    assert not folder(tmp_path / "file").ok
    assert folder(tmp_path / "new" / "deep").ok


def test_altered_and_missing_weights_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(model_files, "MODELS", tmp_path)
    for name in ("protocol", "report"):
        model_files.save_model(tmp_path / name, {"weight": np.ones((2, 2), np.float32)}, {"version": "1"}, {"name": name})
    weights = tmp_path / "report" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    words = {check.name: check for check in models()}
    assert not words["model report"].ok and not words["model findings"].ok and words["model protocol"].ok
    assert words["model report"].words != words["model findings"].words


def test_an_old_schema_is_said_with_the_command_that_mends_it(tmp_path):
    from api.settings import read_settings
    from api.store import Store

    settings = read_settings(tmp_path)
    store = Store.open(settings.db, settings.home)
    with store.engine.begin() as tx:
        tx.execute(text("UPDATE alembic_version SET version_num = '0000'"))
    store.close()
    check = next(c for c in examine(tmp_path, None, {}) if c.name == "store")
    assert not check.ok and "wetread db upgrade" in check.words
