"""The pages in a real browser, over a real desk with a simulated head CT: what a person sees, and that the keys work."""
import os
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import uvicorn

from api.app import create_app
from api.settings import Settings
from api.store import Store
from api.workflow import Desk
from data.records import Draft, Evidence, Facts, Finding, Flag, ImageEvidence, Order, Patient, Ranked, Sentence, Suggestion
from data.simulator import simulate_head_ct
from tests.api.web import ct_slices, keep_file, work

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (make setup)")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
if CHROMIUM is None:
    pytest.skip("Chromium is not installed (apt-get install chromium); the pages are not tested in a browser", allow_module_level=True)

# a closed machine: without these Chromium looks for the world at every start
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
         "--disable-sync"]
STUDY = "1.2.826.0.1.3680043.8.498.1"
XSS = "<img src=x onerror=\"document.title='broken'\">"


class TruthReporter:
    """Says what the simulator knows: a reporter that is right, so that the page can be looked at without a model."""

    def __init__(self, simulated):
        self.simulated = simulated

    def draft(self, study, order, priors=()):
        mask = self.simulated.masks["subdural"]
        middle = int(mask.sum(axis=(1, 2)).argmax())
        rows, columns = np.nonzero(mask[middle])
        box = (int(rows.min()), int(columns.min()), int(rows.max()) + 1, int(columns.max()) + 1)
        series = study.volumes[0].series_uid
        found = Finding("f1", "subdural_haemorrhage", "subdural haematoma", True, 0.93, side="right", volume_ml=51.9, acuity="acute",
                        critical=True, evidence=(ImageEvidence(series, middle, box=box, mask="subdural"),))
        shift = Finding("f2", "midline_shift", "midline shift", True, 0.71, side="left", size_mm=2.3, band="hedge", critical=True,
                        evidence=(ImageEvidence(series, middle + 2),))
        none = Finding("f3", "skull_fracture", "skull fracture", False, 0.04)
        sentences = (Sentence("Acute right subdural haematoma of 51.9 mL.", "findings", ("f1",), 0.93, "model"),
                     Sentence("Possible midline shift to the left of 2.3 mm.", "findings", ("f2",), 0.71, "template"),
                     Sentence("No skull fracture.", "findings", ("f3",), 0.96, "template"),
                     Sentence("Acute right subdural haematoma.", "impression", ("f1",), 0.93, "model"))
        sections = {"exam": "CT head without contrast.", "indication": "Fall.", "technique": "Axial non-contrast CT.", "comparison": "None.",
                    **{name: " ".join(s.text for s in sentences if s.section == name) for name in ("findings", "impression")}}
        return Draft("", "draft", None, (found, shift, none), sections, sentences, {"findings": "truth"}, 0.95), {"subdural": mask}


class WordSuggester:
    def suggest(self, order):
        at = order.text.find("fall")
        best = "CT_HEAD_WO" if at >= 0 else "MR_BRAIN_WO"
        flags = (Flag("anticoagulant", "warn", "R12", "ACR Appropriateness Criteria, Head Trauma 2021", "Takes apixaban.", "Do not delay the CT.",
                      (Evidence("apixaban", order.text.find("apixaban"), order.text.find("apixaban") + 8),)),) if "apixaban" in order.text else ()
        flags += (Flag("pregnancy", "stop", "R3", "ACR-SPR Practice Parameter 2023", "She may be pregnant.", "Ask before the scan."),) \
            if order.facts.pregnant else ()
        return Suggestion((Ranked(best, 0.86), Ranked("CT_HEAD_WWO", 0.09)), (best, "CT_HEAD_WWO"), "none", flags, at >= 0, float(at >= 0),
                          "review", evidence=(Evidence("fall", at, at + 4),) if at >= 0 else (),
                          indications=("migraine with change",) if at < 0 else (), nearest=("a1", "f10"), model="m", book="b")


