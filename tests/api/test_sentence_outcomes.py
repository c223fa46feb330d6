"""What became of a draft's sentences at the signature, kept in its transaction; the figures by week, finding and model."""
import json
import stat

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from api.report_learning import export, export_reports, taught
from api.sentence_steps import distance, outcomes
from api.training import train_on_signatures
from data.errors import InputError, StateError
from data.records import Draft, Finding, Order, Patient, Sentence
from data.report_studies import read_studies
from tests.api.web import HERE, TextDesk, add_draft

TEXTS = ("Left subdural haematoma, 12.5 mL.", "No skull fracture.", "Midline shift of 4 mm to the right.")


class Reporter:
    def draft(self, images, order, priors=()):
        findings = (Finding("f1", "subdural_haemorrhage", "subdural haematoma", True, 0.9, side="left", volume_ml=12.5),
                    Finding("f2", "skull_fracture", "skull fracture", False, 0.05),
                    Finding("f3", "midline_shift", "midline shift", True, 0.9, side="right", size_mm=4.0))
        sentences = tuple(Sentence(text, "findings", (f"f{i}",), 0.9, "model") for i, text in enumerate(TEXTS, 1))
        more = Sentence(TEXTS[0], "impression", ("f1",), 0.9, "template")
        technique = Sentence("Read on 40 slices.", "technique")
        return Draft("", "draft", None, findings, {"technique": technique.text, "findings": " ".join(TEXTS), "impression": TEXTS[0]},
                     (technique, *sentences, more), {"report": "decoder-9"}, 0.5), {}


@pytest.fixture
def desk(store, settings):
    return TextDesk(store, settings, None, Reporter())


def rows_of(desk):
    with desk.store.read() as tx:
        return tx.find("sentence_outcomes", order=["draft_id", "number"])


def sign(desk, sections):
    draft = add_draft(desk)
    version = desk.edit_draft(draft["id"], sections, "anna", draft["version"])["version"] if sections else draft["version"]
    return desk.sign_draft(draft["id"], "anna", version)


def test_an_unedited_report_keeps_every_sentence(desk):
    sign(desk, {})
    assert [(row["outcome"], row["distance"], row["codes"]) for row in rows_of(desk)] == [
        ("keep", 0.0, ["subdural_haemorrhage"]), ("keep", 0.0, ["skull_fracture"]), ("keep", 0.0, ["midline_shift"]),
        ("keep", 0.0, ["subdural_haemorrhage"])]
    assert desk.sentence_figures()["all"]["unchanged"] == 1.0


def test_kept_edited_and_deleted_sentences_are_told_apart(desk):
    sign(desk, {"findings": "Small left subdural haematoma, 12.5 mL. Midline shift of 4 mm to the right. Old burr hole."})
    found = [(row["outcome"], row["signed"]) for row in rows_of(desk)]
    assert found == [("edit", "Small left subdural haematoma, 12.5 mL."), ("delete", ""), ("keep", TEXTS[2]), ("keep", TEXTS[0])]
    row = rows_of(desk)[0]
    assert (row["user"], row["model"], row["provenance"], row["written"]) == ("anna", "decoder-9", "model", TEXTS[0])
    figures = desk.sentence_figures()
    assert figures["all"] == {"reports": 1, "sentences": 4, "keep": 2, "edit": 1, "delete": 1, "accepted": 0.5,
                              "distance": round((0.3333 + 1) / 4, 4), "unchanged": 0.0}
    assert {row["code"]: row["accepted"] for row in figures["findings"]} == {"midline_shift": 1.0, "skull_fracture": 0.0, "subdural_haemorrhage": 0.5}
    assert [row["model"] for row in figures["models"]] == ["decoder-9"]


