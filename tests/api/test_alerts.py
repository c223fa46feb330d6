"""Critical findings: raised with the draft below the bands that state, acknowledged by a person, escalated once, through a crash and a restart."""
from dataclasses import replace

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from api.jobs import Worker
from api.settings import Destination, read_settings
from api.store import Store, later
from api.work import handlers
from data.critical import ALERT_PROBABILITY, critical_findings
from data.errors import InputError, NotFound, StateError
from data.records import Draft, Finding
from tests.api.web import HERE, TextDesk, add_draft, audited, refused, work
from vision.findings import HEDGE

SUBDURAL = "subdural_haemorrhage"


class Unsure:
    """States nothing, and holds two critical findings for possible: one below its alert threshold."""

    found = (Finding("f1", "intracranial_haemorrhage", "intracranial haemorrhage", False, 0.28, band="omit"),
             Finding("f2", SUBDURAL, "subdural haematoma", False, 0.22, side="left", band="omit"),
             Finding("f3", "skull_fracture", "skull fracture", False, 0.9, band="omit"),
             Finding("f6", "epidural_haemorrhage", "epidural haematoma", False, ALERT_PROBABILITY - 0.01, band="omit"),
             Finding("f5", "midline_shift", "midline shift", True, 0.9, band="omit"),
             Finding("f4", "microbleeds", "microbleeds", True, 0.99))

    def draft(self, images, order, priors=()):
        return Draft("", "draft", None, self.found, {"findings": "Nothing.", "impression": "Nothing."}, (), {}, 0.1), {}


@pytest.fixture
def desk(store, settings):
    return TextDesk(store, settings, None, Unsure())


def due_now(desk):
    """The time limit has passed."""
    with desk.store.write() as tx:
        for row in tx.find("alerts"):
            tx.change("alerts", {"id": row["id"]}, due=later(-1))
        tx.change("jobs", {"kind": "alert", "state": "queued"}, not_before=later(-1))


def run(desk):
    worker = Worker(desk.store, {"alert": desk.escalate_alert}, backoff_s=(0, 0))
    return sum(iter(worker.run_once, 0))


def test_the_alert_lies_below_every_band_that_says_something():
    assert min(HEDGE.values()) > ALERT_PROBABILITY


def test_a_finding_too_unsure_to_be_said_raises_one_alert_for_its_kind(desk):
    draft = add_draft(desk)
    [alert] = desk.alerts()
    assert (alert["code"], alert["side"], alert["state"], alert["draft_id"], alert["band"]) == (SUBDURAL, "left", "open", draft["id"], "omit")
    assert alert["minutes"] == critical_findings()[SUBDURAL].communicate_minutes and not alert["overdue"]
    assert ("wetread", "raise", "alert", alert["id"]) in audited(desk)


def test_more_images_and_another_draft_raise_no_second_alert(desk):
    draft = add_draft(desk)
    uid = draft["study_id"]
    desk.instance_kept({"StudyInstanceUID": uid, "SOPInstanceUID": f"{uid}.2", "SeriesInstanceUID": f"{uid}.0", "PatientID": "X1", "Modality": "CT",
                        "sha256": f"{uid}b", "path": "none.dcm", "source": "test"})
    desk.complete_study(uid)
    work(desk)
    assert desk.study(uid)["draft"]["id"] != draft["id"] and len(desk.alerts()) == 1


def test_nobody_came_so_it_is_escalated_once_and_said_to_the_destination(store, settings):
    settings = replace(settings, outbox=(Destination("RIS", "127.0.0.1", 1), Destination("PAGER", "127.0.0.1", 2)), alert_destination="PAGER")
    desk = TextDesk(store, settings, None, Unsure())
    add_draft(desk)
    assert run(desk) == 0                       # not yet due
    due_now(desk)
    assert desk.alerts()[0]["overdue"] and run(desk) == 1
    [alert] = desk.alerts()
    assert (alert["state"], bool(alert["escalated"])) == ("escalated", True)
    [row] = store.outbox_rows()
    assert (row["destination"], row["kind"], row["state"], row["patient_id"]) == ("PAGER", "ORU^R01 alert", "queued", "")
    raw = store.outbox(row["id"])["raw"].decode()
    assert "subdural haematoma, left" in raw and "|AA|" in raw and "not acknowledged" in raw and "|F|" not in raw
    with store.write() as tx:                   # the same job once more, as after a crash before its end was written
        tx.change("jobs", {"kind": "alert"}, state="queued")
    run(desk)
    assert len(store.outbox_rows()) == 1
    assert [row[1] for row in audited(desk) if row[2] == "alert"] == ["escalate", "raise"]


