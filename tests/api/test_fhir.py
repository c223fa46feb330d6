"""FHIR R4: what is read, searched and taken, and that two public validators find nothing wrong in what we send."""
import base64
import json
from dataclasses import replace

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from api.fhir.intake import read_request
from api.fhir.orders import order_from
from api.fhir.resources import names
from api.fhir.resources import observation as resource_of_a_finding
from data.errors import InputError
from data.records import Finding, ImageEvidence, Order
from tests.api.fhir_samples import PATIENT, errors_of, node_errors, observation, service_request
from tests.api.web import HERE, OneFinding, TextDesk, WordSuggester, audited, work

ORDERS = "/fhir/ServiceRequest"
JSON = {"content-type": "application/fhir+json"}
NAMES = ["Müller^Jürgen", "山田^太郎", "محمد^علي", "Łukasiewicz^Æsa", "O'Neill-Søren^Zoë", "한^지민"]


class Measured(OneFinding):
    def draft(self, images, order, priors=()):
        draft, masks = super().draft(images, order)
        more = Finding("f2", "subdural_haemorrhage", "subdural haematoma", True, 0.9, side="left", region="convexity", size_mm=7.5, volume_ml=31.0,
                       evidence=(ImageEvidence("1.2.3", 4),))
        return replace(draft, findings=(*draft.findings, more, replace(more, id="f3", present=False)), model={"findings": "m-1"}), masks


@pytest.fixture
def desk(sqlite_desk):
    return sqlite_desk(TextDesk, WordSuggester(), Measured(), public_url="https://wetread.hospital")


@pytest.fixture
def client(desk):
    return TestClient(create_app(desk, desk.settings), base_url=HERE)


def order(number="A1", text="fall ?bleed", name="Müller^Eva", status="active", patient="M1", **more):
    family, _, given = name.partition("^")
    person = {**PATIENT, "identifier": [{**PATIENT["identifier"][0], "value": patient}], "name": [{"family": family, "given": [given]}]}
    body = service_request(text, "MR BRAIN", status=status, contained=[person], subject={"reference": "#p1"}, **{
        "priority": "urgent", "identifier": [{"system": "https://ehr.hospital/orders", "value": number}], **more})
    return {key: value for key, value in body.items() if key != "id" or "id" in more}


def sent(client, **more):
    answer = client.post(ORDERS, json=order(**more), headers=JSON)
    assert answer.status_code in (200, 201), answer.text
    return answer.json()["id"]


def got(client, path):
    answer = client.get(path)
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("application/fhir+json"), answer.text
    return answer.json()


def resources(client, path):
    return [entry["resource"] for entry in got(client, path).get("entry", [])]


def refused(answer, status, issue, code, *words):
    """An OperationOutcome with our code, itself valid, never a traceback and never a value."""
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert answer.headers["content-type"].startswith("application/fhir+json") and body["resourceType"] == "OperationOutcome"
    assert body["issue"][0]["code"] == issue and body["issue"][0]["details"]["coding"][0]["code"] == code
    assert errors_of(body) == [] and "Traceback" not in answer.text and all(word in answer.text for word in words)


@pytest.fixture
def full(client, desk):
    """An order decided on, its study with a draft; gives (order id, study UID, draft)."""
    id = sent(client, number="A1", text="fall ?bleed", name="山田^太郎")
    work(desk)
    desk.decide(id, "accept", user="anna")
    uid = "1.2.840.99.1"
    desk.instance_kept({"StudyInstanceUID": uid, "SOPInstanceUID": f"{uid}.1", "SeriesInstanceUID": f"{uid}.0", "PatientID": "M1",
                        "PatientName": "Yamada^Tarou=山田^太郎", "PatientBirthDate": "19600101", "PatientSex": "F", "Modality": "CT",
                        "StudyDate": "20261126", "StudyDescription": "CT head", "SeriesNumber": "2", "AccessionNumber": "ACC1", "sha256": "x",
                        "path": "none.dcm", "source": "test"})
    with desk.store.write() as tx:
        tx.change("studies", {"id": uid}, order_id=id)
    desk.complete_study(uid)
    work(desk)
    return id, uid, desk.study(uid)["draft"]


def everything(client, id, uid, draft):
    found = [got(client, "/fhir/metadata"), got(client, f"{ORDERS}?_count=1"), *resources(client, "/fhir/Observation")]
    for kind in ("ServiceRequest", "Task", "ImagingStudy", "DiagnosticReport"):
        found += resources(client, f"/fhir/{kind}")
    for target in (f"DiagnosticReport/{draft['id']}", f"Task/{id}"):
        found += resources(client, f"/fhir/Provenance?target={target}")
    return found


