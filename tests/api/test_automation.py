"""The kill switch: works in the middle of a suggestion, outlives a restart, is on the record, and only an administrator undoes it."""
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient

from api.app import create_app
from api.store import Store
from data.records import Order, Patient
from tests.api.web import HERE, TextDesk, WordSuggester, audited, refused, work

ROOT = Path(__file__).parent.parent.parent


class WhileComputing(WordSuggester):
    """Something happens elsewhere while the suggestion is computed."""

    def __init__(self, happens):
        self.happens = happens

    def suggest(self, order):
        self.happens()
        return super().suggest(order)


@pytest.fixture
def desk(store, settings):
    return TextDesk(store, replace(settings, automation=True), WordSuggester(), None)


def state(desk, text="?bleed"):
    id = desk.add_order(Order(text=text))
    work(desk)
    return desk.order(id)["state"]


def test_a_stop_counts_for_the_order_whose_suggestion_is_being_computed(desk):
    desk.suggester = WhileComputing(lambda: desk.switch_automation(False, "anna", "wrong protocols"))
    assert state(desk) == "suggested"


def test_a_start_and_a_stop_count_at_once_and_decided_orders_stay(desk):
    assert state(desk) == "accepted"
    desk.switch_automation(False, "anna")
    assert state(desk) == "suggested" and len(desk.orders("accepted")) == 1
    desk.switch_automation(True, "ada")
    assert state(desk) == "accepted"
    assert [row[:3] for row in audited(desk) if row[2] == "automation"] == [("ada", "start", "automation"), ("anna", "stop", "automation")]


def test_a_stop_outlives_a_restart(desk, store_address):
    desk.switch_automation(False, "anna", "wrong protocols")
    again = Store.open(*store_address)
    after = TextDesk(again, desk.settings, WordSuggester(), None)
    assert state(after) == "suggested"
    found = after.automation()
    assert (found["running"], found["stopped"], found["user"], found["reason"]) == (False, True, "anna", "wrong protocols") and found["time"]
    again.close()


def test_the_switch_cannot_turn_on_what_the_settings_do_not_allow(desk, store, settings):
    off = TextDesk(store, settings, WordSuggester(), None)
    assert off.switch_automation(True, "ada")["running"] is False and state(off) == "suggested"


def test_over_rest_anyone_stops_it_and_says_so_and_a_program_cannot_start_it(desk):
    client = TestClient(create_app(desk, desk.settings), base_url=HERE)
    assert client.get("/v1/automation").json()["running"] is True and "Automation is on" in client.get("/orders").text
    assert client.post("/v1/automation", json={"running": False, "reason": "drill"}).json()["stopped"] is True
    assert "Automation is stopped" in client.get("/orders").text and "drill" in client.get("/orders").text
    refused(client.post("/v1/automation", json={"on": False}), 422, "E109", "on")
    from api.security import new_api_key

    key, key_hash = new_api_key()
    desk.store.add_api_key("ris", key_hash)
    refused(client.post("/v1/automation", json={"running": True}, headers={"x-api-key": key}), 403, "E112", "administrator")
    assert desk.automation()["stopped"] is True
    assert client.post("/automation", data={"action": "start"}, follow_redirects=False).status_code == 303
    assert desk.automation()["running"] is True and client.post("/automation", data={"action": "halt"}).status_code == 422


def test_the_command_line_stops_it_and_names_who(store_address):
    url, home = store_address

    def run(*words):
        return subprocess.run([sys.executable, "-m", "api.cli", "automation", *words, "--home", str(home), "--db", url],
                              capture_output=True, text=True, cwd=ROOT, timeout=60)

    stopped = json.loads(run("stop", "--reason", "drill").stdout)
    assert stopped["stopped"] and stopped["reason"] == "drill" and stopped["user"].startswith("cli:")
    assert json.loads(run().stdout) == stopped
    assert run("pause").returncode == 2


def test_a_store_of_the_first_schema_is_upgraded_with_its_orders_and_a_running_switch(tmp_path):
    from alembic import command
    from alembic.config import Config

    engine = sa.create_engine(f"sqlite:///{tmp_path / 'wetread.db'}")
    config = Config()
    config.set_main_option("script_location", "api/migrations")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.execute(sa.text("INSERT INTO users VALUES ('anna', 'h', 'radiologist', '2026')"))
    engine.dispose()
    store = Store.open("", tmp_path)
    with store.read() as tx:
        assert tx.one("switches", name="automation")["running"] is True and tx.one("users", name="anna")
    store.close()


def test_each_order_leaves_one_line_in_the_log_and_no_word_of_the_patient(desk, caplog):
    caplog.set_level("INFO", logger="wetread")
    id = desk.add_order(Order(text="?bleed after a fall", patient=Patient(id="4711", name="Muster^Erika"), placer_number="P77"))
    work(desk)
    lines = [record.getMessage() for record in caplog.records if record.name == "wetread.orders"]
    assert lines == [f"order {id} version 1: accepted CT_HEAD_WO auto"]
    assert not {"Muster", "4711", "fall", "P77"} & set(caplog.text.replace("^", " ").split())
