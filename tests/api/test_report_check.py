"""POST /v1/reports/check over a real socket, and the same check between a person and the signature on the page."""

import threading
import time
from types import SimpleNamespace

import httpx
import pytest
import uvicorn

from api.app import create_app
from api.report_steps import has_prior, sections_of
from data.errors import InputError
from data.records import Draft, Finding, Sentence
from tests.api.web import TextDesk, add_draft, audited, refused


class LeftSubdural:
    def draft(self, images, order, priors=()):
        finding = Finding("f1", "subdural_haemorrhage", "subdural haematoma", True, 0.9, side="left", volume_ml=12.5, critical=True)
        text = "Left subdural haematoma, 12.5 mL."
        return Draft(
            "",
            "draft",
            None,
            (finding,),
            {"findings": text, "impression": text},
            (Sentence(text, "findings", ("f1",), 0.9, "model"), Sentence(text, "impression", ("f1",), 0.9, "model")),
            {},
            0.9,
        ), {}


@pytest.fixture
def desk(sqlite_desk):
    return sqlite_desk(TextDesk, None, LeftSubdural())


@pytest.fixture
def http(desk):
    """A client of a real server on a real socket."""
    server = uvicorn.Server(uvicorn.Config(create_app(desk, desk.settings), port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + 60
    while not server.started and time.monotonic() < until:
        time.sleep(0.02)
    with httpx.Client(base_url=f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", timeout=120) as client:
        yield client
    server.should_exit = True
    thread.join(timeout=10)


@pytest.fixture
def draft(desk):
    return add_draft(desk)


def asked(http, **body):
    answer = http.post("/v1/reports/check", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_draft_as_it_was_written_has_no_remark_and_nothing_is_changed_by_asking(http, desk, draft):
    answer = asked(http, draft_id=draft["id"])
    assert (answer["remarks"], answer["mark"]) == ([], "")
    assert [(a["code"], a["side"], a["volume_ml"]) for a in answer["findings"]] == [("subdural_haemorrhage", "left", 12.5)] * 2
    assert desk.draft(draft["id"])["version"] == draft["version"]
    assert ("local", "check", "draft", draft["id"]) in audited(desk)


def test_an_edited_draft_is_checked_against_what_the_machine_wrote(http, draft):
    text = "Right subdural haematoma, 125 mL."
    answer = asked(http, draft_id=draft["id"], sections={"findings": text})
    found = {row["code"]: row for row in answer["remarks"]}
    assert {"side_draft", "number_ten", "side_impression"} <= set(found) and answer["mark"]
    for row in answer["remarks"]:
        assert answer["sections"].get(row["section"], "")[row["start"] : row["end"]] == row["text"]
    assert (found["number_ten"]["severity"], found["number_ten"]["text"]) == ("stop", "125 mL")


def test_a_text_of_another_system_is_checked_against_the_order_sent_with_it(http):
    text = "EXAM: MRI brain\r\nFINDINGS: The prostate is normal. Right meningioma of 2.5 cm.\r\nIMPRESSION: Right meningioma of 25 cm."
    answer = asked(http, text=text, order={"order_text": "known left meningioma, r/o metastasis", "sex": "F", "age": 60, "priors": ["MRI 2025"]})
    assert {row["code"] for row in answer["remarks"]} == {
        "sex",
        "side_order",
        "number_impression",
        "implausible",
        "question_unanswered",
        "comparison_missing",
    }
    assert answer["sections"]["impression"] == "Right meningioma of 25 cm."


@pytest.mark.parametrize(
    ("body", "status", "code", "word"),
    [
        ({}, 422, "E109", "draft_id"),
        ({"draft_id": "none"}, 404, "E110", "draft"),
        ({"text": "x", "sections": {"findings": "x"}}, 422, "E109", "once"),
        ({"draft_id": "none", "order": {"order_text": "x"}}, 422, "E109", "order"),
        ({"text": " \r\n "}, 422, "E109", "empty"),
        ({"text": 5}, 422, "E109", "text"),
        ({"sections": {"finding": "x"}}, 422, "E109", "finding"),
        ({"sections": {"findings": "x" * 20_001}}, 422, "E109", "findings"),
        ({"text": "x", "order": {"order_text": "x", "age": "old"}}, 422, "E109", "order.age"),
        ({"text": "x" * 100_001}, 422, "E109", "text"),
    ],
)
def test_bad_input_is_named(http, body, status, code, word):
    refused(http.post("/v1/reports/check", json=body), status, code, word)


def test_no_json_is_said_to_be_none(http):
    refused(http.post("/v1/reports/check", content=b"{", headers={"content-type": "application/json"}), 400, "E109", "JSON")
    refused(http.get("/v1/reports/check"), 405, "E109")


def test_strange_bytes_are_read_as_text(http):
    assert asked(http, sections={"findings": "\u0000\ufeff🧠 no\r\nhaemorrhage", "impression": "Übelkeit"})["findings"][0]["polarity"] == "absent"


def test_a_report_with_a_stop_is_shown_before_it_is_signed_and_signed_when_it_was_looked_at(http, desk, draft):
    form = {
        "action": "sign",
        "version": str(draft["version"]),
        "findings": "Right subdural haematoma, 12.5 mL.",
        "impression": "Right subdural haematoma, 12.5 mL.",
    }
    answer = http.post(f"/drafts/{draft['id']}", data=form)
    assert answer.status_code == 303 and answer.headers["location"].endswith("&unseen=1#checks")
    kept = desk.draft(draft["id"])
    assert (kept["status"], kept["sections"]["findings"]) == ("draft", form["findings"])  # the edit is not lost
    page = http.get(answer.headers["location"]).text
    assert "Not signed yet" in page and "the draft&#39;s finding on the images is on the left" in page
    mark = asked(http, draft_id=draft["id"])["mark"]
    assert f'name="seen" value="{mark}"' in page
    http.post(f"/drafts/{draft['id']}", data={**form, "version": str(kept["version"]), "seen": mark})
    signed = desk.draft(draft["id"])
    assert (signed["status"], signed["signed_by"]) == ("final", "local")
    assert audited(desk).count(("local", "sign-despite-check", "draft", draft["id"])) == 1


def test_an_amendment_with_a_stop_goes_back_with_what_was_typed(http, desk, draft):
    http.post(f"/drafts/{draft['id']}", data={"action": "sign", "version": str(draft["version"])})
    typed = "Right subdural haematoma, 12.5 mL. Typed with care."
    form = {"action": "amend", "version": str(desk.draft(draft["id"])["version"]), "impression": typed}
    answer = http.post(f"/drafts/{draft['id']}", data=form)
    assert answer.status_code == 200 and "Not signed yet" in answer.text and f"{typed}</textarea>" in answer.text
    assert desk.draft(draft["id"])["status"] == "final"
    mark = asked(http, draft_id=draft["id"], sections={"impression": typed})["mark"]
    http.post(f"/drafts/{draft['id']}", data={**form, "seen": mark})
    assert (desk.draft(draft["id"])["status"], desk.draft(draft["id"])["sections"]["impression"]) == ("amended", typed)


def test_what_is_signed_or_amended_over_rest_despite_a_stop_is_audited_as_on_the_page(http, desk, draft):
    id, wrong = draft["id"], "Right subdural haematoma, 12.5 mL."

    def despite():
        return sorted(action for _, action, _, object_id in audited(desk) if "despite" in action and object_id == id)

    version = http.put(f"/v1/drafts/{id}", json={"version": draft["version"], "sections": {"findings": wrong, "impression": wrong}}).json()["version"]
    assert http.post(f"/v1/drafts/{id}/sign", json={"version": version - 1}).status_code == 409 and despite() == []
    signed = http.post(f"/v1/drafts/{id}/sign", json={"version": version})
    assert (signed.status_code, signed.json()["status"], despite()) == (200, "final", ["sign-despite-check"])
    amendment = {"version": version + 1, "sign": True, "sections": {"impression": f"{wrong} Called."}}
    assert http.post(f"/v1/drafts/{id}/amend", json=amendment).json()["status"] == "amended"
    assert despite() == ["amend-despite-check", "sign-despite-check"]


def test_a_signature_without_a_stop_leaves_no_such_line_in_the_audit(http, desk, draft):
    assert http.post(f"/v1/drafts/{draft['id']}/sign", json={"version": draft["version"]}).json()["status"] == "final"
    assert not any("despite" in action for _, action, _, _ in audited(desk))


def test_a_warning_alone_is_shown_and_does_not_hold_the_signature(http, desk, draft):
    assert asked(http, draft_id=draft["id"], sections={"impression": "Subdural haematoma. [ ]"})["remarks"][0]["severity"] == "warn"
    http.post(f"/drafts/{draft['id']}", data={"action": "sign", "version": str(draft["version"]), "impression": "Subdural haematoma. [ ]"})
    assert desk.draft(draft["id"])["status"] == "final"


def test_a_whole_report_is_taken_apart_by_its_headings():
    text = "CT HEAD\n\nINDICATION:\nfall\n\nFINDINGS:\nNo haemorrhage.\nBRAIN: normal\n\nIMPRESSION:\nNormal."
    assert sections_of(text) == {"exam": "CT HEAD", "indication": "fall", "findings": "No haemorrhage.\nBRAIN: normal", "impression": "Normal."}
    assert sections_of("No haemorrhage.") == {"findings": "No haemorrhage."}
    with pytest.raises(InputError):
        sections_of("FINDINGS:\n")


@pytest.mark.parametrize(("date", "arrived", "expected"), [("20260101", "2026-01-01T09:00", True), ("20260101", "2026-01-01T11:00", False),
                                                           ("20251231", "2026-01-01T11:00", True), ("20260102", "2026-01-01T09:00", False)])
def test_a_study_of_the_same_day_is_earlier_only_if_it_came_earlier(date, arrived, expected):
    mine = {"id": "1", "patient_id": "X1", "date": "20260101", "arrived": "2026-01-01T10:00"}
    kept = SimpleNamespace(find=lambda *_, **__: [mine, {"id": "2", "date": date, "arrived": arrived}])
    assert has_prior(kept, mine) is expected
