"""Whichever way a day's messages come, and however often, what is known in the end is that of their own times."""
import itertools
import os
import shutil
import tempfile
from datetime import UTC, datetime, timedelta
from functools import reduce
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.order_life import join, known_from, order_from_known
from api.settings import Settings
from api.store import Store
from api.workflow import Desk
from data.records import Facts, OrderEvent, Patient
from tests.api.test_workflow import NUMBERS, WordSuggester, receive, work

PERMUTATIONS = int(os.environ.get("WETREAD_PERMUTATIONS", "40"))


def order(control, placer, at, text="", *, filler="", status="", patient="X1", name="Muster^Erika", note="", accession="", transaction="", second=""):
    orc = f"ORC|{control}|{placer}|{filler}||{status}||||{transaction}"
    obr = f"OBR|1|{placer}|{filler}|CT1^CT HEAD^L||||||||||||||{accession}|||||||||||||^{text}"
    lines = [f"MSH|^~\\&|RIS|HOSP|WETREAD|RAD|{at}||ORM^O01^ORM_O01|%s|P|2.5.1", f"PID|1||{patient}^^^HOSP^MR||{name}||19600101|F", orc]
    if text or accession or control == "NW":
        lines.append(obr)
    return "\r".join([*lines, *([f"NTE|1||{note}"] if note else []), *([second] if second else [])])


def adt(event, patient, at, prior="", name="", born=""):
    return "\r".join([f"MSH|^~\\&|ADT|HOSP|WETREAD|RAD|20261124235900||ADT^{event}|%s|P|2.5.1", f"EVN||{at}",
                      f"PID|1||{patient}^^^HOSP^MR||{name}||{born}|", *([f"MRG|{prior}^^^HOSP^MR"] if prior else [])])


# one day, in the order it happened
DAY = [
    adt("A40", "X1", "20261124070000", prior="X2"),
    order("NW", "P1", "20261124080000", "fall ?bleed"),
    order("NW", "P2", "20261124080500", "seizure", filler="F2"),
    order("NW", "P3", "20261124081000", "headache", patient="X2"),
    adt("A08", "X1", "20261124081500", name="Neu^Erika"),
    order("CA", "P3", "20261124082000", patient="X2", note="patient refused"),
    order("HD", "P2", "20261124083000", note="has a pacemaker"),
    order("XO", "P1", "20261124090000", "fall ?subdural", accession="A1"),
    adt("A31", "X2", "20261124090500", name="Alt^Erika", born="19610101"),
    order("RL", "P2", "20261124091000"),
    order("CA", "", "20261124093000", filler="F2"),
    order("XO", "P2", "20261124094000", "seizure since today"),
    order("SC", "P1", "20261124100000", status="IP"),
    adt("A40", "X2", "20261124100500", prior="X1", name="Muster^Erika"),
    order("XO", "P1", "20261124103000", "fall ?subdural on warfarin"),
    order("XO", "P1", "20261124104000", note="claustrophobia"),
    order("SC", "P1", "20261124110000", status="CM"),
    adt("A47", "X3", "20261124113000", prior="X2"),
    order("NW", "P3", "20261124120000", "headache again", patient="X2"),
]


