"""Drift: what changed is named in its week, and chance alone is not."""
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from api.monitor import calibration_limit, divergence, known_words, mix_limit, monitor, plot, week_of
from data.errors import InputError
from data.records import Order, Patient, as_json
from tests.api.web import HERE, TextDesk, WordSuggester

ROOT = Path(__file__).parent.parent.parent
PROTOCOLS = ("MR_BRAIN_WO", "MR_BRAIN_WWO", "CT_HEAD_WO", "MR_LSPINE_WO")
TEXTS = ("headache for a week, neurological exam normal", "fall from standing, headache and vomiting", "new seizure, known melanoma")


def fill(store, weeks, a_week=60, seed=1, **odd):
    """`weeks` weeks of decided orders that end now; `odd` changes the last one: text, protocol, override, stated."""
    rng = np.random.default_rng(seed)
    now, patients = datetime.now(UTC), 0
    with store.write() as tx:
        for week in range(weeks):
            last = odd if week == weeks - 1 else {}
            for i in range(a_week):
                patients += 1
                time = (now - timedelta(weeks=weeks - 1 - week, minutes=i)).strftime("%Y-%m-%dT%H:%M:%S.000Z")
                first = last.get("protocol") or str(rng.choice(PROTOCOLS, p=(0.4, 0.3, 0.2, 0.1)))
                stated = float(rng.uniform(0.6, 0.99))
                right = rng.random() < last.get("right", stated)
                text = last.get("text") or str(rng.choice(TEXTS))
                decision = {"action": "accept" if right else "change", "protocol": first if right else "CT_SINUS_WO", "user": "anna", "time": time,
                            "suggested": first, "probability": stated}
                tx.insert("orders", id=f"o{week}-{i}", key=f"{week}-{i}", sender="", placer_number="", filler_number="", accession_number="",
                          study_instance_uid="", patient_id="", state="accepted" if right else "changed", urgency=0, version=1, event_time=time,
                          event_rank=0, event_number=0, record=as_json(Order(text=text, patient=Patient(id=f"p{patients}"))),
                          suggestion={"ranked": [{"protocol": first, "probability": stated}]}, decision=decision, created=time, updated=time)


def alarms(store):
    return sorted({alarm["figure"] for alarm in monitor(store)["alarms"] if alarm["week"] == week_of(datetime.now(UTC).isoformat())})


def test_steady_weeks_raise_no_alarm_and_carry_every_figure(store):
    fill(store, 8)
    found = monitor(store)
    assert len(found["weeks"]) >= 8 and len(found["reference"]) == 4 and found["alarms"] == []
    last = found["weeks"][-1]
    assert last["decided"] == sum(row["decided"] for row in found["weeks"][-1:]) and 0 <= last["ece"] <= last["ece_limit"]


@pytest.mark.parametrize("odd, expected", [
    ({"text": "qwzx patient zzgrblf with flumpoid"}, "unknown_words"), ({"protocol": "MR_LSPINE_WO"}, "mix"),
    ({"right": 0.3}, "override"), ({"right": 0.3}, "ece"),
])
def test_a_week_that_changed_is_named_with_what_to_do(store, odd, expected):
    fill(store, 8, **odd)
    assert expected in alarms(store)
    assert all(alarm["words"].count(".") >= 1 for alarm in monitor(store)["alarms"])


def test_new_words_are_shown_only_when_several_patients_share_them(store):
    fill(store, 5, text="zzgrblf after lunch")
    assert monitor(store)["new_words"] == ["zzgrblf"]
    with store.write() as tx:
        row = tx.one("orders", id="o0-0")
        tx.change("orders", {"id": "o0-0"}, record={**row["record"], "text": "headache, Mr Musterfraunhofer"})
    assert "musterfraunhofer" not in str(monitor(store)["new_words"]) and "musterfraunhofer" not in known_words()


def test_few_orders_are_not_judged_and_an_empty_store_says_so(store):
    assert monitor(store) == {"weeks": [], "reference": [], "alarms": [], "new_words": [], "shadow": []}
    fill(store, 6, a_week=5, right=0.0, protocol="CT_HEAD_WO")
    found = monitor(store)
    assert found["alarms"] == [] and found["weeks"][-1]["override"] == 1.0
    with pytest.raises(InputError, match="reference week"):
        monitor(store, reference="2001-W01")


def test_divergence_is_none_for_one_mix_and_whole_for_two_without_a_protocol_in_common():
    one, other = np.array([[30.0, 10.0, 0.0]]), np.array([[0.0, 0.0, 7.0]])
    assert divergence(one, one)[0] == 0 and divergence(one, other)[0] == pytest.approx(1)
    assert mix_limit(one[0], one[0] * 10) < 0.1 < mix_limit(one[0] / 10, one[0] / 10)


def test_chance_alone_explains_more_error_of_few_decisions_than_of_many():
    assert calibration_limit(np.full(1000, 0.8)) < 0.05 < calibration_limit(np.full(20, 0.8))


def test_the_page_the_api_and_the_command_say_the_same(store, settings, store_address, tmp_path):
    fill(store, 8, right=0.2)
    desk = TextDesk(store, settings, WordSuggester(), None)
    client = TestClient(create_app(desk, settings), base_url=HERE)
    told = client.get("/v1/monitor").json()
    assert {alarm["figure"] for alarm in told["alarms"]} >= {"override"}
    text = client.get("/monitor").text
    assert "People disagree more often" in text and "data:image/png;base64" in text
    assert client.get("/v1/monitor?reference=yesterday").status_code == 422
    done = subprocess.run([sys.executable, "-m", "api.cli", "monitor", "--home", store_address[1], "--db", store_address[0], "--out", tmp_path / "m"],
                          capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0 and "People disagree more often" in done.stdout, done.stderr
    assert (tmp_path / "m" / "monitor.png").read_bytes()[:4] == b"\x89PNG" and (tmp_path / "m" / "monitor.json").exists()
    assert len(plot(told)) > 10_000