# -- out -------------------------------------------------------------------------------------------------------------


def test_every_resource_we_send_passes_fhirkit(client, desk, full):
    for step in (None, desk.make_preliminary, desk.sign_draft):
        if step:
            step(full[2]["id"], "anna", desk.draft(full[2]["id"])["version"])
        found = everything(client, *full)
        kinds = {"CapabilityStatement", "Bundle", "ServiceRequest", "Task", "ImagingStudy", "DiagnosticReport", "Provenance"}
        assert {row["resourceType"] for row in found} >= kinds
        assert {row["resourceType"]: errors for row in found if (errors := errors_of(row))} == {}
    assert any(row["resourceType"] == "Observation" for row in found)


def test_every_resource_we_send_passes_npms_fhir(client, desk, full):
    desk.sign_draft(full[2]["id"], "anna", full[2]["version"])
    found = everything(client, *full)
    outcome = client.get("/fhir/None/1").json()
    assert {row["resourceType"]: errors for row, errors in zip([*found, outcome], node_errors([*found, outcome]), strict=True) if errors} == {}


def test_an_order_reads_back_as_it_was_sent(client, desk):
    id = sent(client, number="A7", text="Grüße, ?bleed 山田", priority="stat", requester={"display": "Dr. Ärzte"},
              occurrenceDateTime="2026-11-26T08:00:00+01:00",
              code={"coding": [{"system": "http://loinc.org", "code": "30657-1"}], "text": "MR BRAIN WO"})
    row = got(client, f"{ORDERS}/{id}")
    assert (row["status"], row["intent"], row["priority"], row["occurrenceDateTime"]) == ("active", "order", "stat", "2026-11-26")
    assert row["reasonCode"] == [{"text": "Grüße, ?bleed 山田"}] and row["requester"] == {"display": "Dr. Ärzte"}
    assert row["code"] == {"coding": [{"code": "30657-1", "display": "MR BRAIN WO"}], "text": "MR BRAIN WO"}
    assert (row["identifier"][0]["system"], row["identifier"][0]["value"]) == ("https://ehr.hospital/orders", "A7")
    assert row["contained"][0]["birthDate"] == "1960-01-01" and row["contained"][0]["gender"] == "female"
    assert ("local", "look", "ServiceRequest", id) in audited(desk)


@pytest.mark.parametrize("name", NAMES)
def test_names_come_out_byte_for_byte_as_fhir_and_as_hl7(client, desk, name):
    from api.hl7.outgoing import order_update
    from api.order_steps import present

    id = sent(client, name=name)
    raw = client.get(f"{ORDERS}/{id}").content
    family, _, given = name.partition("^")
    assert f'"family":"{family}"'.encode() in raw and given.encode() in raw
    assert desk.order(id)["order"]["patient"]["name"] == name
    with desk.store.read() as tx:
        row = present(tx.one("orders", id=id))
    assert f"|{name}|".encode() in order_update(row, None, None, "C1", "2026-11-26T08:00:00.000Z")


def test_the_groups_of_a_dicom_name_are_names_of_their_own(client, full):
    study, = resources(client, "/fhir/ImagingStudy")
    said = [(name["extension"][0]["valueCode"], name["family"], name["given"]) for name in study["contained"][0]["name"]]
    assert said == [("ABC", "Yamada", ["Tarou"]), ("IDE", "山田", ["太郎"])]
    assert names("Doe^John^Q^Dr^Jr") == [{"family": "Doe", "given": ["John", "Q"], "prefix": ["Dr"], "suffix": ["Jr"]}] and names("") == []