@pytest.fixture(scope="module")
def served(sqlite_template, tmp_path_factory):
    """(address, desk): the service on a port of its own, with four orders and one study."""
    home = tmp_path_factory.mktemp("pages")
    shutil.copy(sqlite_template, home / "wetread.db")
    simulated = simulate_head_ct(3, "subdural", rows=128)
    settings = Settings(home=home, http=0, automation=True)
    desk = Desk(Store.open("", home, upgrade=False), settings, WordSuggester(), TruthReporter(simulated))
    erika = Patient("4711", "Muster^Erika", "19410302", "F")
    for order in (
        Order(text="82 y, fall from standing, on apixaban, GCS 14, headache. Bleed?", ordered_exam="CT HEAD W/O CONTRAST", priority="STAT",
              placer_number="P1", accession_number="A1", patient=erika, age_years=82, referrer="Chen^Li", facts=Facts(egfr=48.0)),
        Order(text="New onset migraine with aura, neurological exam normal.", ordered_exam="MRI BRAIN", placer_number="P2",
              patient=Patient("4712", "Rossi^Ada", "19900101", "F"), facts=Facts(pregnant=True, allergies=("gadobutrol: hives",))),
        Order(text="MS follow up, no new symptoms.", ordered_exam="MRI BRAIN W AND W/O", placer_number="P3",
              patient=Patient("4713", "Okafor^Tom", "", "M")),
        Order(text=f"headache {XSS}", ordered_exam=XSS, placer_number="P4", patient=Patient("4714", XSS)),
    ):
        desk.add_order(order)
    volume = np.clip(np.rint(simulated.volume.pixels), -1024, 3071).astype(np.int16)
    for data in ct_slices(volume, STUDY, f"{STUDY}.1", simulated.volume.spacing_mm, "CT head (simulated)"):
        keep_file(desk, data)
    desk.complete_study(STUDY)
    work(desk)
    server = uvicorn.Server(uvicorn.Config(create_app(desk, settings), port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + 20
    while not server.started and time.monotonic() < until:
        time.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}", desk
    server.should_exit = True
    thread.join(timeout=10)
    desk.store.close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with playwright.sync_playwright() as p:
        opened = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture
def page(browser, served):
    """A page that fails the test when it asks anything of another host, breaks its policy or throws."""
    context = browser.new_context(viewport={"width": 1440, "height": 900}, base_url=served[0])
    context.set_default_timeout(150_000)        # a busy machine reads the first report's text slowly
    opened, wrong = context.new_page(), []
    opened.on("request", lambda request: request.url.startswith((served[0], "data:")) or wrong.append(request.url))
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("console", lambda line: line.type == "error" and wrong.append(line.text))
    yield opened
    context.close()
    assert not wrong


def pixel(page, x, y):
    """The canvas' colour at a share of its width and height."""
    return page.evaluate("""([x, y]) => { const c = document.getElementById('image');
        return [...c.getContext('2d').getImageData(Math.round(x * c.width), Math.round(y * c.height), 1, 1).data] }""", [x, y])


def picture(page):
    return page.evaluate("document.getElementById('image').toDataURL()")


def keep(page, name):
    """A screenshot to look at, when WETREAD_SCREENSHOTS names a folder."""
    if folder := os.environ.get("WETREAD_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png")


def test_the_orders_page_says_what_the_ai_suggests_how_sure_and_what_warns(page):
    page.goto("/orders")
    keep(page, "orders")
    first = page.locator(".order").first
    assert "STAT" in first.inner_text() and "86 %" in first.inner_text() and "AI suggests" in first.inner_text()
    assert first.locator(".flag.warn").inner_text().startswith("Warning Takes apixaban.")
    assert first.locator("mark.warn").inner_text() == "apixaban" and first.locator("mark.match").inner_text() == "fall"
    assert "Stop" in page.locator(".order", has_text="Rossi").locator(".flag.stop").inner_text()


def test_an_order_opens_with_its_reasons_and_a_sheet_that_prints_alone(page, served):
    page.goto("/orders")
    with page.expect_navigation():
        page.locator(".order", has_text="Rossi").get_by_text("Sheet and reasons").click()
    keep(page, "order")
    assert "not accepted yet" in page.inner_text(".sheet .banner") and "MR brain without contrast" in page.inner_text(".sheet .name")
    assert "FLAIR" in page.inner_text(".sheet dl") and "20 min" in page.inner_text(".sheet dl")
    assert "pregnan" in page.locator(".sheet .flag").first.inner_text() and page.locator(".why .flag.stop .source").count()
    page.emulate_media(media="print")
    keep(page, "order-print")
    assert page.is_visible(".sheet") and not page.is_visible(".why") and not page.is_visible("header.top")
    assert "Rossi, Ada" in page.inner_text(".sheet .person")


def test_markup_in_an_order_is_shown_as_text(page):
    page.goto("/orders")
    assert "onerror" in page.locator(".order", has_text="img src=x").first.inner_text()
    assert page.title().startswith("Orders") and page.locator("main img").count() == 0


def test_keys_move_accept_and_reject_with_a_reason(page, served):
    desk = served[1]
    page.goto("/orders")
    assert "Muster" in page.locator(".order.at").inner_text()
    page.keyboard.press("j")
    assert "Rossi" in page.locator(".order.at").inner_text()
    page.keyboard.press("k")
    with page.expect_navigation():
        page.keyboard.press("a")
    assert (desk.order("P1")["state"], desk.order("P1")["decision"]["user"]) == ("accepted", "local")
    page.once("dialog", lambda dialog: dialog.dismiss())
    page.keyboard.press("a")                    # a stop flag: asked first, and the answer was no
    assert desk.order("P2")["state"] == "suggested"
    page.keyboard.press("r")
    page.keyboard.type("duplicate, jak")        # letters in a field are words, not keys
    with page.expect_navigation():
        page.keyboard.press("Enter")
    assert desk.order("P2")["decision"]["reason"] == "duplicate, jak"
    page.keyboard.press("c")
    keep(page, "orders-change")
    page.keyboard.type("MR_BRAIN_WO")
    with page.expect_navigation():
        page.keyboard.press("Enter")
    assert desk.order("P3")["state"] == "changed"
    page.goto("/orders?show=decided")
    assert page.locator(".order").count() == 3 and "Accepted by local" in page.locator("main").inner_text()


def test_another_protocol_of_the_set_is_one_click(page, served):
    desk = served[1]
    desk.add_order(Order(text="tremor", placer_number="P9"))
    work(desk)
    page.goto("/orders")
    with page.expect_navigation():
        page.locator(".order", has_text="tremor").get_by_text("take this").click()
    assert desk.order("P9")["decision"]["protocol"] == "CT_HEAD_WWO"
    for address in ("/audit", "/docs", "/login"):
        page.goto(address)
        keep(page, address.strip("/").replace("/", "-"))


def test_an_old_list_says_so_and_the_marked_order_stays_the_one_that_was_read(page, served):
    desk = served[1]
    page.goto("/orders")
    reading = page.locator(".order.at").get_attribute("id")
    desk.add_order(Order(text="fall down the stairs", placer_number="P10", priority="STAT"))
    page.wait_for_selector("#changed:not([hidden])", timeout=10_000)
    assert page.locator(".order", has_text="stairs").count() == 0
    page.click("#changed a")
    assert "stairs" in page.locator(".order").first.inner_text()
    assert page.locator(".order.at").get_attribute("id") == reading


def test_automation_is_stopped_on_the_page_and_everybody_sees_by_whom(page, served):
    page.goto("/orders")
    keep(page, "automation-on")
    page.fill(".automation input[name=reason]", "wrong protocols since 8:00")
    with page.expect_navigation():
        page.click(".automation button")
    keep(page, "automation-stopped")
    assert "Automation is stopped by local" in page.inner_text(".automation") and "since 8:00" in page.inner_text(".automation")
    assert served[1].automation()["stopped"]


def test_the_monitor_shows_its_plot_and_says_what_to_do(page):
    page.goto("/monitor")
    keep(page, "monitor")
    assert page.evaluate("document.querySelector('img.plot').naturalWidth") > 500
    assert "Nothing drifts" in page.inner_text("main") and "Suggestions come from shipped" in page.inner_text("main")


def test_the_reading_list_opens_the_most_urgent_study(page):
    page.goto("/studies")
    keep(page, "studies")
    assert "Critical" in page.locator("tr.row").first.inner_text() and "AI draft" in page.locator("tr.row").first.inner_text()
    with page.expect_navigation():
        page.keyboard.press("Enter")
    assert page.url.endswith(STUDY)


def test_the_viewer_shows_the_scan_in_radiological_convention(page, served):
    page.goto(f"/studies/{STUDY}")
    page.wait_for_selector(".viewer[data-ready=yes]")
    keep(page, "study")
    head = page.request.get(f"/v1/studies/{STUDY}/series/0").json()
    assert head["marks"]["left"] == "R"
    at = int(page.get_attribute(".viewer", "data-slice"))
    mask = np.load(next((served[1].store.home / "masks").rglob("*.npz")))["mask"]
    assert at == mask.sum(axis=(1, 2)).argmax()         # it opens where the finding is
    rows, columns = np.nonzero(mask[at])
    x, y = (columns.mean() + 0.5) / mask.shape[2], (rows.mean() + 0.5) / mask.shape[1]
    assert x < 0.5                                      # a clot on the patient's right is drawn on the left
    red, _, blue, _ = pixel(page, (np.median(columns) + 0.5) / mask.shape[2], y)
    assert red > blue                                   # the overlay colours it
    page.keyboard.press("o")
    keep(page, "study-plain")
    red, green, blue, _ = pixel(page, (np.median(columns) + 0.5) / mask.shape[2], y)
    assert red == green == blue


def test_a_sentence_leads_to_its_slice_box_and_outline_by_click_and_by_key(page, served):
    page.goto(f"/studies/{STUDY}")
    page.wait_for_selector(".viewer[data-ready=yes]")
    finding = served[1].study(STUDY)["draft"]["findings"][0]["evidence"][0]
    first, second, third = (page.locator(".section.findings .sentence").nth(n) for n in range(3))
    assert [one.get_attribute("data-findings") for one in (first, second, third)] == ["f1", "f2", "f3"]
    second.click()
    assert page.get_attribute(".viewer", "data-slice") == str(finding["slice"] + 2) and page.get_attribute(".viewer", "data-box") is None
    first.focus()
    page.keyboard.press("Enter")
    assert page.get_attribute(".viewer", "data-slice") == str(finding["slice"])
    assert page.get_attribute(".viewer", "data-box") == ",".join(map(str, finding["box"]))
    assert "on" in first.get_attribute("class") and "on" not in second.get_attribute("class")
    keep(page, "study-grounded")
    head = page.request.get(f"/v1/studies/{STUDY}/series/0").json()
    _, rows, columns = head["shape"]
    top, left = finding["box"][:2]
    line = page.evaluate("""([x, top]) => { const c = document.getElementById('image'), y = Math.round(top * c.height - c.height / 100);
        const found = []; for (let d = -3; d <= 3; d++) for (let s = 0; s < 60; s++)
          found.push([...c.getContext('2d').getImageData(Math.round(x * c.width) + s, y + d, 1, 1).data]);
        return found }""", [left / columns, top / rows])
    assert any(blue > 200 and green > 180 and red < 180 for red, green, blue, _ in line)       # the box is drawn where the finding is
    assert third.get_attribute("tabindex") is None          # absent: there is nothing to show


def test_windows_slices_and_dragging_change_the_picture(page):
    page.goto(f"/studies/{STUDY}")
    page.wait_for_selector(".viewer[data-ready=yes]")
    seen = {picture(page)}
    for key in "234":
        page.keyboard.press(key)
        seen.add(picture(page))
        keep(page, f"window-{key}")
    assert "level 600 width 2800 HU" in page.inner_text("#window")
    at = int(page.get_attribute(".viewer", "data-slice"))
    page.keyboard.press("ArrowUp")
    assert int(page.get_attribute(".viewer", "data-slice")) == at + 1
    page.hover("#image")
    page.mouse.wheel(0, -100)
    page.wait_for_function(f"Number(document.querySelector('.viewer').dataset.slice) !== {at + 1}")
    page.mouse.down()
    page.mouse.move(900, 500)
    page.mouse.up()
    assert "level 600 width 2800 HU" not in page.inner_text("#window")
    assert len(seen) == 4


def test_a_slip_is_remarked_on_while_it_is_typed_and_holds_the_signature_until_it_was_looked_at(page, served):
    page.goto(f"/studies/{STUDY}")
    page.wait_for_selector(".viewer[data-ready=yes]")
    page.click(".section.impression summary")
    page.fill(".section.impression textarea", "Acute left subdural haematoma, 519 mL.")
    page.wait_for_selector(".checks .flag.stop")
    remarks = page.inner_text(".checks ul")
    assert "ten times the 51.9 mL" in remarks and "the draft's finding on the images is on the right" in remarks
    page.click(".checks .flag:has-text('ten times')")
    assert page.evaluate("(() => { const a = document.activeElement; return a.value.slice(a.selectionStart, a.selectionEnd) })()") == "519 mL"
    keep(page, "study-check")
    with page.expect_navigation():
        page.click("button[value=sign]")
    assert "Not signed yet" in page.inner_text(".checks") and served[1].study(STUDY)["draft"]["status"] == "draft"
    keep(page, "study-held")
    page.click(".section.impression summary")
    page.fill(".section.impression textarea", "Acute right subdural haematoma.")        # mended: nothing is asked any more
    page.wait_for_selector(".checks .seen", state="hidden")
    with page.expect_navigation():
        page.click("button[value=save]")


def test_a_draft_says_that_it_is_none_until_a_person_signs(page, served):
    page.goto(f"/studies/{STUDY}")
    page.wait_for_selector(".viewer[data-ready=yes]")
    assert "AI draft, not final" in page.inner_text(".banner.draft")
    assert "93 %" in page.inner_text(".findings li:first-child") and "model" in page.inner_text(".section.findings .sentence")
    page.click(".section.impression summary")
    page.fill(".section.impression textarea", "Acute right subdural haematoma. Called to the ED at 08:10.")
    keep(page, "study-edit")
    with page.expect_navigation():
        page.click("button[value=sign]")
    keep(page, "study-signed")
    assert page.inner_text(".banner.final").startswith("Final. Signed by local")
    draft = served[1].study(STUDY)["draft"]
    assert (draft["status"], draft["signed_by"]) == ("final", "local")
    assert [s["provenance"] for s in draft["sentences"] if s["section"] == "impression"] == ["model", "user"]
    assert page.locator(".sentence.user").count() == 1
