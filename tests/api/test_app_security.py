"""Who may speak to the HTTP service, here and beyond loopback."""
import re
import shutil

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from api.security import COOKIE, Tries, hash_password, new_api_key
from api.settings import Settings
from api.store import Store
from data.errors import InputError
from tests.api.web import HERE, OneFinding, TextDesk, WordSuggester, add_draft, audited, refused, work

FAR = "https://wetread.hospital.example"
PASSWORD = "correct horse battery"


def make_desk(template, home, **settings):
    home.mkdir()
    shutil.copy(template, home / "wetread.db")
    return TextDesk(Store.open("", home, upgrade=False), Settings(home=home, **settings), WordSuggester(), OneFinding())


@pytest.fixture(scope="module")
def password_hash():
    return hash_password(PASSWORD)


@pytest.fixture
def desk(sqlite_template, tmp_path, password_hash):
    """A desk that serves beyond loopback, with three people."""
    made = make_desk(sqlite_template, tmp_path / "home", host="0.0.0.0")
    for name, role in (("anna", "radiologist"), ("tom", "technologist"), ("ada", "administrator")):
        made.store.add_user(name, password_hash, role)
    yield made
    made.store.close()


@pytest.fixture
def far(desk):
    return TestClient(create_app(desk, desk.settings), base_url=FAR)


@pytest.fixture
def near(sqlite_template, tmp_path):
    made = make_desk(sqlite_template, tmp_path / "near")
    client = TestClient(create_app(made, made.settings), base_url=HERE)
    yield client
    made.store.close()


def sign_in(client, name="anna"):
    """Sign in by the page's form; gives the session's CSRF token as the page has it."""
    client.cookies.clear()
    answer = client.post("/login", data={"name": name, "password": PASSWORD}, follow_redirects=False)
    assert answer.status_code == 303, answer.text
    return re.search(r'name="csrf" value="([^"]+)"', client.get("/orders").text)[1]


# -- beyond loopback -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method, address", [
    ("GET", "/v1/orders"), ("GET", "/v1/studies"), ("POST", "/v1/protocols/suggest"), ("POST", "/v1/studies"), ("POST", "/dicomweb/studies"),
    ("PUT", "/v1/drafts/x"), ("POST", "/v1/drafts/x/sign"), ("GET", "/v1/studies/x/series/0/pixels"), ("GET", "/v1/drafts/x/masks/y"),
])
def test_beyond_loopback_nothing_of_a_patient_is_said_without_a_key(far, method, address):
    answer = far.request(method, address)
    refused(answer, 401, "E112")
    assert answer.headers["www-authenticate"] == "Bearer"


def test_every_route_but_the_open_ones_needs_a_key(far):
    """Walks the routing table, so that a new route cannot be forgotten."""
    seen = 0
    for path, operations in far.get("/openapi.json").json()["paths"].items():
        for method in operations:
            if path not in ("/health", "/ready", "/fhir/metadata"):
                assert far.request(method.upper(), path).status_code == 401, path
                seen += 1
    assert seen >= 20
    for page in ("/", "/orders", "/studies", "/studies/1.2", "/audit"):
        answer = far.get(page, follow_redirects=False)
        assert answer.status_code == 303 and answer.headers["location"].startswith("/login")
    assert far.get("/health").status_code == far.get("/ready").status_code == far.get("/docs").status_code == 200


def test_a_key_opens_and_its_name_is_what_the_audit_says(far, desk):
    key, kept = new_api_key()
    assert key not in kept
    desk.store.add_api_key("ris", kept)
    assert far.get("/v1/orders", headers={"Authorization": f"Bearer {key}"}).status_code == 200
    assert far.get("/v1/orders", headers={"X-API-Key": key}).status_code == 200
    assert audited(desk)[0][:2] == ("key:ris", "list")
    refused(far.get("/v1/orders", headers={"Authorization": f"Bearer {key}x"}), 401, "E112")


