"""The JSON API: every route's happy path, what bad input gets, and that each look and step is audited."""
import re

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from api.settings import Settings
from api.store import Store
from tests.api.web import HERE, OneFinding, TextDesk, WordSuggester, add_draft, audited, refused, work


@pytest.fixture
def home(sqlite_template, tmp_path):
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "wetread.db").write_bytes(sqlite_template.read_bytes())
    return folder


@pytest.fixture
def desk(home):
    store = Store.open("", home, upgrade=False)
    yield TextDesk(store, Settings(home=home), WordSuggester(), OneFinding())
    store.close()


@pytest.fixture
def client(desk):
    return TestClient(create_app(desk, desk.settings), base_url=HERE)


@pytest.fixture
def draft(desk):
    return add_draft(desk)


# -- protocols and orders --------------------------------------------------------------------------------------------


def test_a_question_gets_its_suggestion_and_nothing_is_kept(client, desk):
    answer = client.post("/v1/protocols/suggest", json={"id": "7", "order_text": "fall, ?bleed", "age": 70, "pregnant": None})
    assert answer.status_code == 200
    body = answer.json()
    assert (body["id"], body["ranked"][0], body["urgent"]) == ("7", {"protocol": "CT_HEAD_WO", "probability": 0.9}, True)
    assert {"set", "contrast", "flags", "disposition", "evidence"} <= set(body)
    assert desk.orders() == [] and ("local", "suggest", "order", "7") in audited(desk)


@pytest.mark.parametrize("body, status, word", [
    ("{not json", 400, "JSON"), ("[]", 422, "body"), ("{}", 422, "order_text"), ('{"order_text": 3}', 422, "order_text"),
    ('{"order_text": "x", "age": "SECRET"}', 422, "age"), ('{"order_text": "x", "age": NaN}', 422, "age"),
    ('{"order_text": "x", "alergies": ["iodine"]}', 422, "alergies"), ('{"order_text": "x", "egfr": -3}', 422, "egfr"),
    ('{"order_text": "x", "sex": "female"}', 422, "sex"), ('{"order_text": "\\ud800"}', 422, "order_text"), ("[" * 100_000, 400, ""),
])
def test_a_bad_question_is_told_which_field_and_never_echoed(client, body, status, word):
    answer = client.post("/v1/protocols/suggest", content=body, headers={"content-type": "application/json"})
    refused(answer, status, "E109", word)
    assert "SECRET" not in answer.text


def test_a_failing_model_is_503_with_its_code(client, desk):
    refused(client.post("/v1/protocols/suggest", json={"order_text": "broken"}), 503, "E108")
    desk.suggester = None
    refused(client.post("/v1/protocols/suggest", json={"order_text": "x"}), 503, "E108", "doctor")


def test_a_body_that_is_too_large_is_refused_before_it_is_parsed(client):
    big = b'{"order_text": "' + b"x" * (1 << 20) + b'"}'
    refused(client.post("/v1/protocols/suggest", content=big, headers={"content-type": "application/json"}), 413, "E109")
    pieces = (big[n:n + 65536] for n in range(0, len(big), 65536))      # no Content-Length: counted while it comes
    refused(client.post("/v1/protocols/suggest", content=pieces, headers={"content-type": "application/json"}), 413, "E109")


def test_the_book_can_be_read(client):
    book = client.get("/v1/protocols").json()
    assert len(book["protocols"]) == 88
    assert client.get(f"/v1/protocols/{book['protocols'][0]['id']}").json() == book["protocols"][0]
    refused(client.get("/v1/protocols/none"), 404, "E110")


def test_an_order_is_kept_suggested_for_found_by_its_number_and_decided(client, desk):
    made = client.post("/v1/orders", json={"order_text": "?bleed", "placer_number": "A/7", "patient_name": "Muster^Erika", "priority": "STAT"})
    assert made.status_code == 201 and made.json()["state"] == "new"
    work(desk)
    found = client.get("/v1/orders/A/7").json()
    assert (found["state"], found["order"]["patient"]["name"]) == ("suggested", "Muster^Erika")
    assert [row["id"] for row in client.get("/v1/orders?state=suggested").json()] == [found["id"]]
    after = client.post("/v1/orders/A/7/decision", json={"action": "accept"}).json()
    assert (after["state"], after["decision"]["protocol"], after["decision"]["user"]) == ("accepted", "CT_HEAD_WO", "local")
    id = found["id"]
    assert {("local", "add", "order", id), ("local", "look", "order", id), ("local", "list", "orders", "suggested"),
            ("local", "accept", "order", id)} <= set(audited(desk))


