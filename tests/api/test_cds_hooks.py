"""CDS Hooks: what a call is answered, whatever the model, the prefetch or the FHIR server do, and who may call."""
import asyncio
import json
import re
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from api.cds.cards import OVERRIDE_REASONS
from api.cds.child import ChildSuggester
from api.cds.prompt import Prompt
from api.settings import CdsClient, FhirServer, read_settings
from data.errors import InputError, ModelError
from data.records import Order
from tests.api.fhir_samples import PATIENT, bundle, errors_of, hook_call, observation, service_request
from tests.api.web import HERE, TextDesk, WordSuggester, audited, refused

SIGN, SELECT = "/cds-services/wetread-order-sign", "/cds-services/wetread-order-select"


class Rules:
    """Stands for book and rules: its answer has no model."""

    def suggest(self, order):
        return replace(WordSuggester().suggest(order), model="")


class Hangs:
    def __init__(self):
        self.go = threading.Event()

    def suggest(self, order):
        self.go.wait(20)
        return WordSuggester().suggest(order)


@pytest.fixture
def desk(sqlite_desk):
    return sqlite_desk(TextDesk, WordSuggester(), cds_jwt=False)


@pytest.fixture(autouse=True)
def unhurried(monkeypatch):
    """These tests say what is answered; on a busy machine a fifth of a second is too short for that."""
    monkeypatch.setattr("api.routes.cds.DEADLINE_S", 6.0)
    monkeypatch.setattr("api.cds.prompt.RULES_S", 5.0)


def client_of(desk, settings=None, model="as the desk", rules=None):
    app = create_app(desk, settings or desk.settings)
    app.state.prompt = Prompt(desk.suggester if model == "as the desk" else model, rules or Rules())
    return TestClient(app, base_url=HERE)


@pytest.fixture
def client(desk):
    with client_of(desk) as opened:
        yield opened


def cards(answer):
    assert answer.status_code == 200, answer.text
    return answer.json()["cards"]


def well_formed(card):
    """What CDS Hooks 2.0 asks of a card."""
    assert len(card["summary"]) < 140 and card["indicator"] in ("info", "warning", "critical") and card["source"]["label"]
    assert re.fullmatch(r"[0-9a-f-]{36}", card["uuid"])
    assert all(reason["code"] and reason["system"] and reason["display"] for reason in card["overrideReasons"])
    if "suggestions" in card:
        assert card["suggestions"] and card["selectionBehavior"] == "at-most-one"
        for suggestion in card["suggestions"]:
            assert suggestion["label"] and [action["type"] for action in suggestion["actions"]] == ["update"]


# -- services and cards ----------------------------------------------------------------------------------------------


def test_discovery_names_both_hooks_with_their_prefetch(client):
    services = client.get("/cds-services").json()["services"]
    assert {service["hook"] for service in services} == {"order-select", "order-sign"}
    for service in services:
        assert service["prefetch"]["patient"] == "Patient/{{context.patientId}}" and service["title"] and service["description"]


@pytest.mark.parametrize("url, hook", [(SIGN, "order-sign"), (SELECT, "order-select")])
def test_the_better_exam_comes_as_an_update_of_the_whole_order(client, url, hook):
    request = service_request("fall ?bleed", "MRI BRAIN W", note=[{"text": "Grüße 山田"}], priority="stat")
    card, = cards(client.post(url, json=hook_call(request, hook=hook)))
    well_formed(card)
    assert card["summary"] == "Suggested protocol: CT head without contrast" and "bleed" in card["detail"] and "90%" in card["detail"]
    first = card["suggestions"][0]
    assert first["isRecommended"]
    resource = first["actions"][0]["resource"]
    assert {**resource, "code": request["code"]} == request, "all but the code stays as it came"
    assert {"system": "http://loinc.org", "code": "30799-1", "display": "CT Head WO contrast"} in resource["code"]["coding"]
    assert errors_of(resource) == []