def test_a_program_never_signs(far, desk):
    draft = add_draft(desk)
    key, kept = new_api_key()
    desk.store.add_api_key("ris", kept)
    refused(far.post(f"/v1/drafts/{draft['id']}/sign", json={"version": 1}, headers={"X-API-Key": key}), 403, "E112", "radiologist")
    assert desk.draft(draft["id"])["status"] == "draft"


def test_a_session_needs_the_csrf_token_for_every_change(far, desk):
    draft = add_draft(desk)
    token = sign_in(far)
    address = f"/v1/drafts/{draft['id']}/sign"
    refused(far.post(address, json={"version": 1}), 403, "E112", "CSRF")
    refused(far.post(address, json={"version": 1}, headers={"X-CSRF-Token": "guess"}), 403, "E112", "CSRF")
    page = far.post(f"/drafts/{draft['id']}", data={"version": "1", "action": "sign"})
    assert page.status_code == 403 and "CSRF" in page.text and desk.draft(draft["id"])["status"] == "draft"
    assert far.post(address, json={"version": 1}, headers={"X-CSRF-Token": token}).json()["signed_by"] == "anna"


def test_the_cookie_is_out_of_reach_of_scripts_and_of_plain_http(far):
    answer = far.post("/login", data={"name": "anna", "password": PASSWORD}, follow_redirects=False)
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie and "Secure" in cookie and "SameSite=lax" in cookie


def test_signing_out_ends_the_session_itself(far):
    token = sign_in(far)
    cookie = far.cookies[COOKIE]
    assert far.post("/logout", data={"csrf": token}, follow_redirects=False).status_code == 303
    far.cookies.set(COOKIE, cookie)
    refused(far.get("/v1/orders"), 401, "E112")


def test_a_wrong_password_and_an_unknown_name_get_the_same_words(far, desk):
    wrong = far.post("/login", data={"name": "anna", "password": "wrong password"})
    unknown = far.post("/login", data={"name": "nobody", "password": "wrong password"})
    assert wrong.status_code == unknown.status_code == 401 and wrong.text == unknown.text
    assert ("anna", "login-failed", "session", "") in audited(desk)


def test_guessing_passwords_has_to_wait():
    tries = Tries()
    for _ in range(5):
        tries.check("anna")
        tries.note("anna", False)
    with pytest.raises(Exception, match="wait"):
        tries.check("anna")
    tries.check("tom")


@pytest.mark.parametrize("next", ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:alert(1)"])
def test_signing_in_never_leads_elsewhere(far, next):
    answer = far.post("/login", data={"name": "anna", "password": PASSWORD, "next": next}, follow_redirects=False)
    assert answer.headers["location"] == "/"


def test_roles_hold(far, desk):
    draft = add_draft(desk)
    token = sign_in(far, "tom")
    headers = {"X-CSRF-Token": token}
    assert far.get("/v1/orders").status_code == 200
    refused(far.post(f"/v1/drafts/{draft['id']}/sign", json={"version": 1}, headers=headers), 403, "E112")
    refused(far.post("/v1/orders/x/decision", json={"action": "accept"}, headers=headers), 403, "E112")
    assert far.get("/audit").status_code == 403
    sign_in(far, "ada")
    assert far.get("/audit").status_code == 200


def test_a_short_password_is_refused_in_words():
    with pytest.raises(InputError, match="10"):
        hash_password("short")


# -- on this machine -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", [
    {"Host": "evil.example"}, {"Host": "127.0.0.1.evil.example:8080"}, {"Origin": "https://evil.example"}, {"Origin": "null"},
    {"Origin": "http://127.0.0.1:9999"}, {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"},
])
def test_on_loopback_a_page_from_elsewhere_can_change_nothing(near, headers):
    refused(near.post("/v1/orders", json={"order_text": "x"}, headers=headers), 403, "E112")
    assert near.app.state.desk.orders() == []