@pytest.mark.parametrize("step, status", [
    ((), "registered"), (("make_preliminary",), "preliminary"), (("make_preliminary", "sign_draft"), "final"),
    (("sign_draft", "amend_draft"), "amended"), (("cancel_draft",), "cancelled"), (("make_preliminary", "cancel_draft"), "entered-in-error"),
])
def test_a_reports_status_is_the_drafts_and_its_words_leave_only_once_released(client, desk, full, step, status):
    id = full[2]["id"]
    for name in step:
        more = ({"impression": "Large bleed."},) if name == "amend_draft" else ()
        getattr(desk, name)(id, *more, "anna", desk.draft(id)["version"])
    report = got(client, f"/fhir/DiagnosticReport/{id}")
    out = status in ("preliminary", "final", "amended")
    assert report["status"] == status and ("presentedForm" in report) == ("conclusion" in report) == ("result" in report) == out
    assert report["basedOn"] == [{"reference": f"ServiceRequest/{full[0]}"}] and report["imagingStudy"] == [{"reference": f"ImagingStudy/{full[1]}"}]
    assert len(resources(client, "/fhir/Observation")) == out
    if out:
        words = base64.b64decode(report["presentedForm"][0]["data"]).decode()
        assert report["conclusion"] in words and "A clot." in words
    assert [row["id"] for row in resources(client, f"/fhir/DiagnosticReport?status={status}")] == [id]
    other = "cancelled" if status == "entered-in-error" else "entered-in-error"
    assert resources(client, f"/fhir/DiagnosticReport?status={other}") == []


def test_measurements_are_observations_in_ucum(client, desk, full):
    desk.sign_draft(full[2]["id"], "anna", full[2]["version"])
    row = got(client, f"/fhir/Observation/{full[2]['id']}-f2")
    assert [(part["code"]["text"], part["valueQuantity"]["value"], part["valueQuantity"]["code"]) for part in row["component"]] == \
        [("Size", 7.5, "mm"), ("Volume", 31.0, "mL")]
    assert row["bodySite"] == {"text": "left convexity"} and row["status"] == "final"
    assert all(part["valueQuantity"]["system"] == "http://unitsofmeasure.org" for part in row["component"])
    report = got(client, f"/fhir/DiagnosticReport/{full[2]['id']}")
    assert report["result"] == [{"reference": f"Observation/{row['id']}"}]
    refused(client.get(f"/fhir/Observation/{full[2]['id']}-f3"), 404, "not-found", "E110")


@pytest.mark.parametrize(("band", "words"), [("state", "subdural haematoma"), ("hedge", "possible subdural haematoma")])
def test_what_is_measured_and_only_possible_is_called_so(band, words):
    finding = {"id": "f2", "code": "subdural_haemorrhage", "label": "subdural haematoma", "band": band, "side": "left", "region": "", "size_mm": 7.5,
               "volume_ml": None, "count": None}
    draft = {"id": "d1", "version": 2, "status": "final", "signed": "2026-11-26T08:00:00.000Z", "updated": "2026-11-26T08:00:00.000Z"}
    row = resource_of_a_finding(draft, {"id": "1.2.3", "patient": {"id": "M1"}, "order_id": None, "date": "20261126"}, finding)
    assert (row["code"]["text"], row["code"]["coding"][0]["display"]) == (words, "subdural haematoma") and errors_of(row) == []


def test_the_task_follows_the_protocoling(client, desk):
    id = sent(client)
    assert got(client, f"/fhir/Task/{id}")["status"] == "requested"
    work(desk)
    task = got(client, f"/fhir/Task/{id}")
    assert task["status"] == "ready" and task["input"][0]["valueCodeableConcept"]["coding"][0]["code"] == "CT_HEAD_WO"
    desk.decide(id, "change", "CT_HEAD_WWO", user="anna")
    task = got(client, f"/fhir/Task/{id}")
    assert task["status"] == "completed" and task["owner"] == {"display": "anna"} and task["focus"] == {"reference": f"ServiceRequest/{id}"}
    assert task["output"][0]["valueCodeableConcept"]["coding"][0]["code"] == "CT_HEAD_WWO"
    assert got(client, f"{ORDERS}/{id}")["orderDetail"][0]["coding"][0]["code"] == "CT_HEAD_WWO"
    sent(client, status="revoked")
    assert got(client, f"/fhir/Task/{id}")["status"] == "cancelled" and got(client, f"{ORDERS}/{id}")["status"] == "revoked"


def test_provenance_tells_the_model_from_the_person(client, desk, full):
    desk.sign_draft(full[2]["id"], "anna", full[2]["version"])
    first, signed = resources(client, f"/fhir/Provenance?target=DiagnosticReport/{full[2]['id']}")
    assert first["agent"][0]["who"]["reference"] == "#model" and "m-1" in first["contained"][0]["deviceName"][0]["name"]
    assert signed["agent"][0]["who"] == {"display": "anna"} and signed["activity"] == {"text": "final"}
    suggested, decided = resources(client, f"/fhir/Provenance?target=Task/{full[0]}")
    assert "m1" in suggested["contained"][0]["deviceName"][0]["name"] and decided["agent"][0]["who"] == {"display": "anna"}
    for row in (first, signed, suggested, decided):
        assert got(client, f"/fhir/Provenance/{row['id']}") == row