def test_an_exam_that_fits_is_confirmed_and_not_replaced(client):
    fits = service_request("?bleed", "x", code={"coding": [{"system": "http://loinc.org", "code": "30799-1"}]})
    card, = cards(client.post(SIGN, json=hook_call(fits)))
    assert card["summary"] == "Protocol fits: CT head without contrast" and card["indicator"] == "info" and "suggestions" not in card


@pytest.mark.parametrize("request_", [
    service_request("anaemia", "CBC"), service_request("?PE", "CT CHEST W CONTRAST"), service_request("meniscus", "MR KNEE"),
    service_request("headache", "CT HEAD", doNotPerform=True), service_request("x", "CT HEAD", resourceType="MedicationRequest"),
    service_request("x", "MR BRAIN", category=[{"coding": [{"system": "http://snomed.info/sct", "code": "108252007"}]}]),
    service_request("x", "MR BRAIN", patient="somebody-else"),
])
def test_what_is_no_image_of_head_neck_or_spine_of_this_patient_gets_no_card(client, request_):
    assert cards(client.post(SIGN, json=hook_call(request_))) == []


def test_only_the_selected_orders_are_looked_at(client):
    call = hook_call(service_request("?bleed"), service_request("?bleed", id="sr2"), hook="order-select")
    assert len(cards(client.post(SELECT, json=call))) == 2
    call["context"]["selections"] = ["ServiceRequest/sr2"]
    card, = cards(client.post(SELECT, json=call))
    assert card["suggestions"][0]["actions"][0]["resource"]["id"] == "sr2"


def test_prefetched_facts_reach_the_rules_and_a_stop_flag_is_a_critical_card_with_its_source(client):
    pregnant = observation("82810-3", valueCodeableConcept={"text": "Pregnant"})
    call = hook_call(prefetch={"patient": PATIENT, "body": bundle(pregnant)})
    flag, card = cards(client.post(SIGN, json=call))
    well_formed(flag)
    assert (flag["indicator"], flag["summary"], flag["source"]["label"]) == ("critical", "She is pregnant.", "ACR manual 2024")
    assert "pregnancy" not in card["detail"].partition("Not known here")[2], "what was given is not missing"


def test_another_patients_facts_are_left_out(client):
    other = observation("82810-3", patient="p2", valueCodeableConcept={"text": "Pregnant"})
    assert len(cards(client.post(SIGN, json=hook_call(prefetch={"body": bundle(other)})))) == 1


@pytest.mark.parametrize("prefetch, told", [
    ({}, ["eGFR", "allergies", "age and sex"]), ({"prefetch": None}, ["eGFR", "allergies"]), ({"prefetch": {"egfr": None}}, ["allergies"]),
    ({"prefetch": {"patient": PATIENT, "egfr": None, "body": None, "allergies": None, "implants": None, "conditions": None, "priors": None}}, []),
])
def test_with_partial_or_no_prefetch_the_card_says_what_is_not_known(client, prefetch, told):
    detail = cards(client.post(SIGN, json=hook_call(**prefetch)))[0]["detail"]
    assert ("Not known here" in detail) == bool(told) and all(word in detail for word in told)


def test_text_of_the_order_shows_as_it_is_in_markdown(desk):
    class Quotes(WordSuggester):
        def suggest(self, order):
            found = super().suggest(order)
            return replace(found, evidence=(replace(found.evidence[0], text=order.text),))

    with client_of(desk, model=Quotes()) as client:
        card, = cards(client.post(SIGN, json=hook_call(service_request("bleed <img src=x> [click](http://evil) **big**"))))
    assert "<img" not in card["detail"] and "[click](" not in card["detail"] and "**big" not in card["detail"]