@pytest.mark.parametrize("headers", [{"Host": "evil.example"}, {"Origin": "https://evil.example"}])
def test_on_loopback_a_page_from_elsewhere_sees_nothing(near, headers):
    refused(near.get("/v1/orders", headers=headers), 403, "E112")
    assert near.get("/orders", headers=headers).status_code == 403


@pytest.mark.parametrize("host", ["127.0.0.1:8080", "localhost:8080", "[::1]:8080", "localhost"])
def test_on_loopback_our_own_names_are_served(near, host):
    assert near.get("/v1/orders", headers={"Host": host, "Origin": f"http://{host}"}).status_code == 200


def test_a_form_of_another_kind_is_no_way_around_json(near):
    """text/plain is what a foreign page may send without asking first."""
    answer = near.post("/v1/orders", content='{"order_text": "x"}', headers={"content-type": "text/plain"})
    assert answer.status_code == 422 and near.app.state.desk.orders() == []


# -- what others wrote, on the page ----------------------------------------------------------------------------------

XSS = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"


def test_nothing_that_came_from_outside_becomes_markup(near):
    desk = near.app.state.desk
    near.post("/v1/orders", json={"order_text": f"bleed {XSS}", "patient_name": XSS, "placer_number": XSS, "ordered_exam": XSS, "referrer": XSS,
                                  "allergies": [XSS], "implants": [XSS], "pregnant": True})
    work(desk)
    id = desk.orders()[0]["id"]
    desk.decide(id, "reject", reason=XSS, user=XSS)
    uid = "1.2.77"
    desk.instance_kept({"StudyInstanceUID": uid, "SOPInstanceUID": "1.2.77.1", "PatientName": XSS, "PatientID": XSS, "Modality": XSS,
                        "StudyDescription": XSS, "AccessionNumber": XSS, "sha256": "x", "path": "x", "source": "x"})
    desk.complete_study(uid)
    work(desk)
    draft = desk.study(uid)["draft"]
    near.put(f"/v1/drafts/{draft['id']}", json={"version": 1, "sections": {"findings": f"</textarea>{XSS}", "impression": XSS}})
    for address in ("/orders?show=decided", "/studies", f"/studies/{uid}", "/audit"):
        text = near.get(address).text
        assert "&lt;script&gt;" in text, address
        assert "<script>alert" not in text and "<img src=x" not in text and "</textarea>&lt;" not in text, address


def test_an_error_page_is_a_page_with_its_code_and_a_policy(near):
    answer = near.get("/orders?show=<script>")
    assert answer.status_code == 422 and "[E109]" in answer.text and "<script>" not in answer.text.partition("<main>")[2]
    assert answer.headers["content-type"].startswith("text/html") and "content-security-policy" in answer.headers


# -- the pages' own forms --------------------------------------------------------------------------------------------


def test_the_pages_decide_and_sign_without_a_script(near):
    desk = near.app.state.desk
    near.post("/v1/orders", json={"order_text": "?bleed"})
    work(desk)
    id = desk.orders()[0]["id"]
    done = near.post(f"/orders/{id}/decision", data={"action": "accept", "protocol": "CT_HEAD_WO", "show": "open"}, follow_redirects=False)
    assert done.status_code == 303 and desk.order(id)["state"] == "accepted"
    again = near.post(f"/orders/{id}/decision", data={"action": "accept", "protocol": "CT_HEAD_WO"})
    assert again.status_code == 409 and "[E111]" in again.text
    draft = add_draft(desk)
    form = {"version": "1", "action": "sign", "findings": "No clot.", "impression": "Bleed."}
    assert near.post(f"/drafts/{draft['id']}", data=form, follow_redirects=False).status_code == 303
    after = desk.draft(draft["id"])
    assert (after["status"], after["sections"]["findings"]) == ("final", "No clot.")
    assert near.post(f"/drafts/{draft['id']}", data=form).status_code == 409
    for bad in ({"action": "publish"}, {"action": "sign", "version": "one"}):
        assert near.post(f"/drafts/{draft['id']}", data={"version": "1", **bad}).status_code == 422
