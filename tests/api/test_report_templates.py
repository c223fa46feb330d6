"""Report templates: one for a protocol, never with a normal text of its own, with a draft's sentences in their fields, as valid MRRT."""
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from data.book import read_book
from data.errors import BookError
from data.findings import FINDINGS
from data.records import Draft, Finding, Sentence
from data.report_templates import read_report_templates, template_for
from data.simulator import LABELS
from tests.api.web import HERE, TextDesk, add_draft, audited, refused

TEMPLATES = read_report_templates()


class Reporter:
    def draft(self, images, order, priors=()):
        findings = (Finding("f1", "subdural_haemorrhage", "subdural haematoma", True, 0.9),
                    Finding("f2", "skull_fracture", "skull fracture", False, 0.1))
        sentences = (Sentence("A <b>clot</b> & 3.5 cm.", "findings", ("f1",)), Sentence("No fracture.", "findings", ("f2",)),
                     Sentence("Poor images.", "findings"), Sentence("Bleed.", "impression", ("f1",)))
        return Draft("", "draft", None, findings, {"findings": "A <b>clot</b> & 3.5 cm. No fracture. Poor images.", "impression": "Bleed."},
                     sentences, {}), {}


@pytest.fixture
def desk(sqlite_desk):
    return sqlite_desk(TextDesk, None, Reporter())


@pytest.fixture
def http(desk):
    return TestClient(create_app(desk, desk.settings), base_url=HERE)


def test_there_are_eight_and_each_names_protocols_of_the_book_and_findings_of_the_table():
    protocols = [name for one in TEMPLATES.values() for name in one.protocols]
    assert len(TEMPLATES) == 8 and len(set(protocols)) == len(protocols) and set(protocols) <= set(read_book().protocols)
    for one in TEMPLATES.values():
        codes = [code for field in one.fields for code in field.codes]
        assert len(set(codes)) == len(codes) and set(codes) <= set(LABELS), one.id


@pytest.mark.parametrize("id", sorted(TEMPLATES))
def test_every_finding_that_is_looked_for_has_a_field_in_each_template_of_its_modality(id):
    named = {code for field in TEMPLATES[id].fields for code in field.codes}
    assert {code for code, row in FINDINGS.items() if TEMPLATES[id].modality in row.head} <= named


def test_a_protocol_has_its_template_and_another_that_of_its_modality():
    assert template_for("MR_MS_WWO").id == "mr_demyelination" and template_for("unknown", "CT").id == "ct_head"
    assert template_for("US_CAROTID", "US") is None


class Page(HTMLParser):
    """Sections with their fields, and the XML of the template's attributes."""

    def __init__(self, text):
        super().__init__()
        self.sections, self.metas, self.xml, self.inside = {}, {}, "", ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.inside = tag
        if tag == "meta" and "name" in found:
            self.metas[found["name"]] = found["content"]
        if tag == "section":
            self.sections[found["id"]] = []
        if tag == "textarea":
            self.sections[list(self.sections)[-1]].append([found["name"], "", found["data-field-type"]])

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, data):
        if self.inside == "script":
            self.xml += data
        if self.inside == "textarea":
            self.sections[list(self.sections)[-1]][-1][1] += data


@pytest.mark.parametrize("id", sorted(TEMPLATES))
def test_an_exported_template_has_the_sections_codes_and_empty_fields(id, http):
    answer = http.get(f"/v1/report-templates/{id}/mrrt")
    assert answer.headers["content-type"].startswith("text/html") and answer.text.startswith("<!DOCTYPE html>")
    page = Page(answer.text)
    assert list(page.sections) == ["procedureInformation", "clinicalInformation", "comparisons", "findings", "impression"]
    assert [row[0] for row in page.sections["findings"]] == [*(field.name for field in TEMPLATES[id].fields), "Other"]
    assert all(row[1:] == ["", "TEXTAREA"] for rows in page.sections.values() for row in rows)          # nothing is normal by itself
    assert page.metas["dcterms.type"] == "IMAGE_REPORT_TEMPLATE" and page.metas["dcterms.identifier"] == f"wetread:{id}"
    codes = ET.fromstring(page.xml.strip()).iter("code")
    assert {code.get("value") for code in codes} >= {"59776-5", "19005-8", "18834-2"}


def test_a_drafts_sentences_stand_in_their_fields_and_what_belongs_nowhere_is_kept(desk, http):
    draft = add_draft(desk)
    page = http.get("/v1/report-templates/ct_head", params={"draft_id": draft["id"]}).json()
    texts = {row["name"]: row["text"] for row in page["fields"]}
    assert texts["Haemorrhage"] == "A <b>clot</b> & 3.5 cm." and texts["Skull, sinuses and mastoids"] == "No fracture."
    assert texts["Brain parenchyma"] == "" and page["other"] == "Poor images." and page["sections"]["impression"] == "Bleed."
    exported = http.get("/v1/report-templates/ct_head/mrrt", params={"draft_id": draft["id"]}).text
    assert "<b>" not in exported and Page(exported).sections["findings"][0][1] == "A <b>clot</b> & 3.5 cm."
    assert ("local", "look", "draft", draft["id"]) in audited(desk)
    assert f"/v1/report-templates/ct_head/mrrt?draft_id={draft['id']}" in http.get(f"/studies/{draft['study_id']}").text


def test_lists_and_bad_input(http):
    assert len(http.get("/v1/report-templates").json()) == 8
    assert [row["id"] for row in http.get("/v1/report-templates", params={"protocol": "CT_HEAD_WO"}).json()] == ["ct_head"]
    assert http.get("/v1/report-templates", params={"protocol": "US_CAROTID", "modality": "US"}).json() == []
    refused(http.get("/v1/report-templates/none"), 404, "E110", "ct_head")
    refused(http.get("/v1/report-templates/ct_head", params={"draft_id": "none"}), 404, "E110", "draft")


@pytest.mark.parametrize("text", ["[x", '[x]\ntitle = "t"', '[x]\ntitle="t"\nmodality="CT"\nprotocols=[]\nfields=[{name="a"}]'])
def test_a_malformed_table_is_named(text, tmp_path):
    (tmp_path / "t.toml").write_text(text)
    with pytest.raises(BookError, match="E102"):
        read_report_templates(tmp_path / "t.toml")