@pytest.mark.parametrize("body, status, word", [
    (b"{", 400, "JSON"), (b"\xff", 400, "UTF-8"), (b"[" * 60 + b"]" * 60, 400, "deep"), (b'{"hook": "\\ud800"}', 400, "half"), (b"[]", 422, "object"),
    (b'{"hook": "order-select"}', 422, "order-sign"), (b'{"hook": "order-sign"}', 422, "hookInstance"),
    (b'{"hook": "order-sign", "hookInstance": "x"}', 422, "draftOrders"), (b'{"a": NaN}', 400, "JSON"),
])
def test_a_body_that_is_no_call_is_told_why(client, body, status, word):
    refused(client.post(SIGN, content=body, headers={"content-type": "application/json"}), status, "E109", word)


@pytest.mark.parametrize("call", [
    {"draftOrders": {}},
    {"draftOrders": {"resourceType": "Bundle", "entry": [None, {"resource": 7}, {"resource": {"resourceType": "ServiceRequest"}}]}},
    {"draftOrders": bundle({"resourceType": "ServiceRequest", "code": [], "reasonCode": {"text": 3}, "identifier": "x", "contained": 1,
                            "note": [[]]})},
    {"patientId": {"x": 1}, "selections": 5, "draftOrders": bundle(service_request(category=["x"], priority=[], subject=None))},
])
def test_odd_types_inside_a_call_break_nothing(client, call):
    answer = client.post(SIGN, json={"hook": "order-sign", "hookInstance": "x", "context": call, "prefetch": {"patient": [], "egfr": "x"}})
    assert answer.status_code == 200


def test_unknown_services_are_404(client):
    refused(client.post("/cds-services/none", json=hook_call()), 404, "E110")
    refused(client.post("/cds-services/none/feedback", json={"feedback": []}), 404, "E110")


# -- no failure of ours blocks an order ------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [None, Hangs(), "raises"])
def test_with_the_model_missing_hung_or_broken_the_rules_answer_in_time(desk, model):
    class Raises:
        def suggest(self, order):
            raise ModelError("gone")

    with client_of(desk, model=Raises() if model == "raises" else model) as client:
        client.get("/cds-services")
        for n in range(3):
            began = time.monotonic()
            card, = cards(client.post(SIGN, json=hook_call(service_request(f"fall {n} ?bleed"))))
            assert time.monotonic() - began < 10, "a model that takes 20 s was waited for"
            assert "no model answered" in card["detail"] and not any(s["isRecommended"] for s in card["suggestions"])
    if isinstance(model, Hangs):
        model.go.set()


def test_with_model_and_rules_hung_the_call_gets_an_empty_list(desk, monkeypatch):
    monkeypatch.setattr("api.routes.cds.DEADLINE_S", 0.2)
    model, rules = Hangs(), Hangs()
    with client_of(desk, model=model, rules=rules) as client:
        assert cards(client.post(SIGN, json=hook_call())) == []
    model.go.set(), rules.go.set()


def test_a_mistake_of_ours_gets_an_empty_list(desk):
    class Odd(WordSuggester):
        def suggest(self, order):
            return replace(super().suggest(order), ranked=({"no": "Ranked"},))

    with client_of(desk, model=Odd()) as client:
        assert cards(client.post(SIGN, json=hook_call())) == []


def test_what_order_select_asked_is_known_when_order_sign_asks_again():
    class Counts(WordSuggester):
        asked = 0

        def suggest(self, order):
            self.asked += 1
            return super().suggest(order)

    async def twice():
        prompt = Prompt(Counts(), None)
        found = [await prompt.suggest(Order(id=str(n), text="?bleed"), time.monotonic() + 15) for n in range(2)]
        return prompt.model.suggester.asked, found

    asked, found = asyncio.run(twice())
    assert asked == 1 and found[0] is found[1]


def test_a_suggester_in_a_child_is_started_again_after_it_died():
    import os
    import signal

    child = ChildSuggester(model=False)
    try:
        assert child.suggest(Order(text="?bleed", ordered_exam="CT HEAD")).ranked
        first = child._pid
        os.kill(first, signal.SIGKILL)
        with pytest.raises(ModelError):
            for _ in range(50):
                child.suggest(Order(text="?bleed"))
        assert child.suggest(Order(text="?bleed")).ranked and child._pid != first
    finally:
        child.stop()


