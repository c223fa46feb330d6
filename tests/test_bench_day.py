"""`wetread bench day`: a small day, a real server, one crash; and the books notice what is wrong."""
import json
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

from api.bench_day import Ris
from api.day_accounts import accounts
from api.day_plan import Plan, plan_day
from api.hl7.messages import HANDLERS
from api.hl7.reader import read_message
from api.settings import Settings
from api.store import Store, later

ROOT = Path(__file__).parent.parent
DAY = datetime(2026, 11, 24)


def test_a_day_is_the_same_for_the_same_seed_and_holds_what_departments_do():
    plan, again = plan_day(400, 40, 3, DAY), plan_day(400, 40, 3, DAY)
    assert plan == again != plan_day(400, 40, 4, DAY)
    assert len(set(plan.placer_numbers)) == 400 and len(plan.studies) == 40 and not set(plan.studies) & plan.cancelled
    assert plan.cancelled and plan.changed and plan.merged and {event.what for event in plan.events} == {"message", "study", "accept"}
    assert [event.at_s for event in plan.events] == sorted(event.at_s for event in plan.events)
    for event in plan.events:
        if event.what == "message":         # every message is one that its handler takes
            message = read_message(event.raw)
            assert HANDLERS[message.kind](message)


def test_a_small_day_with_a_crash_is_accounted_for(tmp_path):
    ran = subprocess.run([sys.executable, "-m", "api.cli", "bench", "day", "--home", tmp_path / "home", "--orders", "30", "--studies", "4",
                          "--head-cts", "0", "--minutes", "0.3", "--crashes", "1", "--device", "cpu", "--out", tmp_path / "day.json"],
                         capture_output=True, text=True, cwd=ROOT, timeout=900)
    assert ran.returncode == 0, ran.stderr[-4000:]
    figures = json.loads((tmp_path / "day.json").read_text())
    assert figures["unaccounted"] == {} and figures["messages"]["lost"] == figures["messages"]["doubled"] == 0
    assert sum(figures["orders_by_state"].values()) == 30 and figures["studies_by_state"] == {"refused": 4} and figures["instances"] == 12
    assert figures["results"]["received"] == figures["results"]["due"] > 0 and len(figures["restarts_s"]) == 1
    assert "unaccounted for" in ran.stderr and "nothing" in ran.stderr


def test_the_books_name_what_is_missing(tmp_path):
    """A day in which nothing arrived: every order and study is named, and every acknowledged message."""
    Store.open("", tmp_path).close()
    plan = plan_day(10, 2, 1, DAY)
    ris = Ris()
    ris.acknowledged = {event.raw: b"" for event in plan.events if event.what == "message"}
    day = SimpleNamespace(accept=lambda: 0, accepted=set(), stored={})
    books = accounts(Settings(tmp_path), plan, day, ris, 1)
    assert len(books["unaccounted"]["orders not there"]) == 10 and len(books["unaccounted"]["studies not there"]) == 2
    assert len(books["unaccounted"]["messages acknowledged and lost"]) == min(20, len(ris.acknowledged)) == books["messages"]["lost"]


def test_the_books_do_not_wait_for_the_hour_of_an_alert_but_for_everything_else(tmp_path):
    store = Store.open("", tmp_path)
    with store.write() as tx:
        tx.enqueue("alert", "alert:1", {"alert_id": 1}, not_before=later(3600))
    day, ris = SimpleNamespace(accept=lambda: False, accepted=set(), stored={}), Ris()
    books = accounts(Settings(tmp_path), Plan(), day, ris, 30.0)
    assert (books["alerts_waiting"], books["unaccounted"]) == (1, {})
    with store.write() as tx:
        tx.enqueue("send", "send:ris", {}, not_before=later(3600))
    assert accounts(Settings(tmp_path), Plan(), day, ris, 1.0)["unaccounted"] == {"work not finished": ["1 jobs"]}
    store.close()
