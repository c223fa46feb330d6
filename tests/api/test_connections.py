"""The connections page and `wetread replay`: what failed is seen, and sent or applied once more."""
import json
import sys

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from api.settings import Destination, read_settings
from api.store import Store
from api.workflow import Desk
from data.errors import InputError, NotFound, StateError
from tests.api.web import HERE


@pytest.fixture
def desk(tmp_path, sqlite_template):
    import shutil

    shutil.copy(sqlite_template, tmp_path / "wetread.db")
    settings = read_settings(tmp_path, outbox=(Destination("ris", "10.0.0.9", 2575, tls=True), Destination("ehr", "10.0.0.8", 2575)))
    store = Store.open(settings.db, settings.home, upgrade=False)
    yield Desk(store, settings)
    store.close()


def put(desk, key, state="failed", to="ris", raw=b"MSH|x", kind="ORU^R01"):
    with desk.store.write() as tx:
        tx.add("outbox", key=key, destination=to, kind=kind, control_id=key, raw=raw, state=state, reason="answered AE",
               created="2026-11-24T08:00:00.000Z", updated="2026-11-24T08:00:00.000Z")
        return str(tx.one("outbox", key=key)["id"])


def states(desk):
    return {row["control_id"]: row["state"] for row in desk.store.outbox_rows()}


def test_a_dead_letter_is_queued_again_with_its_job_and_audited(desk):
    id = put(desk, "W1")
    desk.replay("outbox", id, "anna")
    assert states(desk) == {"W1": "queued"} and [job["key"] for job in desk.store.jobs("queued")] == ["send:ris"]
    assert [(row["user"], row["action"], row["object_id"]) for row in desk.store.audit_rows()] == [("anna", "replay", id)]
    with pytest.raises(StateError, match="queued already"):
        desk.replay("outbox", id)


@pytest.mark.parametrize(("kind", "id", "error"), [("outbox", "77", NotFound), ("outbox", "x", NotFound), ("message", "77", NotFound),
                                                   ("job", "77", NotFound),
                                                   ("study", "1", InputError)])
def test_what_is_not_there_is_said(desk, kind, id, error):
    with pytest.raises(error):
        desk.replay(kind, id)


def test_what_was_never_built_or_was_superseded_is_not_sent(desk):
    for key, state, raw in (("W1", "failed", None), ("W2", "superseded", b"x")):
        with pytest.raises(StateError):
            desk.replay("outbox", put(desk, key, state, raw=raw))


def test_all_dead_letters_of_one_destination_go_again_and_no_others(desk):
    for key, to in (("W1", "ris"), ("W2", "ehr"), ("W3", "ris")):
        put(desk, key, to=to)
    with pytest.raises(NotFound, match="destination"):
        desk.replay_failed("nobody")
    assert desk.replay_failed("ris") == 2 and states(desk) == {"W1": "queued", "W2": "failed", "W3": "queued"}


def test_the_page_shows_the_outage_and_replays(desk):
    id = put(desk, "W1")
    put(desk, "W2", "queued")
    with desk.store.write() as tx:
        tx.add("outages", destination="ris", began="2026-11-24T08:00:00.000Z", ended="", reason="no answer (TimeoutError)", tries=7)
    with TestClient(create_app(desk, desk.settings), base_url=HERE, client=("127.0.0.1", 1)) as web:
        page = web.get("/connections").text
        assert "takes nothing since" in page and "tried 7 times" in page and "10.0.0.9:2575 TLS" in page and "answered AE" in page
        assert web.get("/v1/connections").json()["destinations"][0]["queued"] == 1
        assert web.post("/connections", data={"kind": "outbox", "id": id}, headers={"Origin": HERE}, follow_redirects=False).status_code == 303
        assert states(desk)["W1"] == "queued"
        assert web.post("/v1/connections/replay/outbox/99").status_code == 404


def test_the_command_lists_and_replays_and_names_what_it_cannot(desk, tmp_path, monkeypatch, capsys):
    from api.cli import main

    id = put(desk, "W1")

    def replay(*words):
        monkeypatch.setattr(sys, "argv", ["wetread", "replay", *words, "--home", str(tmp_path)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return ended.value.code or 0, said.out, said.err

    code, listed, _ = replay()
    assert json.loads(listed)["control_id"] == "W1" and code == 0
    code, out, error = replay("outbox", id, "99")
    assert f"outbox {id} is queued again" in out and "E110" in error and code == 1
    assert states(desk) == {"W1": "queued"}
    assert replay("outbox")[0] == replay("letters", "1")[0] == 2