# -- feedback --------------------------------------------------------------------------------------------------------


def test_feedback_is_kept_beside_the_card_it_speaks_of(client, desk):
    card, = cards(client.post(SIGN, json=hook_call()))
    accepted = {"card": card["uuid"], "outcome": "accepted", "acceptedSuggestions": [{"id": card["suggestions"][0]["uuid"]}],
                "outcomeTimestamp": "2026-11-26T08:00:00Z"}
    overridden = {"card": card["uuid"], "outcome": "overridden", "outcomeTimestamp": "2026-11-26T08:01:00Z",
                  "overrideReason": {"reason": {"code": OVERRIDE_REASONS[0][0], "system": "urn:wetread:override-reason"},
                                     "userComment": "Grüße 山田"}}
    for _ in range(2):      # a client sends again what it does not know to have arrived
        assert client.post(SIGN + "/feedback", json={"feedback": [accepted, overridden]}).json() == {"kept": 2}
    until = time.monotonic() + 5
    while (rows := desk.card_feedback())[0]["shown"] is None and time.monotonic() < until:
        client.get("/cds-services")         # the client's loop runs while a request does
        time.sleep(0.1)
    assert [(row["outcome"], row["reason_code"], row["comment"]) for row in rows] == [("overridden", "discussed", "Grüße 山田"), ("accepted", "", "")]
    assert rows[1]["shown"]["protocol"] == "CT_HEAD_WO" and rows[1]["suggestions"] == rows[1]["shown"]["suggestions"][:1]
    assert ("local", "feedback", "cds", "wetread-order-sign") in audited(desk)


@pytest.mark.parametrize("body, word", [
    ({}, "feedback"), ({"feedback": []}, "feedback"), ({"feedback": [{}]}, "card"), ({"feedback": [{"card": "c", "outcome": "liked"}]}, "outcome"),
    ({"feedback": [{"card": "c", "outcome": "accepted", "outcomeTimestamp": "2026"}]}, "acceptedSuggestions"),
    ({"feedback": [{"card": "c", "outcome": "overridden"}]}, "outcomeTimestamp"),
    ({"feedback": [{"card": "c", "outcome": "accepted", "acceptedSuggestions": 3, "outcomeTimestamp": "2026"}]}, "acceptedSuggestions"),
])
def test_feedback_that_lacks_something_is_told_what(client, body, word):
    refused(client.post(SIGN + "/feedback", json=body), 422, "E109", word)


# -- a FHIR server of the client -------------------------------------------------------------------------------------


class FhirStub(BaseHTTPRequestHandler):
    """A FHIR server and its token endpoint; remembers what it was asked."""

    def do_GET(self):
        self.server.asked.append((self.path, self.headers.get("Authorization")))
        time.sleep(self.server.wait_s)
        row = PATIENT if self.path.startswith("/fhir/Patient/") else bundle(observation("82810-3", valueCodeableConcept={"text": "pregnant"}))
        self.answer(302 if self.server.redirect else 200, row)

    def do_POST(self):
        self.server.tokens.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.answer(200, {"access_token": "t0", "token_type": "bearer", "expires_in": 300})

    def answer(self, status, row):
        body = json.dumps(row).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Location", "http://127.0.0.1:9/")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def fhir_server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), FhirStub)
    server.asked, server.tokens, server.wait_s, server.redirect = [], [], 0, False
    server.url = f"http://127.0.0.1:{server.server_address[1]}/fhir"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def fetching(desk, monkeypatch, *servers, wait_s=20.0):
    """A client whose server has time to fetch: what is tested is what it fetches, not how fast this machine is."""
    monkeypatch.setattr("api.routes.cds.FETCH_S", wait_s)
    monkeypatch.setattr("api.routes.cds.DEADLINE_S", 3 * wait_s)
    return client_of(desk, replace(desk.settings, fhir_servers=servers))