def test_an_acknowledged_alert_is_nobodys_work_and_is_not_escalated(desk):
    add_draft(desk)
    [alert] = desk.alerts()
    kept = desk.acknowledge_alert(alert["id"], "anna", " told Dr Chen by phone ")
    assert (kept["state"], kept["acknowledged_by"], kept["note"]) == ("acknowledged", "anna", "told Dr Chen by phone")
    due_now(desk)
    run(desk)
    assert desk.alerts() == [] and desk.alerts(("acknowledged",))[0]["escalated"] == ""
    with pytest.raises(StateError, match="anna"):
        desk.acknowledge_alert(alert["id"], "ben")
    assert ("anna", "acknowledge", "alert", alert["id"]) in audited(desk)


def test_an_escalated_alert_can_still_be_acknowledged(desk):
    add_draft(desk)
    due_now(desk)
    run(desk)
    assert desk.acknowledge_alert(desk.alerts()[0]["id"], "anna", "told Dr Chen")["escalated"]
    assert desk.alerts() == []


def test_a_restart_between_draft_and_time_limit_loses_nothing(store_address, settings):
    first = Store.open(*store_address, upgrade=False)
    add_draft(TextDesk(first, settings, None, Unsure()))
    first.close()
    second = Store.open(*store_address, upgrade=False)
    desk = TextDesk(second, settings, None, None)
    due_now(desk)
    assert run(desk) == 1 and desk.alerts()[0]["state"] == "escalated"
    second.close()


def test_a_crash_in_the_midst_of_escalating_escalates_once(desk, monkeypatch):
    add_draft(desk)
    due_now(desk)
    real, calls = desk.store.effect, []

    def crash(job):
        calls.append(job)
        if len(calls) == 1:
            raise RuntimeError("power cut")
        return real(job)

    monkeypatch.setattr(desk.store, "effect", crash)
    run(desk)
    assert desk.alerts()[0]["state"] == "escalated" and len(calls) == 2
    assert [row[1] for row in audited(desk) if row[2] == "alert"] == ["escalate", "raise"]


def test_the_draft_is_signed_whatever_the_alert_says(desk):
    draft = add_draft(desk)
    assert desk.sign_draft(draft["id"], "anna", draft["version"])["status"] == "final"
    assert desk.alerts()[0]["state"] == "open"          # to sign is not to tell


def test_the_worker_knows_the_job(desk):
    assert "alert" in handlers(desk, type("S", (), {"send_queue": None})())


def test_an_unknown_destination_is_named_when_the_settings_are_read(tmp_path):
    with pytest.raises(InputError, match="alert_destination is 'PAGER'"):
        read_settings(tmp_path, alert_destination="PAGER")


def test_over_http_alerts_are_listed_acknowledged_and_bad_input_named(desk, settings):
    draft = add_draft(desk)
    http = TestClient(create_app(desk, settings), base_url=HERE)
    [alert] = http.get("/v1/alerts").json()
    assert alert["patient"]["name"] == "Muster^Erika"
    assert http.get("/v1/alerts", params={"state": "escalated"}).json() == []
    for page in ("/studies", f"/studies/{draft['study_id']}"):
        words = http.get(page).text
        assert "Possible critical finding" in words and "subdural haematoma, left" in words and "I have seen it" in words
    before = http.get("/marks/studies").json()
    refused(http.post("/v1/alerts/none/acknowledge", json={}), 404, "E110")
    refused(http.post("/v1/alerts/99/acknowledge", json={}), 404, "E110")
    refused(http.post(f"/v1/alerts/{alert['id']}/acknowledge", json={"note": "x" * 2001}), 422, "E109", "note")
    refused(http.post(f"/v1/alerts/{alert['id']}/acknowledge", json={"note": " "}), 422, "E109", "whom you told")
    refused(http.get("/v1/alerts", params={"state": "lost"}), 422, "E109", "state")
    answer = http.post(f"/alerts/{alert['id']}", data={"note": "told <b>Chen</b>", "back": "study"}, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, f"/studies/{draft['study_id']}")
    refused(http.post(f"/v1/alerts/{alert['id']}/acknowledge", json={}), 409, "E111", "local")
    assert http.get("/marks/studies").json() != before
    assert "Possible critical" not in http.get("/studies").text
    assert "told &lt;b&gt;Chen&lt;/b&gt;" in http.get(f"/studies/{draft['study_id']}").text


def test_a_program_acknowledges_nothing(desk):
    add_draft(desk)
    with pytest.raises(InputError):
        desk.acknowledge_alert(desk.alerts()[0]["id"], "")
    with pytest.raises(NotFound):
        desk.acknowledge_alert("1 OR 1", "anna")