def test_one_order_carries_the_sheet_of_its_protocol_and_the_orders_it_is_like(client, desk):
    client.post("/v1/orders", json={"order_text": "?bleed", "placer_number": "S1"})
    work(desk)
    found = client.get("/v1/orders/S1").json()
    assert (found["sheet"]["basis"], found["sheet"]["protocol"], found["sheet"]["minutes"]) == ("suggested", "CT_HEAD_WO", 5)
    a1, other = found["nearest"]
    assert (a1["source"], a1["protocol"]) == ("authored", "CT_TRAUMA_HEAD_CSPINE") and "bamboo spine" in a1["order_text"]
    assert (other["source"], other["order_text"]) == ("unknown", "")
    client.post("/v1/orders/S1/decision", json={"action": "change", "protocol": "MR_BRAIN_WWO", "reason": "mass"})
    sheet = client.get("/v1/orders/S1").json()["sheet"]
    assert (sheet["basis"], sheet["by"], sheet["contrast_agent"]) == ("accepted", "local", "gadolinium-based, intravenous")
    page = client.get(f"/orders/{found['id']}").text
    assert "gadolinium-based, intravenous" in page and "bamboo spine" in page and ("local", "look", "order", found["id"]) in audited(desk)


@pytest.mark.parametrize("body, status, code", [
    ({"action": "reject"}, 409, "E111"), ({"action": "change", "protocol": "NO_SUCH"}, 409, "E111"), ({"action": "agree"}, 422, "E109"),
    ({"action": "accept", "protocol": "CT_HEAD_W"}, 409, "E111"),
])
def test_a_decision_that_cannot_be_taken_says_why_and_leaves_the_order(client, desk, body, status, code):
    id = client.post("/v1/orders", json={"order_text": "?bleed"}).json()["id"]
    work(desk)
    refused(client.post(f"/v1/orders/{id}/decision", json=body), status, code)
    assert desk.order(id)["state"] == "suggested"


def test_what_is_not_there_is_404(client):
    for address in ("/v1/orders/none", "/v1/studies/none", "/v1/drafts/none", "/v1/studies/none/series/0", "/v1/nothing"):
        refused(client.get(address), 404, "E110")
    refused(client.post("/v1/studies/none/complete"), 404, "E110")
    refused(client.post("/v1/drafts/none/sign", json={"version": 1}), 404, "E110")
    refused(client.delete("/v1/orders"), 405, "E109")
    refused(client.get("/v1/orders/a%00b"), 400, "E109")


# -- studies and drafts ----------------------------------------------------------------------------------------------


def test_a_study_is_listed_looked_at_and_its_draft_signed(client, desk, draft):
    study = draft["study_id"]
    assert [row["id"] for row in client.get("/v1/studies").json()] == [study]
    assert client.get(f"/v1/studies/{study}").json()["draft"]["id"] == draft["id"]
    assert client.get(f"/v1/drafts/{draft['id']}").json()["status"] == "draft"
    edited = client.put(f"/v1/drafts/{draft['id']}", json={"version": 1, "sections": {"findings": "No clot."}}).json()
    assert (edited["version"], edited["sections"]["findings"], edited["sections"]["impression"]) == (2, "No clot.", "Bleed.")
    assert [s["provenance"] for s in edited["sentences"]] == ["user", "template"]
    assert client.post(f"/v1/drafts/{draft['id']}/preliminary", json={"version": 2}).json()["status"] == "preliminary"
    signed = client.post(f"/v1/drafts/{draft['id']}/sign", json={"version": 3}).json()
    assert (signed["status"], signed["signed_by"]) == ("final", "local")
    amended = client.post(f"/v1/drafts/{draft['id']}/amend", json={"version": 4, "sections": {"impression": "No bleed."}, "sign": True}).json()
    assert amended["status"] == "amended" and len(client.get(f"/v1/drafts/{draft['id']}").json()["history"]) == 5
    steps = [row[1] for row in reversed(audited(desk)) if row[3] == draft["id"]]
    assert steps == ["look", "edit", "make-preliminary", "sign", "amend", "look"]
    assert ("local", "look", "study", study) in audited(desk)


def test_a_final_report_is_amended_only_with_a_signature_and_a_change(client, draft):
    address = f"/v1/drafts/{draft['id']}"
    client.post(f"{address}/sign", json={"version": 1})
    change = {"version": 2, "sections": {"impression": "No bleed."}}
    refused(client.post(f"{address}/amend", json=change), 422, "E109", "sign")
    refused(client.post(f"{address}/amend", json={**change, "sign": False}), 422, "E109", "sign")
    same = {"version": 2, "sections": {"impression": "Bleed."}, "sign": True}
    refused(client.post(f"{address}/amend", json=same), 422, "E109", "nothing was changed")
    assert client.get(address).json()["status"] == "final"
    amended = client.post(f"{address}/amend", json={**change, "sign": True}).json()
    assert (amended["status"], amended["signed_by"]) == ("amended", "local")


def test_an_old_version_is_a_conflict_and_changes_nothing(client, draft):
    address = f"/v1/drafts/{draft['id']}"
    assert client.put(address, json={"version": 1, "sections": {"findings": "Mine."}}).status_code == 200
    refused(client.put(address, json={"version": 1, "sections": {"findings": "Yours."}}), 409, "E111", "version")
    refused(client.post(f"{address}/sign", json={"version": 1}), 409, "E111")
    assert client.get(address).json()["sections"]["findings"] == "Mine."


