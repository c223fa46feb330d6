"""Shadow mode: stored, counted, and without any way to a person or to automation."""
from dataclasses import replace

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from api.jobs import Worker
from api.model_versions import models_folder
from api.monitor import in_words, monitor
from data.records import Order, Ranked
from tests.api.web import HERE, TextDesk, WordSuggester


class Candidate(WordSuggester):
    """Always suggests one other protocol, and is always sure."""

    def __init__(self):
        self.asked = []

    def suggest(self, order):
        self.asked.append(order.text)
        if "broken" in order.text:
            raise RuntimeError("Muster^Erika")
        return replace(super().suggest(order), ranked=(Ranked("MR_CANDIDATE", 0.99),), set=("MR_CANDIDATE",), model="candidate")


class Plain(WordSuggester):
    def suggest(self, order):
        return super().suggest(replace(order, text=order.text.replace("broken", "")))


@pytest.fixture
def desk(store, settings, monkeypatch):
    made = TextDesk(store, replace(settings, automation=True), Plain(), None, Candidate())
    monkeypatch.setattr(TextDesk, "_tried", lambda self, version: models_folder(store.home) / version)     # loading: test_model_versions
    made.shadow_model("v2", "ada")
    return made


def work(desk, *kinds):
    handlers = {"suggest": desk.suggest_order, "shadow": desk.shadow_order}
    worker = Worker(desk.store, {kind: handlers[kind] for kind in kinds or handlers}, backoff_s=(0, 0))
    while worker.run_once():
        pass


def shadows(store):
    with store.read() as tx:
        return tx.find("shadow_suggestions", order=["id"])


def test_what_the_shadow_says_is_stored_and_nobody_sees_it(desk, store):
    id = desk.add_order(Order(text="headache", placer_number="P1"))
    work(desk)
    (row,) = shadows(store)
    assert (row["order_id"], row["order_version"], row["model"], row["suggestion"]["model"]) == (id, 1, "v2", "candidate")
    client = TestClient(create_app(desk, desk.settings), base_url=HERE)
    for address in ("/v1/orders/P1", "/v1/orders", "/orders", f"/orders/{id}", "/orders?show=decided"):
        assert "MR_CANDIDATE" not in client.get(address).text
    assert desk.order(id)["suggestion"]["ranked"][0]["protocol"] == desk.order(id)["decision"]["protocol"] == "MR_BRAIN_WO"


def test_a_shadow_that_fails_leaves_the_shown_suggestion_and_its_reason_without_words(desk, store, caplog):
    id = desk.add_order(Order(text="broken arm, headache"))
    work(desk)
    (row,) = shadows(store)
    assert (row["suggestion"], row["reason"]) == (None, "RuntimeError") and "Muster" not in caplog.text
    assert desk.order(id)["suggestion"]["model"] == "m1" and store.jobs("dead") == []
    assert monitor(store)["shadow"][0]["failed"] == 1


def test_the_shadow_waits_until_nothing_else_is_due(desk, store):
    for i in range(3):
        desk.add_order(Order(text=f"headache {i}"))
    worker = Worker(store, {"suggest": desk.suggest_order, "shadow": desk.shadow_order, "draft": lambda job: None})
    with store.write() as tx:
        tx.enqueue("draft", "draft:x", {})
    worker.run_once()
    assert desk.shadow.asked == [] and len(desk.orders("accepted")) == 3
    worker.run_once()
    assert desk.shadow.asked == []          # the draft went first
    worker.run_once()
    assert len(desk.shadow.asked) == 1


def test_an_order_that_says_something_else_by_now_is_not_asked_about_and_a_decided_one_is(desk, store):
    changed = desk.add_order(Order(text="headache", placer_number="P1"))
    decided = desk.add_order(Order(text="dizzy", placer_number="P2"))
    work(desk, "suggest")
    desk.add_order(Order(text="seizure", placer_number="P1"))
    desk.decide(decided, "change", "MR_BRAIN_WWO", "mass", "anna")
    work(desk)
    assert sorted((row["order_id"], row["order_version"]) for row in shadows(store)) == sorted([(decided, 1), (changed, 2)])
    assert sorted(desk.shadow.asked) == ["dizzy", "seizure"]


def test_the_monitor_counts_who_was_right_and_ended_shadows_ask_no_more(desk, store):
    desk.suggester = Plain()
    for i, (action, protocol) in enumerate((("change", "MR_BRAIN_WWO"), ("change", "CT_HEAD_WO"), ("reject", None))):
        id = desk.add_order(Order(text=f"headache {i}"))
        work(desk)
        desk.decide(id, action, protocol, "a reason", "anna")
    (found,) = monitor(store)["shadow"]
    assert (found["model"], found["orders"], found["decided"], found["shadow_agrees"], found["shown_agrees"]) == ("v2", 3, 2, 0, 0)
    assert "In shadow, v2: 3 orders" in in_words(monitor(store))
    desk.shadow_model("", "ada")
    desk.add_order(Order(text="headache 9"))
    work(desk)
    assert len(shadows(store)) == 3 and desk.models()["shadow"] == ""
    assert [(row["role"], row["version"], row["user"]) for row in desk.models()["history"]] == [("shadow", "", "ada"), ("shadow", "v2", "ada")]


def test_a_candidate_that_is_right_more_often_shows_it(desk, store):
    from api.shadow import agreement

    with store.write() as tx:
        for i in range(40):
            tx.insert("orders", id=f"o{i}", key=f"k{i}", sender="", placer_number="", filler_number="", accession_number="", study_instance_uid="",
                      patient_id="", state="changed", urgency=0, version=2, event_time="", event_rank=0, event_number=0, record={}, created="",
                      updated="")
            tx.insert("shadow_suggestions", order_id=f"o{i}", order_version=1, model="v2", time="2026-11-24",
                      suggestion={"ranked": [{"protocol": "A" if i < 36 else "B", "probability": 0.9}]})
    (found,) = agreement(store, "2026", {f"o{i}": ("A", "A" if i >= 20 else "C") for i in range(40)})
    assert (found["shadow_agrees"], found["shown_agrees"], found["only_shadow"], found["only_shown"]) == (36, 20, 20, 4)
    assert found["difference"][0] == 0.4 and found["difference"][1] > 0