def end_of(template, messages):
    """What stands in a new store after these messages, by the orders' numbers."""
    home = Path(tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    try:
        shutil.copy(template, home / "wetread.db")
        store = Store.open("", home, upgrade=False)
        # nothing is cut off here, so nothing need reach the disk
        sa.event.listen(store.engine, "connect", lambda connection, record: connection.execute("PRAGMA synchronous=OFF"))
        desk = Desk(store, Settings(home=home), WordSuggester(), None)
        receive(desk, *(raw.replace("%s", f"C{next(NUMBERS)}").encode() for raw in messages), then_work=False)
        work(desk)
        rows = desk.orders()
        assert {message["state"] for message in store.messages()} <= {"applied"}
        store.close()
    finally:
        shutil.rmtree(home)
    return sorted(((row["state"], row["held"], row["performed"], {**row["order"], "id": "", "control": ""}) for row in rows),
                  key=lambda row: (row[3]["placer_number"], row[3]["filler_number"]))


def summary(rows):
    return {row[3]["placer_number"]: (row[0], row[1], row[2], row[3]["text"], row[3]["patient"]["id"], row[3]["patient"]["name"]) for row in rows}


def test_the_day_in_order_ends_as_it_happened(sqlite_template):
    assert summary(end_of(sqlite_template, DAY)) == {
        "P1": ("suggested", False, "COMPLETED", "fall ?subdural on warfarin\nclaustrophobia", "X3", "Muster^Erika"),
        "P2": ("cancelled", False, "", "seizure since today", "X3", "Muster^Erika"),
        "P3": ("suggested", False, "", "headache again", "X3", "Muster^Erika"),
    }


@settings(max_examples=PERMUTATIONS, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.data())
def test_any_order_of_arrival_with_duplicates_ends_as_the_order_of_events(sqlite_template, data):
    chosen = data.draw(st.lists(st.sampled_from(range(len(DAY))), min_size=2, max_size=8, unique=True))
    again = data.draw(st.lists(st.sampled_from(chosen), max_size=3))
    arrival = data.draw(st.permutations(chosen + again))
    assert end_of(sqlite_template, [DAY[i] for i in arrival]) == end_of(sqlite_template, [DAY[i] for i in sorted(chosen)])


@pytest.mark.parametrize("seed", range(3))
def test_the_whole_day_shuffled_ends_as_the_day_in_order(sqlite_template, seed):
    import random

    shuffled = random.Random(seed).sample(DAY + DAY[::4], len(DAY) + len(DAY[::4]))
    assert end_of(sqlite_template, shuffled) == end_of(sqlite_template, DAY)


EVENTS = st.builds(OrderEvent, text=st.sampled_from(["", "a", "b"]), asks=st.booleans(), priority=st.sampled_from(["STAT", "ROUTINE"]),
                   says_priority=st.booleans(),
                   control=st.sampled_from(["new", "change", "cancel", "hold", "release", "status"]),
                   status=st.sampled_from(["", "SC", "IP", "CM", "CA", "HD"]), filler_number=st.sampled_from(["", "F"]),
                   facts=st.builds(Facts, egfr=st.sampled_from([None, 30.0, 60.0]), egfr_date=st.sampled_from(["", "20260101"])))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(EVENTS, st.integers(0, 9)), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_joining_what_events_say_knows_no_order_and_no_repetition(events, random):
    known = [known_from(event, f"2026-11-24T0{hour}:00:00.000Z", "", number) for number, (event, hour) in enumerate(events)]
    ends = [reduce(join, some) for some in itertools.permutations(known)]
    ends += [reduce(join, random.choices(known, k=3) + known)]
    assert all(end == ends[0] and order_from_known(end, Patient()) == order_from_known(ends[0], Patient()) for end in ends)


def one(sqlite_template, *messages):
    (row,) = end_of(sqlite_template, messages)
    return row


NEW = order("NW", "P1", "20261124080000", "fall ?bleed")
STAT = NEW.replace("^CT HEAD^L|", "^CT HEAD^L|S")
CHANGE = order("XO", "P1", "20261124090000", "fall ?bleed, on aspirin")


@pytest.mark.parametrize(("messages", "expected"), [
    ((STAT, CHANGE), "STAT"), ((CHANGE, STAT), "STAT"),
    ((STAT, CHANGE.replace("^CT HEAD^L|", "^CT HEAD^L|R")), "ROUTINE"), ((NEW, CHANGE), "ROUTINE"),
])
def test_a_change_of_the_question_leaves_a_priority_that_it_does_not_name(sqlite_template, messages, expected):
    assert one(sqlite_template, *messages)[3]["priority"] == expected


@pytest.mark.parametrize(("control", "status", "expected"), [
    ("CA", "", ("cancelled", False, "")), ("OC", "", ("cancelled", False, "")), ("DC", "", ("cancelled", False, "")),
    ("XO", "", ("suggested", False, "")), ("RP", "", ("suggested", False, "")), ("HD", "", ("suggested", True, "")),
    ("SC", "HD", ("suggested", True, "")), ("SC", "IP", ("suggested", False, "IN PROGRESS")), ("XO", "CM", ("suggested", False, "COMPLETED")),
    ("SC", "CA", ("cancelled", False, "")), ("SC", "DC", ("cancelled", False, "")), ("UC", "", ("suggested", False, "")),
    ("RL", "", ("suggested", False, "")), ("NA", "", ("suggested", False, "")),
])
def test_what_a_control_and_a_status_do_to_an_order(sqlite_template, control, status, expected):
    assert one(sqlite_template, NEW, order(control, "P1", "20261124090000", status=status))[:3] == expected


def test_a_change_brings_no_cancelled_order_back_unless_its_status_says_so(sqlite_template):
    cancel = order("CA", "P1", "20261124090000")
    assert one(sqlite_template, NEW, cancel, order("XO", "P1", "20261124100000", "other"))[0] == "cancelled"
    assert one(sqlite_template, NEW, cancel, order("XO", "P1", "20261124100000", "other", status="SC"))[0] == "suggested"


def test_a_replacement_ends_the_order_it_replaces(sqlite_template):
    raw = order("RP", "P1", "20261124090000", second="ORC|RO|P9\rOBR|1|P9||CT1^CT HEAD^L|||||||||||||||||||||||||||^seizure")
    old, replacing = end_of(sqlite_template, [NEW, raw])
    assert (old[0], replacing[0], replacing[3]["text"]) == ("cancelled", "suggested", "seizure")


def test_the_transaction_time_goes_before_the_time_of_a_message_sent_again(sqlite_template):
    late = order("XO", "P1", "20261124230000", "old question", transaction="20261124083000")       # sent again in the evening
    assert one(sqlite_template, NEW, order("XO", "P1", "20261124090000", "new question"), late)[3]["text"] == "new question"


def test_a_transaction_time_without_an_hour_is_not_believed(sqlite_template):
    assert one(sqlite_template, NEW, order("CA", "P1", "20261124090000", transaction="20261124"))[0] == "cancelled"


def test_a_number_told_later_joins_what_came_apart(sqlite_template):
    apart = [order("CA", "", "20261124090000", filler="F1"), order("XO", "P1", "20261124083000", "other"),
             order("NW", "P1", "20261124080000", "a", filler="F1")]
    row = one(sqlite_template, *apart)
    assert (row[0], row[3]["placer_number"], row[3]["filler_number"], row[3]["text"]) == ("cancelled", "P1", "F1", "other")


def test_a_note_of_a_change_is_added_to_the_question_and_a_cancels_is_not(sqlite_template):
    assert one(sqlite_template, NEW, order("XO", "P1", "20261124090000", note="pregnant"))[3]["text"] == "fall ?bleed\npregnant"
    assert one(sqlite_template, NEW, order("CA", "P1", "20261124090000", note="pregnant"))[3]["text"] == "fall ?bleed"


def test_linkage_of_IPC_and_ZDS_reaches_each_order_of_a_message(sqlite_template):
    second = "IPC|A1|RP1|1.2.840.1|SPS1\rORC|NW|P2\rOBR|2|P2||MR1^MRI^L|||||||||||||||||||||||||||^seizure\rZDS|1.2.840.2^^Application^DICOM"
    first, other = end_of(sqlite_template, [order("NW", "P1", "20261124080000", "fall", second=second)])
    assert [(r[3]["accession_number"], r[3]["requested_procedure_id"], r[3]["study_instance_uid"]) for r in (first, other)] == [
        ("A1", "RP1", "1.2.840.1"), ("", "", "1.2.840.2")]


def test_each_merge_of_a_message_goes_with_the_patient_before_it(sqlite_template):
    merges = adt("A40", "Y1", "20261124090000", prior="X1") + "\rPID|1||Z1^^^HOSP^MR||\rMRG|X2^^^HOSP^MR"
    rows = end_of(sqlite_template, [NEW, order("NW", "P2", "20261124080000", "a", patient="X2"), merges])
    assert [row[3]["patient"]["id"] for row in rows] == ["Y1", "Z1"]


@pytest.mark.parametrize("later", [False, True])
def test_what_a_patients_update_deletes_is_no_longer_known_unless_something_newer_says_it(sqlite_template, later):
    deletes = adt("A08", "X1", "20261124090000", born='""') + '""'      # PID-7, PID-8
    again = adt("A08", "X1", "20261124100000", born="19600102")
    (row,) = end_of(sqlite_template, [NEW, *([again] if later else []), deletes])
    patient = row[3]["patient"]
    assert (patient["name"], patient["birth_date"], patient["sex"]) == ("Muster^Erika", "19600102" if later else "", "U")


def test_a_birth_date_that_is_deleted_takes_the_age_counted_from_it_with_it(sqlite_template):
    assert one(sqlite_template, NEW)[3]["age_years"] == 66
    assert one(sqlite_template, NEW, adt("A08", "X1", "20261124090000", born='""'))[3]["age_years"] is None


def test_a_sender_whose_clock_is_years_ahead_does_not_win_over_the_cancel_of_today(sqlite_template):
    ahead = order("NW", "P1", "20990101080000", "fall ?bleed")
    soon = (datetime.now(UTC) + timedelta(seconds=5)).strftime("%Y%m%d%H%M%S")
    state, _, _, said = one(sqlite_template, ahead, order("CA", "P1", soon))
    assert state == "cancelled" and said["age_years"] < 100


def test_numbers_of_another_assigning_authority_change_and_merge_none_of_ours(store, settings):
    from dataclasses import replace

    desk = Desk(store, replace(settings, mllp_assigning_authority="HOSP"), WordSuggester(), None)
    other = adt("A08", "X1", "20261124100000", name="Smith^Bob", born="19900909").replace("^^^HOSP^MR", "^^^CLINIC^MR")
    merge = adt("A40", "X1", "20261124110000", prior="X2").replace("^^^HOSP^MR", "^^^CLINIC^MR")
    both = adt("A08", "Z9", "20261124100000", name="Neu^Erika").replace("Z9^^^HOSP^MR", "Z9^^^CLINIC^MR~X1^^^HOSP&1.2.3&ISO^MR")
    raws = [NEW, order("NW", "P2", "20261124080000", "seizure", patient="X2"), other, merge, both]
    receive(desk, *(raw.replace("%s", f"C{next(NUMBERS)}").encode() for raw in raws))
    assert [(row["patient"]["id"], row["patient"]["name"]) for row in (desk.order(p)["order"] for p in ("P1", "P2"))] == [
        ("X1", "Neu^Erika"), ("X2", "Muster^Erika")]
    assert sorted(message["state"] for message in store.messages()) == ["applied", "applied", "applied", "failed", "failed"]


def test_two_quotes_anywhere_else_are_nothing_and_never_a_value(sqlite_template):
    raw = NEW.replace("Muster^Erika", '""').replace("|F\r", '|""\r') + '\rAL1|1||""\rNTE|1||""'
    (row,) = end_of(sqlite_template, [raw])
    assert row[3]["patient"] == {"id": "X1", "name": "", "birth_date": "19600101", "sex": "U"}
    assert row[3]["facts"]["allergies"] == [] and '""' not in str(row[3])


def test_a_site_in_another_time_zone_is_read_in_its_own(store, settings):
    from dataclasses import replace

    desk = Desk(store, replace(settings, mllp_time_zone="America/New_York"), WordSuggester(), None)
    # 08:00 in New York is 13:00 UTC; the cancel at 12:30 UTC was before it
    receive(desk, NEW.replace("%s", "C1").encode(), order("CA", "P1", "20261124123000+0000").replace("%s", "C2").encode())
    assert desk.order("P1")["state"] == "suggested"


def test_a_store_of_before_keeps_its_orders_and_its_chains_of_merges(tmp_path):
    """Revision 0004: what an order is stands in its record alone, and merges point from one identifier to the next."""
    import json

    from alembic import command
    from alembic.config import Config

    engine = sa.create_engine(f"sqlite:///{tmp_path / 'wetread.db'}")
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parents[2] / "api/migrations"))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0004")
        for id, into, at in (("X1", "X2", "2026-11-24T01:00:00.000Z"), ("X2", "X3", "2026-11-24T02:00:00.000Z"), ("X3", None, "")):
            person = json.dumps({"id": id, "name": f"{id}^A", "birth_date": "", "sex": "F"})
            connection.execute(sa.text("INSERT INTO patients (id, record, event_time, merged_into, merge_time) "
                                       "VALUES (:id, :record, '', :into, :at)"), {"id": id, "into": into, "at": at, "record": person})
        record = {"id": "o1", "text": "fall ?bleed", "control": "cancel", "placer_number": "P1", "filler_number": "", "accession_number": "",
                  "study_instance_uid": "", "patient": {"id": "X3", "name": "X3^A", "birth_date": "", "sex": "F"}, "ordered_exam": "CT",
                  "ordered_exam_code": "", "priority": "STAT", "requested_date": "", "referrer": "", "setting": "", "age_years": None, "priors": [],
                  "facts": {"egfr": 30.0, "egfr_date": "20260101", "allergies": ["x"], "implants": [], "pregnant": None, "weight_kg": None,
                            "medication": []}}
        connection.execute(sa.text(
            "INSERT INTO orders (id, key, sender, placer_number, filler_number, accession_number, study_instance_uid, patient_id, state, urgency, "
            "version, event_time, event_rank, event_number, record, created, updated) "
            "VALUES ('o1', 'RIS|HOSP|placer:P1', 'RIS|HOSP', 'P1', '', '', '', 'X3', 'cancelled', 2, 1, "
            "'2026-11-24T09:00:00.000Z', 2, 1, :record, '2026-11-24T09:00:00.000Z', '2026-11-24T09:00:00.000Z')"),
            {"record": json.dumps(record)})
    engine.dispose()
    store = Store.open("", tmp_path)
    desk = Desk(store, Settings(home=tmp_path), WordSuggester(), None)
    with store.read() as tx:
        assert {row["id"]: (row["merged_into"], row["merge_time"][11:13]) for row in tx.find("patients")} == {
            "X1": ("X3", "01"), "X2": ("X3", "02"), "X3": (None, "02")}
    # an older change fills nothing over it and does not bring it back; a newer order does
    receive(desk, order("XO", "P1", "20261124080000", "older", patient="X1").replace("%s", "C1").encode())
    found, known = desk.order("P1")["state"], desk.order("P1")["order"]
    assert (found, known["text"], known["priority"], known["facts"]["egfr"]) == ("cancelled", "fall ?bleed", "STAT", 30.0)
    assert known["patient"]["id"] == "X3"
    receive(desk, order("NW", "P1", "20261124100000", "again", patient="X1").replace("%s", "C2").encode())
    assert (desk.order("P1")["state"], desk.order("P1")["order"]["text"]) == ("suggested", "again")
    store.close()