def test_absent_prefetch_is_fetched_from_a_server_on_the_list_with_the_token_given(desk, fhir_server, monkeypatch):
    with fetching(desk, monkeypatch, FhirServer(fhir_server.url)) as client:
        call = hook_call(fhirServer=fhir_server.url + "/", fhirAuthorization={"access_token": "abc", "token_type": "Bearer"},
                         prefetch={"priors": None})
        flag, card = cards(client.post(SIGN, json=call))
    assert flag["summary"] == "She is pregnant." and "Not known" not in card["detail"]
    assert {token for _, token in fhir_server.asked} == {"Bearer abc"}
    assert "/fhir/Patient/p1" in {path for path, _ in fhir_server.asked} and not any("ImagingStudy" in path for path, _ in fhir_server.asked)


@pytest.mark.parametrize("asked", ["http://127.0.0.1:{port}/other", "http://localhost:{port}/fhir", "http://127.0.0.1:{port}/fhir/../x",
                                   "file:///etc", "http://127.0.0.1:{port}/fhir?x=", "http://u@127.0.0.1:{port}/fhir",
                                   "http://127.0.0.1:{port}/fhirx", "http://[", 7])
def test_a_server_that_is_not_on_the_list_is_never_asked(desk, fhir_server, monkeypatch, asked):
    port = fhir_server.server_address[1]
    with fetching(desk, monkeypatch, FhirServer(fhir_server.url)) as client:
        url = asked.format(port=port) if isinstance(asked, str) else asked
        assert len(cards(client.post(SIGN, json=hook_call(fhirServer=url)))) == 1
    assert fhir_server.asked == []


def test_a_patient_id_cannot_lead_elsewhere(desk, fhir_server, monkeypatch):
    with fetching(desk, monkeypatch, FhirServer(fhir_server.url)) as client:
        call = hook_call(fhirServer=fhir_server.url)
        call["context"]["patientId"] = "../Secret?x=1"
        client.post(SIGN, json=call)
    assert fhir_server.asked == []


def test_a_slow_or_redirecting_server_costs_the_card_nothing_but_its_facts(desk, fhir_server, monkeypatch):
    fhir_server.redirect = True
    with fetching(desk, monkeypatch, FhirServer(fhir_server.url)) as client:
        assert "allergies" in cards(client.post(SIGN, json=hook_call(fhirServer=fhir_server.url)))[0]["detail"]
    fhir_server.redirect, fhir_server.wait_s = False, 3
    with fetching(desk, monkeypatch, FhirServer(fhir_server.url), wait_s=0.3) as client:
        began = time.monotonic()
        assert "allergies" in cards(client.post(SIGN, json=hook_call(fhirServer=fhir_server.url)))[0]["detail"]
        assert time.monotonic() - began < 2.5


def test_without_a_given_token_we_sign_in_once_by_smart_backend_services(desk, fhir_server, monkeypatch, tmp_path):
    from joserfc import jwt
    from joserfc.jwk import ECKey

    key = ECKey.generate_key("P-384", parameters={"kid": "k1"})
    (tmp_path / "key.json").write_text(json.dumps(key.as_dict(private=True)))
    token_url = fhir_server.url + "/token"
    server = FhirServer(fhir_server.url, "wetread", str(tmp_path / "key.json"), token_url)
    with fetching(desk, monkeypatch, server) as client:
        for n in range(2):
            client.post(SIGN, json=hook_call(service_request(f"bleed {n}"), fhirServer=fhir_server.url))
    assert {token for _, token in fhir_server.asked} == {"Bearer t0"} and len(fhir_server.tokens) == 1
    from urllib.parse import parse_qs
    form = parse_qs(fhir_server.tokens[0])
    assert form["grant_type"] == ["client_credentials"] and "system/Patient.rs" in form["scope"][0]
    token = jwt.decode(form["client_assertion"][0], key, algorithms=["ES384"])
    assert token.header["kid"] == "k1" and (token.claims["iss"], token.claims["sub"], token.claims["aud"]) == ("wetread", "wetread", token_url)
    assert 0 < token.claims["exp"] - token.claims["iat"] <= 300