def test_unsafe_uids_do_not_become_addresses(client, desk):
    desk.instance_kept({"StudyInstanceUID": "../x?y", "SOPInstanceUID": "1", "SeriesInstanceUID": "2", "PatientID": "M1", "Modality": "CT",
                        "sha256": "z", "path": "none.dcm", "source": "test"})
    assert resources(client, "/fhir/ImagingStudy") == []


# -- search ----------------------------------------------------------------------------------------------------------


def test_pages_hold_every_order_once_also_when_more_come_meanwhile(client):
    ids = {sent(client, number=f"N{n}") for n in range(7)}
    seen, url = [], f"{HERE}{ORDERS}?_count=3"
    while url:
        page = got(client, url.replace("https://wetread.hospital", HERE))
        seen += [entry["resource"]["id"] for entry in page["entry"]]
        url = next((link["url"] for link in page["link"] if link["relation"] == "next"), None)
        ids.add(sent(client, number=f"late{len(seen)}")) if len(seen) < 6 else None
    assert len(seen) == len(set(seen)) and set(seen) == ids


@pytest.mark.parametrize("query, expected", [
    ("identifier=A1", "A1"), ("identifier=https://ehr.hospital/orders|A2", "A2"), ("identifier=A1,A2", "A1 A2"), ("identifier=none", ""),
    ("status=active", "A1 A2"), ("status=revoked", "A3"), ("status=active,revoked", "A1 A2 A3"), ("status=completed", ""),
    ("patient.identifier=M2", "A2"), ("subject:identifier=|M2", "A2"), ("patient.identifier=M1&status=active", "A1"),
    ("authored=ge2020-01-01", "A1 A2 A3"), ("authored=lt2020", ""), ("_lastUpdated=gt2020-01-01T00:00:00Z", "A1 A2 A3"),
    ("authored=ge2020-01-01&authored=lt2020-02", ""), ("_sort=-authored", "A3 A2 A1"), ("_sort=authored&_count=2&_offset=1", "A2 A3"),
    ("status=active&status=revoked", ""),
])
def test_orders_are_found_by(client, query, expected):
    sent(client, number="A1", patient="M1"), sent(client, number="A2", patient="M2"), sent(client, number="A3", patient="M1", status="revoked")
    assert " ".join(row["identifier"][0]["value"] for row in resources(client, f"{ORDERS}?{query}")) == expected


def test_an_order_that_its_sender_holds_is_on_hold_until_it_is_released_or_cancelled(client, desk):
    held, other = (desk.add_order(Order(text="fall ?bleed", placer_number=number)) for number in ("A1", "A2"))

    def event(control):
        assert desk.add_order(Order(text="", placer_number="A1", control=control)) == held

    def found(query):
        return [row["id"] for row in resources(client, f"{ORDERS}?{query}")]

    event("hold")
    assert got(client, f"{ORDERS}/{held}")["status"] == "on-hold"
    assert (found("status=on-hold"), found("status=active"), found("status=active,on-hold")) == ([held], [other], [held, other])
    assert found("status=active&status=on-hold") == [] and found("status=active,revoked") == [other]
    assert client.get(f"{ORDERS}?status=on-hold,revoked").status_code == 400
    event("release")
    assert found("status=active") == [held, other]
    event("hold")
    event("cancel")
    assert got(client, f"{ORDERS}/{held}")["status"] == "revoked" and (found("status=on-hold"), found("status=revoked")) == ([], [held])


def test_other_types_are_found_by_their_order_study_and_patient(client, desk, full):
    id, uid, draft = full
    desk.sign_draft(draft["id"], "anna", draft["version"])
    for query in (f"ImagingStudy?basedon=ServiceRequest/{id}", f"ImagingStudy?identifier=urn:oid:{uid}", "ImagingStudy?identifier=ACC1",
                  "ImagingStudy?started=2026-11-26", f"DiagnosticReport?based-on={id}", "DiagnosticReport?patient.identifier=M1",
                  "DiagnosticReport?identifier=ACC1", f"Task?focus=ServiceRequest/{id}", "Task?status=completed",
                  f"Observation?derived-from=ImagingStudy/{uid}", "Observation?subject.identifier=M1"):
        page = got(client, f"/fhir/{query}")
        assert len(page.get("entry", [])) == 1 == page["total"], query
    for query in ("ImagingStudy?started=lt2026-11-26", "DiagnosticReport?based-on=ServiceRequest/none", "Task?focus=Patient/" + id,
                  "Observation?subject.identifier=M9"):
        assert got(client, f"/fhir/{query}")["total"] == 0, query


