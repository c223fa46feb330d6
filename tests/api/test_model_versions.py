"""Versions of the protocol model: promoted and rolled back by a person, on the record, in force without a restart."""
import json
import subprocess
import sys
from pathlib import Path

import pytest

from api.inference import LateSuggester
from api.model_versions import SHIPPED, config_version, folder_in_use, models_folder
from data.errors import InputError, ModelError, NotFound, StateError
from data.model_files import MODELS
from data.records import Order
from tests.api.versions import another_model
from tests.api.web import TextDesk, audited, work

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def desk(store, settings):
    """A desk whose suggester is the one that serve uses."""
    return TextDesk(store, settings, LateSuggester("cpu", lambda: folder_in_use(store, "shown")), None)


def ask(desk):
    id = desk.add_order(Order(text="MS follow up, no new symptoms", ordered_exam="MRI BRAIN"))
    work(desk)
    return desk.order(id)


def test_a_promoted_version_answers_the_next_order_and_what_was_suggested_keeps_its_own(desk, store):
    folder = another_model(models_folder(store.home) / "local-1", "local-1")
    (folder / "figures.json").write_text(json.dumps({"held_out": 80}))
    old, shipped = ask(desk), config_version(MODELS / "protocol")
    found = desk.promote_model("local-1", "anna")
    assert (found["shown"], [row["version"] for row in found["versions"]]) == ("local-1", [SHIPPED, "local-1"])
    assert (found["history"][0]["user"], found["history"][0]["figures"]) == ("anna", {"held_out": 80}) and found["history"][0]["time"]
    assert ask(desk)["suggestion"]["model"] == "local-1"
    assert desk.order(old["id"])["suggestion"]["model"] == shipped
    assert desk.roll_back_model("ben")["shown"] == SHIPPED
    assert ask(desk)["suggestion"]["model"] == shipped
    assert [row[:2] + row[3:] for row in audited(desk) if row[2] == "model"] == [("ben", "roll-back", SHIPPED), ("anna", "promote", "local-1")]
    with pytest.raises(StateError):
        desk.roll_back_model("ben")


def test_rolling_back_walks_down_what_was_promoted(desk, store, monkeypatch):
    monkeypatch.setattr(type(desk), "_tried", lambda self, version: models_folder(store.home) / version)     # loading is tested above
    for version in ("v1", "v2", "v3"):
        desk.promote_model(version, "anna")
    assert [desk.roll_back_model("anna")["shown"] for _ in range(3)] == ["v2", "v1", SHIPPED]
    desk.promote_model("v2", "anna")
    assert desk.promote_model(SHIPPED, "anna")["shown"] == SHIPPED
    assert desk.roll_back_model("anna")["shown"] == "v2"


def test_a_version_that_is_gone_makes_no_suggestion_rather_than_another_models(desk, store, monkeypatch):
    monkeypatch.setattr(type(desk), "_tried", lambda self, version: models_folder(store.home) / version)
    desk.promote_model("v1", "anna")
    order = ask(desk)
    assert (order["state"], order["reason"], order["suggestion"]) == ("no-suggestion", "E108", None)


def test_what_cannot_answer_is_not_promoted(desk, store):
    (models_folder(store.home) / "broken").mkdir(parents=True)
    (models_folder(store.home) / "broken" / "config.json").write_text("{}")
    for version, error in (("broken", ModelError), ("none", NotFound), ("../../etc", InputError), ("", StateError)):
        with pytest.raises(error):
            desk.promote_model(version, "anna")
    assert desk.models()["shown"] == SHIPPED and desk.models()["history"] == []


def test_the_command_line_lists_and_names_what_is_not_there(store_address):
    url, home = store_address

    def run(*words):
        return subprocess.run([sys.executable, "-m", "api.cli", "model", *words, "--home", str(home), "--db", url],
                              capture_output=True, text=True, cwd=ROOT, timeout=120)

    assert json.loads(run("list").stdout)["shown"] == SHIPPED
    for words, code in ((("promote", "v9"), "[E110]"), (("rollback",), "[E111]"), (("promote", "shipped"), "[E111]")):
        done = run(*words)
        assert done.returncode == 1 and code in done.stderr and "Traceback" not in done.stderr