# -- who may call ----------------------------------------------------------------------------------------------------


@pytest.fixture
def trusted(desk, tmp_path):
    """(client, sign(**changes) -> token): a server that trusts one EHR."""
    from joserfc import jwt
    from joserfc.jwk import ECKey, KeySet, OctKey, RSAKey

    keys = {"ES384": ECKey.generate_key("P-384", parameters={"kid": "e"}), "RS256": RSAKey.generate_key(2048, parameters={"kid": "r"}),
            "ES256": ECKey.generate_key("P-256", parameters={"kid": "e2"})}
    (tmp_path / "jwks.json").write_text(json.dumps(KeySet(list(keys.values())).as_dict(private=False)))
    settings = replace(desk.settings, cds_jwt=True, public_url="https://wetread.hospital",
                       cds_clients=(CdsClient("https://ehr.hospital/", str(tmp_path / "jwks.json")),))
    others = {"HS256": OctKey.generate_key(256, parameters={"kid": "e"}), "stranger": ECKey.generate_key("P-384", parameters={"kid": "e"})}
    count = iter(range(1000))

    def sign(alg="ES384", key=None, header=None, **changes):
        now = int(time.time())
        claims = {"iss": "https://ehr.hospital/", "aud": "https://wetread.hospital" + SIGN, "iat": now, "exp": now + 60,
                  "jti": f"j{next(count)}", **changes}
        signer = keys[alg] if key is None and alg in keys else others[key or alg]
        return jwt.encode({"alg": alg, "typ": "JWT", "kid": signer.kid, **(header or {})},
                          {name: value for name, value in claims.items() if value is not None}, signer, algorithms=[alg])

    with client_of(desk, settings) as client:
        yield client, sign


def with_token(token):
    return {"Authorization": f"Bearer {token}"}


@pytest.mark.parametrize("alg", ["ES384", "RS256", "ES256"])
def test_an_ehr_with_a_good_token_gets_its_cards_and_is_audited_by_its_issuer(trusted, desk, alg):
    client, sign = trusted
    assert len(cards(client.post(SIGN, json=hook_call(), headers=with_token(sign(alg))))) == 1
    body = {"feedback": [{"card": "c", "outcome": "overridden", "outcomeTimestamp": "2026-11-26T08:00:00Z"}]}
    assert client.post(SIGN + "/feedback", json=body, headers=with_token(sign(alg))).status_code == 200
    assert ("cds:https://ehr.hospital/", "feedback", "cds", "wetread-order-sign") in audited(desk)
    assert client.get("/cds-services", headers=with_token(sign(aud=["https://wetread.hospital/cds-services"]))).status_code == 200


@pytest.mark.parametrize("changes, word", [
    ({"iss": "https://other/"}, "iss"), ({"aud": "https://wetread.hospital/cds-services"}, "aud"), ({"aud": None}, "aud"), ({"exp": 1}, "ended"),
    ({"exp": None}, "exp"), ({"iat": None}, "iat"), ({"iat": 2**40, "exp": 2**40 + 9}, "begun"), ({"exp": int(time.time()) + 9999}, "longer"),
    ({"jti": None}, "jti"), ({"alg": "HS256"}, "signature"), ({"key": "stranger"}, "signature"), ({"header": {"kid": "none"}}, "kid"),
    ({"header": {"jku": "https://evil/jwks"}}, "jku"), ({"exp": "soon"}, "exp"),
])
def test_a_token_that_is_not_good_is_refused_with_its_reason(trusted, changes, word):
    client, sign = trusted
    if isinstance(changes.get("exp"), str):
        token = sign().split(".")
        import base64
        token[1] = base64.urlsafe_b64encode(b'{"iss": "https://ehr.hospital/", "exp": "soon"}').decode().rstrip("=")
        answer = client.post(SIGN, json=hook_call(), headers=with_token(".".join(token)))
        return refused(answer, 401, "E112", "signature")
    refused(client.post(SIGN, json=hook_call(), headers=with_token(sign(**changes))), 401, "E112", word)