@pytest.mark.parametrize("query, word", [
    ("colour=red", "colour"), ("patient=Patient/1", "patient"), ("_count=x", "_count"), ("_offset=-1", "_offset"), ("_sort=colour", "_sort"),
    ("authored=yesterday", "authored"), ("authored=2026-13-45", "authored"), ("status=", "status"), ("identifier=" + "x" * 3000, "identifier"),
])
def test_a_search_that_cannot_be_understood_is_refused_not_widened(client, query, word):
    refused(client.get(f"{ORDERS}?{query}"), 400, "invalid", "E109", word)


def test_a_search_may_come_as_a_form(client):
    sent(client, number="A1")
    answer = client.post(f"{ORDERS}/_search", data={"identifier": "A1"})
    assert answer.status_code == 200 and answer.json()["total"] == 1


# -- in --------------------------------------------------------------------------------------------------------------


def test_an_order_sent_twice_is_one_order_and_a_change_is_a_change(client, desk):
    first = client.post(ORDERS, json=order(), headers=JSON)
    assert first.status_code == 201 and first.headers["location"].endswith(f"/fhir/ServiceRequest/{first.json()['id']}")
    again = client.post(ORDERS, json=order(), headers=JSON)
    assert again.status_code == 200 and again.json()["id"] == first.json()["id"] and again.headers["etag"] == first.headers["etag"] == 'W/"1"'
    changed = client.post(ORDERS, json=order(text="now weak on the left"), headers=JSON)
    assert (changed.status_code, changed.headers["etag"]) == (200, 'W/"2"') and len(desk.orders()) == 1
    other = order()
    other["identifier"][0]["system"] = "https://other.hospital/orders"
    assert client.post(ORDERS, json=other, headers=JSON).status_code == 201 and len(desk.orders()) == 2, "another system's A1 is another order"


def test_an_order_by_fhir_gets_its_suggestion_as_one_by_hl7(client, desk):
    id = sent(client)
    work(desk)
    assert desk.order(id)["state"] == "suggested" and desk.order(id)["suggestion"]["ranked"][0]["protocol"] == "CT_HEAD_WO"


def test_put_changes_and_cancels_the_order_of_its_address_and_knows_versions(client, desk):
    id = sent(client)
    put = client.put(f"{ORDERS}/{id}", json=order(text="?bleed, now worse", id=id), headers={**JSON, "If-Match": 'W/"1"'})
    assert put.status_code == 200 and put.headers["etag"] == 'W/"2"' and desk.order(id)["order"]["text"] == "?bleed, now worse"
    refused(client.put(f"{ORDERS}/{id}", json=order(text="old", id=id), headers={**JSON, "If-Match": 'W/"1"'}), 412, "conflict", "E111", "version")
    assert client.put(f"{ORDERS}/{id}", json=order(status="entered-in-error", id=id), headers=JSON).json()["status"] == "revoked"
    refused(client.put(f"{ORDERS}/none", json=order(id="none"), headers=JSON), 404, "not-found", "E110")
    refused(client.put(f"{ORDERS}/{id}", json=order(id="other"), headers=JSON), 422, "processing", "E109", "id")
    refused(client.put(f"{ORDERS}/{id}", json=order(number="B9", id=id), headers=JSON), 422, "processing", "E109", "identifier")
    refused(client.put(f"{ORDERS}/{id}", json=order(patient="M9", id=id), headers=JSON), 422, "processing", "E109", "subject")


def test_contained_facts_reach_the_safety_rules(client, desk):
    body = order()
    body["contained"] += [observation("33914-3", valueQuantity={"value": 22}, effectiveDateTime="2026-11-01"),
                          {"resourceType": "AllergyIntolerance", "code": {"text": "Gadobutrol"},
                           "reaction": [{"manifestation": [{"text": "Anaphylaxis"}]}]},
                          {"resourceType": "Device", "deviceName": [{"name": "Pacemaker"}]}]
    facts = desk.order(client.post(ORDERS, json=body, headers=JSON).json()["id"])["order"]["facts"]
    assert (facts["egfr"], facts["egfr_date"], facts["allergies"], facts["implants"]) == (22, "20261101", ["Gadobutrol: Anaphylaxis"], ["Pacemaker"])