def test_a_cancelled_draft_cannot_be_signed(client, draft):
    address = f"/v1/drafts/{draft['id']}"
    assert client.post(f"{address}/cancel", json={"version": 1}).json()["status"] == "cancelled"
    refused(client.post(f"{address}/sign", json={"version": 2}), 409, "E111")


def test_an_unknown_section_or_a_missing_version_is_named(client, draft):
    refused(client.put(f"/v1/drafts/{draft['id']}", json={"version": 1, "sections": {"opinion": "x"}}), 422, "E109", "opinion")
    refused(client.post(f"/v1/drafts/{draft['id']}/sign", json={}), 422, "E109", "version")


def test_a_mask_that_no_finding_names_is_404_wherever_it_points(client, draft):
    for name in ("f1", "..%2f..%2fwetread", "%2fetc%2fpasswd"):
        refused(client.get(f"/v1/drafts/{draft['id']}/masks/{name}"), 404, "E110")


def test_an_explicit_call_completes_a_study(client, desk):
    desk.instance_kept({"StudyInstanceUID": "1.9", "SOPInstanceUID": "1.9.1", "sha256": "x", "path": "x", "source": "test"})
    assert client.post("/v1/studies/1.9/complete").json()["state"] == "complete"
    assert ("local", "complete", "study", "1.9") in audited(desk)


# -- the service itself ----------------------------------------------------------------------------------------------


def test_health_and_readiness_are_told_and_a_lost_store_is_503(client, desk, home, monkeypatch):
    monkeypatch.setattr("api.store.PROBE_S", 0.0)
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/ready").json() == {"ready": True, "store": "ok", "suggester": "loaded", "reporter": "loaded"}
    with desk.store.write() as tx:
        tx.connection.exec_driver_sql("DROP TABLE jobs")
    answer = client.get("/ready")
    assert answer.status_code == 503 and answer.json()["ready"] is False


def test_readiness_is_looked_at_anew_when_something_was_refused(client, desk, monkeypatch):
    monkeypatch.setattr("api.store.PROBE_S", 1e9)
    assert client.get("/ready").status_code == 200
    with desk.store.write() as tx:
        tx.connection.exec_driver_sql("DROP TABLE jobs")
    assert client.get("/ready").status_code == 200          # as found before
    assert client.post("/v1/orders", json={"order_text": "headache"}).status_code == 503
    assert client.get("/ready").status_code == 503


def test_readiness_says_how_far_the_models_of_the_worker_are(desk):
    from api.inference import LateReporter, LateSuggester

    late = TextDesk(desk.store, desk.settings, LateSuggester("cpu"), LateReporter("cpu"))
    app = create_app(late, late.settings)
    client = TestClient(app, base_url=HERE)
    assert client.get("/ready").json() == {"ready": True, "store": "ok", "suggester": "not yet loaded", "reporter": "not yet loaded"}
    app.state.worker_models = lambda: {"suggester": "loading", "reporter": "not yet loaded"}
    assert client.get("/ready").json() == {"ready": True, "store": "ok", "suggester": "loading", "reporter": "not yet loaded"}
    app.state.worker_models = lambda: {"suggester": "loaded", "reporter": "none"}
    assert client.get("/ready").json() == {"ready": True, "store": "ok", "suggester": "loaded", "reporter": "none"}


def test_openapi_and_the_pages_name_no_address_outside(client):
    described = client.get("/openapi.json")
    assert {"/v1/protocols/suggest", "/v1/orders", "/v1/studies", "/dicomweb/studies", "/v1/drafts/{id}/sign"} <= set(described.json()["paths"])
    for text in (described.text, client.get("/docs").text, client.get("/orders").text, client.get("/static/style.css").text,
                 client.get("/static/viewer.js").text, client.get("/static/keys.js").text):
        assert not re.search(r"https?://|[\"'(]//", text)
    assert "/v1/drafts/{id}/sign" in client.get("/docs").text


def test_every_answer_forbids_inline_script_frames_and_caching(client):
    for address in ("/orders", "/v1/orders", "/v1/none", "/health"):
        headers = client.get(address).headers
        policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
        assert policy["script-src"] == policy["style-src"] == "'self'" and policy["default-src"] == "'none'"
        assert (headers["x-frame-options"], headers["x-content-type-options"], headers["cache-control"]) == ("DENY", "nosniff", "no-store")


def test_a_mistake_of_ours_shows_a_number_and_is_logged_without_words(client, desk, caplog):
    def wrong(*_):
        raise RuntimeError("Muster^Erika")

    desk.orders = wrong
    answer = client.get("/v1/orders")
    refused(answer, 500, "E100", "number")
    assert "Muster" not in answer.text + caplog.text and "RuntimeError" in caplog.text