def test_an_amendment_replaces_what_the_first_signature_left_and_a_failed_step_leaves_nothing(desk):
    draft = sign(desk, {})
    with pytest.raises(StateError):
        desk.amend_draft(draft["id"], {"findings": "x"}, "ben", draft["version"] + 5)
    assert all(row["outcome"] == "keep" for row in rows_of(desk))
    desk.amend_draft(draft["id"], {"findings": TEXTS[0]}, "ben", draft["version"])
    assert [(row["outcome"], row["version"]) for row in rows_of(desk)] == [
        ("keep", draft["version"] + 1), ("delete", draft["version"] + 1), ("delete", draft["version"] + 1), ("keep", draft["version"] + 1)]
    assert [v["status"] for v in desk.draft(draft["id"])["history"]] == ["draft", "final", "amended"]      # what was signed stays


def test_a_signed_sentence_is_the_edit_of_one_drafted_sentence_alone():
    def row(text, section="findings", provenance="model"):
        return {"text": text, "section": section, "findings": [], "provenance": provenance}

    found = outcomes([row("Left subdural haematoma."), row("Right subdural haematoma.")], [row("Large right subdural haematoma.", provenance="user")])
    assert [after for _, after in found] == ["", "Large right subdural haematoma."]
    assert outcomes([row("A clot.", provenance="user")], []) == []
    assert (distance("a b c", "a b c"), distance("a b c", ""), distance("a b", "a x b")) == (0.0, 1.0, round(1 / 3, 4))


def test_the_figures_stand_on_the_page_and_in_the_api(desk, settings):
    http = TestClient(create_app(desk, settings), base_url=HERE)
    assert "No drafted report has been signed yet" in http.get("/monitor").text
    assert http.get("/v1/monitor/reports").json()["all"]["accepted"] is None
    sign(desk, {})
    assert http.get("/v1/monitor/reports").json()["all"]["accepted"] == 1.0
    words = http.get("/monitor").text
    assert "subdural haemorrhage" in words and "1 reports signed, 100 % as they were drafted" in words


# ---------------------------------------------------------------- learning

def test_only_sentences_that_read_back_as_their_findings_are_taught_and_no_name_leaves(desk):
    id = desk.add_order(Order(text="fall", patient=Patient("X1", "Muster^Erika")))
    assert id
    sign(desk, {"findings": "There is a left subdural collection of blood in Mrs Muster, 12.5 mL. No fracture of the skull. "
                            "Midline shift of 40 mm to the right.", "impression": "Acute left subdural haemorrhage of 12.5 mL."})
    pairs, left_out = taught(desk.store)
    said = {text for _, text in pairs}
    assert "No fracture of the skull." in said and "Acute left subdural haemorrhage of 12.5 mL." in said
    assert not any("40 mm" in text or "Muster" in text for text in said)
    assert left_out["does not read back as its finding"] >= 1
    assert {group[0].code for group, _ in pairs} == {"skull_fracture", "subdural_haemorrhage"}


def test_what_is_taught_is_written_for_its_owner_alone(desk):
    sign(desk, {})
    path, said = export(desk.store)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and desk.store.home in path.parents and said["sentences"] == len(rows) == 3
    assert rows[0]["text"] == TEXTS[0] and rows[0]["findings"][0]["code"] == "subdural_haemorrhage"


def test_signed_reports_become_a_folder_that_the_harness_reads(desk):
    sign(desk, {"impression": "Bleed, told to Dr Chen."})
    path = export_reports(desk.store)
    [row] = read_studies(desk.store.home)
    assert row.source == "own-store" and "Bleed" in row.text and row.images == (desk.store.home / "none.dcm",)
    assert row.patient != "X1" and "Muster" not in path.read_text() and "X1" not in path.read_text()


def test_too_few_sentences_are_said_and_nothing_is_trained(desk, store_address):
    with pytest.raises(InputError, match="0 sentences"):
        train_on_signatures(store_address[1], store_address[0])
    with pytest.raises(InputError, match="--size"):
        train_on_signatures(store_address[1], store_address[0], size=4)