@pytest.mark.parametrize("known, expected", [
    ([observation("29463-7", valueQuantity={"value": 220, "code": "[lb_av]"})], {"weight_kg": pytest.approx(99.79, abs=0.01)}),
    ([observation("33914-3", valueQuantity={"value": 90}, effectiveDateTime="2020-01-01"),
      observation("33914-3", valueQuantity={"value": 20}, effectiveDateTime="2026-01-01")], {"egfr": 20}),
    ([{**observation("33914-3", valueQuantity={"value": 20}), "status": "entered-in-error"}], {"egfr": None}),
    ([observation("82810-3", valueCodeableConcept={"text": "Not pregnant"})], {"pregnant": False}),
    ([{"resourceType": "Condition", "code": {"coding": [{"system": "http://snomed.info/sct", "code": "77386006"}]}}], {"pregnant": True}),
    ([{"resourceType": "Condition", "code": {"text": "Cardiac pacemaker in situ"}}], {"implants": ("Cardiac pacemaker in situ",)}),
    ([{"resourceType": "AllergyIntolerance", "code": {"text": "No known allergies"}}], {"allergies": ()}),
    ([{"resourceType": "AllergyIntolerance", "code": {"text": "Iodine"}, "verificationStatus": {"coding": [{"code": "refuted"}]}}],
     {"allergies": ()}),
])
def test_facts_are_read_as_a_person_would(known, expected):
    facts = order_from(service_request(), known).facts
    assert {name: getattr(facts, name) for name in expected} == expected


@pytest.mark.parametrize("change, word", [
    ({"resourceType": "Patient"}, "resourceType"), ({"status": "sent"}, "status"), ({"intent": None}, "intent"), ({"priority": "now"}, "priority"),
    ({"identifier": []}, "identifier"), ({"identifier": "A1"}, "identifier"), ({"contained": [], "subject": {"reference": "Patient/1"}}, "subject"),
    ({"doNotPerform": True}, "doNotPerform"), ({"modifierExtension": [{"url": "x"}]}, "modifierExtension"),
    ({"code": {}, "reasonCode": []}, "reasonCode"),
    ({"note": [3]}, "note"), ({"subject": []}, "subject"),
])
def test_a_request_that_cannot_be_an_order_is_told_which_element_and_never_echoed(client, desk, change, word):
    answer = client.post(ORDERS, json={**order(text="SECRET"), **change}, headers=JSON)
    refused(answer, 422, "processing", "E109", word)
    assert "SECRET" not in answer.text and desk.orders() == []


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[" * 100, b"[" * 100_000, b'{"a":' * 60 + b"1" + b"}" * 60, b'{"x": 1e999}',
                                  b'{"x": "\\ud800"}'])
def test_bytes_that_are_no_json_are_400(client, body):
    refused(client.post(ORDERS, content=body, headers=JSON), 400, "invalid", "E109")


def test_other_addresses_types_and_sizes_are_refused_in_fhir(client, desk):
    refused(client.post(ORDERS, content=b"<ServiceRequest/>", headers={"content-type": "application/fhir+xml"}), 415, "not-supported", "E109")
    refused(client.get(ORDERS, headers={"accept": "application/fhir+xml"}), 406, "not-supported", "E109")
    refused(client.get("/fhir/Encounter"), 404, "not-found", "E110")
    refused(client.get("/fhir/Task/a%20b"), 422, "processing", "E109")
    refused(client.delete(f"{ORDERS}/x"), 405, "not-supported", "E109")
    refused(client.post(ORDERS, content=b"x" * (10 << 20) + b"x", headers=JSON), 413, "too-long", "E109")
    with TestClient(create_app(desk, replace(desk.settings, host="0.0.0.0")), base_url=HERE) as outside:
        refused(outside.get(ORDERS), 401, "login", "E112")
        assert outside.get("/fhir/metadata").status_code == 200


@pytest.mark.parametrize("text", ["a|b^c~d\\e&f", "</div><script>x</script>", '"}],"status":"final', "\r\nMSH|^~\\&|", "\x0b\x1c\r", "\u202e\u0000x"])
def test_text_stays_text(client, desk, text):
    id = sent(client, text=f"?bleed {text}")
    raw = client.get(f"{ORDERS}/{id}")
    assert json.loads(raw.content)["reasonCode"][0]["text"] == f"?bleed {text}".strip()
    assert errors_of(raw.json()) == [] or any(character < " " for character in text)


@pytest.mark.parametrize("status", ["draft", "unknown"])
def test_an_order_that_is_not_given_yet_is_not_taken_as_one(status):
    with pytest.raises(InputError, match="status"):
        read_request(order(status=status))
