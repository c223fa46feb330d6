"""Learning from the desk: what people took becomes labelled orders, and a candidate that answers nothing until a person promotes it."""
import json
import stat
import sys
import types
from dataclasses import replace

import pytest

from api.learning import ORDERS_MIN, comparison, export, labelled_rows, train_from_store
from api.training import train_model, train_on_decisions
from data.book import read_book
from data.errors import InputError
from data.records import Facts, Order, Patient
from nlp.train_protocol import read_labelled
from tests.api.versions import another_model
from tests.api.web import TextDesk, WordSuggester, work

BOOK = read_book()


@pytest.fixture
def desk(store, settings):
    return TextDesk(store, settings, WordSuggester(), None)


def decide(desk, text, action="accept", protocol=None, user="anna", **fields):
    id = desk.add_order(Order(text=text, **fields))
    work(desk)
    desk.decide(id, action, protocol, "a reason", user)
    return id


def test_a_decision_is_kept_with_what_was_seen_and_the_versions(desk):
    id = decide(desk, "?bleed", "change", "CT_HEAD_WWO")
    decision = desk.order(id)["decision"]
    assert (decision["suggested"], decision["probability"], decision["model"], decision["book"]) == ("CT_HEAD_WO", 0.9, "m1", "b1")
    assert (decision["user"], decision["reason"]) == ("anna", "a reason") and decision["time"]


def test_what_people_took_becomes_orders_that_training_reads(desk, store):
    first = decide(desk, "?bleed after fall", ordered_exam="CT HEAD", priority="STAT", age_years=70.0,
                   patient=Patient("4711", "Muster^Erika", "19560101", "F"), facts=Facts(egfr=40.0, allergies=("iodine",)))
    decide(desk, "mass, melanoma", "change", "MR_BRAIN_WWO", user="ben")
    decide(desk, "nonsense", "reject")
    path, said = export(store, BOOK)
    assert said == {"orders": 2, "left out": {}} and stat.S_IMODE(path.stat().st_mode) == 0o600 and store.home in path.parents
    raw = path.read_text()
    assert "Muster" not in raw and "4711" not in raw
    rows = [json.loads(line) for line in raw.splitlines()]
    assert [[row[name] for name in ("decided_by", "action", "model", "book")] for row in rows] == [
        ["anna", "accept", "m1", "b1"], ["ben", "change", "m1", "b1"]]
    one, two = read_labelled([path])
    assert (one.order.id, one.expected, one.urgent, one.flags) == (first, "CT_HEAD_WO", True, None)
    assert (one.order.facts.egfr, one.order.age_years) == (40.0, 70.0)
    assert (two.expected, two.acceptable, two.contrast) == ("MR_BRAIN_WWO", ("MR_BRAIN_WWO",), "without_and_with")


def test_what_teaches_nothing_is_left_out_and_counted(desk, store, settings):
    decide(desk, "headache ", "accept")
    decide(desk, "Headache", "change", "MR_BRAIN_WWO")      # the same words: one order, the newest label, both acceptable
    automatic = TextDesk(store, replace(settings, automation=True), WordSuggester(), None)
    automatic.add_order(Order(text="?bleed"))
    work(automatic)
    decide(desk, "", "change", "MR_BRAIN_WO")
    rows, left_out = labelled_rows(store, BOOK)
    (row,) = rows
    assert (row["expected_protocol"], row["acceptable_protocols"]) == ("MR_BRAIN_WWO", ["MR_BRAIN_WO", "MR_BRAIN_WWO"])
    assert left_out == {"accepted by automation": 1, "protocol not in the book": 0, "unusable as an order": 1, "said the same as another": 1}


@pytest.fixture
def trainer(monkeypatch):
    """In place of nlp.local_training: writes a real model folder (the shipped weights renamed) and remembers what it was given."""
    given = {}

    def train_local(orders, shipped, out, report):
        given.update(orders=orders, shipped=shipped)
        another_model(out, "local-abc")
        report(1, 1)
        return {"orders": len(orders), "held_out": 10, "current": {"acceptable@1": [0.8, 0.7, 0.9], "ece": 0.05},
                "candidate": {"acceptable@1": [0.9, 0.8, 0.95], "ece": 0.04}}

    module = types.ModuleType("nlp.local_training")
    module.train_local = train_local
    monkeypatch.setitem(sys.modules, "nlp.local_training", module)
    return given


def many(desk, n):
    for i in range(n):
        desk.add_order(Order(text=f"headache number {i}"))
    work(desk)
    for row in desk.orders("suggested", 1000):
        desk.decide(row["id"], "accept", user="anna")


def test_a_candidate_is_a_new_version_with_its_figures_and_changes_nothing_by_itself(desk, store, trainer):
    many(desk, ORDERS_MIN)
    figures = train_from_store(store, BOOK, "ada", lambda *a, **k: None)
    assert len(trainer["orders"]) == ORDERS_MIN and trainer["shipped"].name == "protocol"
    found = desk.models()
    assert found["shown"] == "shipped" and found["versions"][1]["model"] == "local-abc"
    assert found["versions"][1]["figures"]["candidate"]["ece"] == 0.04 and found["versions"][1]["figures"]["by"] == "ada"
    table = comparison(figures).splitlines()
    assert table[0].split() == ["|", "figure", "|", figures["compared_with"], "|", "local-abc", "|"]
    assert "0.8 [0.7, 0.9]" in table[2] and "0.9 [0.8, 0.95]" in table[2]
    assert train_from_store(store, BOOK, "ada", lambda *a, **k: None)["unchanged"]
    assert [p.name for p in (store.home / "models" / "protocol").iterdir()] == ["local-abc"]


def test_the_command_prints_the_comparison_and_how_to_promote(desk, store_address, trainer):
    many(desk, ORDERS_MIN)
    words = train_on_decisions(store_address[1], store_address[0], out=None)
    assert "wetread model promote local-abc" in words and "acceptable@1" in words and "Nothing has changed yet" in words
    with pytest.raises(InputError, match="--base"):
        train_on_decisions(*reversed(store_address), base="x")


def test_too_few_decisions_are_said_and_nothing_is_trained(desk, store, trainer):
    many(desk, 2)
    with pytest.raises(InputError, match="2 decisions"):
        train_from_store(store, BOOK, "ada", lambda *a, **k: None)
    assert not trainer


def test_train_takes_a_folder_of_labelled_orders_and_names_one_without(tmp_path):
    with pytest.raises(InputError, match=r"no folder with \*\.jsonl"):
        train_model("protocol", tmp_path / "out", data=[tmp_path])