def test_a_token_is_good_once(trusted):
    client, sign = trusted
    token = sign()
    assert client.post(SIGN, json=hook_call(), headers=with_token(token)).status_code == 200
    refused(client.post(SIGN, json=hook_call(), headers=with_token(token)), 401, "E112", "jti")


@pytest.mark.parametrize("token", ["", "a.b.c", "e30.e30.", "x" * 9000 + ".a.b", "é.é.é",
                                   "eyJhbGciOiJub25lIn0.eyJpc3MiOiJodHRwczovL2Voci5ob3NwaXRhbC8ifQ."])     # alg none
def test_without_a_token_nobody_calls_also_on_this_machine(trusted, token):
    client, _ = trusted
    refused(client.post(SIGN, json=hook_call(), headers={"Authorization": f"Bearer {token}".encode()}), 401, "E112")


def test_a_token_opens_nothing_but_cds_hooks(trusted, desk):
    _, sign = trusted
    with client_of(desk, replace(desk.settings, cds_jwt=True, host="0.0.0.0", cds_clients=(CdsClient("https://ehr.hospital/", "x"),))) as open_host:
        refused(open_host.get("/v1/orders", headers=with_token(sign())), 401, "E112")


def test_an_api_key_serves_as_well_as_a_token(trusted, desk):
    from api.security import new_api_key

    client, _ = trusted
    key, kept = new_api_key()
    desk.store.add_api_key("ehr", kept)
    assert len(cards(client.post(SIGN, json=hook_call(), headers=with_token(key)))) == 1


def test_tokens_can_be_left_out_on_loopback_alone(tmp_path):
    with pytest.raises(InputError, match="loopback"):
        read_settings(tmp_path, {}, host="0.0.0.0", cds_jwt=False)
    assert read_settings(tmp_path, {"WETREAD_CDS_JWT": "false"}).cds_jwt is False


def test_settings_take_plain_http_only_to_this_machine(tmp_path):
    (tmp_path / "settings.toml").write_text('fhir_servers = [{url = "http://fhir.hospital/r4"}]')
    with pytest.raises(InputError, match="https"):
        read_settings(tmp_path, {})
    (tmp_path / "settings.toml").write_text('cds_clients = [{issuer = "https://ehr/", jwks = "https://ehr/jwks"}]\n'
                                            'fhir_servers = [{url = "https://fhir.hospital/r4/"}]\ncds_origins = ["https://EHR.hospital"]')
    settings = read_settings(tmp_path, {})
    assert settings.fhir_servers == (FhirServer("https://fhir.hospital/r4"),) and settings.cds_origins == ("https://ehr.hospital",)


# -- browsers --------------------------------------------------------------------------------------------------------


def test_a_browser_based_client_of_the_list_may_call_and_no_other(desk):
    with client_of(desk, replace(desk.settings, cds_origins=("https://ehr.hospital",))) as client:
        asks = {"Origin": "https://ehr.hospital", "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
        before = client.options(SIGN, headers=asks)
        assert before.status_code == 204 and before.headers["access-control-allow-origin"] == "https://ehr.hospital"
        assert "Authorization" in before.headers["access-control-allow-headers"] and "access-control-allow-credentials" not in before.headers
        answer = client.post(SIGN, json=hook_call(), headers={"Origin": "https://ehr.hospital", "Sec-Fetch-Site": "cross-site"})
        assert cards(answer) and answer.headers["access-control-allow-origin"] == "https://ehr.hospital" and answer.headers["vary"] == "Origin"
        other = client.post(SIGN, json=hook_call(), headers={"Origin": "https://evil"})
        refused(other, 403, "E112", "Origin")
        assert "access-control-allow-origin" not in other.headers
        refused(client.post("/v1/protocols/suggest", json={"order_text": "x"}, headers={"Origin": "https://ehr.hospital"}), 403, "E112")
