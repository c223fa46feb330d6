"""Drafts: what the text says is what the graph says."""
from dataclasses import replace

import numpy as np
import pytest
import torch

from data.errors import StudyRefused
from data.records import Finding, Order, Patient, Study
from data.simulator import simulate_head_ct
from nlp.assertions import read_report
from nlp.decoder import DecoderConfig, ReportDecoder
from nlp.sentences import NOUNS, group_findings
from nlp.tokenizer import Tokenizer
from vision.reporter import Reporter, impression
from vision.train_report import main as train

NOTHING = np.zeros((1, 128), np.float32)


@pytest.fixture(scope="module")
def reporter():
    return Reporter.load()


def finding(code, present=True, **facts):
    return Finding(id=f"f-{code}", code=code, label=NOUNS[code][0], present=present, probability=0.9 if present else 0.1, **facts)


def test_the_draft_of_a_simulated_bleed_states_its_graph_and_nothing_else(reporter):
    draft, masks = reporter.draft(simulate_head_ct(9001, "subdural").study, Order(text="fall, on apixaban"))
    stated = [f.code for group in group_findings(draft.findings) for f in group]
    assert sorted(a.code for a in read_report(draft.sections["findings"])) == sorted(stated)
    assert draft.sections["indication"] == "fall, on apixaban" and draft.status == "draft" and draft.refused is None
    assert set(masks) >= {e.mask for f in draft.findings for e in f.evidence if e.mask}
    assert all(s.provenance in ("model", "template") for s in draft.sentences)


def test_a_decoder_that_writes_nonsense_is_overruled_by_the_template_and_counted(reporter):
    torch.manual_seed(0)
    babbler = Reporter(reporter.finder, ReportDecoder(DecoderConfig(Tokenizer.of([]).words, tuple(NOUNS), width=32, heads=2, layers=1)).eval())
    babbler.decoder.write = lambda groups, *rest: [("Right mass effect of 7 mL.", 0.9)] * len(groups)
    groups = [[finding("subdural_haemorrhage", side="left", volume_ml=12.0)], [finding("mass_effect", False), finding("midline_shift", False)]]
    sentences, replaced = babbler.word(groups, NOTHING)
    assert replaced == 2 and [s.text for s in sentences] == ["Left subdural haematoma, 12 mL.", "No mass effect or midline shift."]
    assert {s.provenance for s in sentences} == {"template"}


def test_normal_needs_its_own_evidence():
    absent = [finding("intracranial_haemorrhage", False)]
    assert impression(absent)[0].text == "No intracranial haemorrhage."
    assert impression([])[0].text.startswith("No statement")


def test_the_impression_answers_the_order_but_not_another_patients(reporter):
    study = simulate_head_ct(9001, "subdural").study
    mine = reporter.draft(study, Order(text="fall, haemorrhage?"))[0].sections["impression"]
    other = Order(text="fall, haemorrhage?", patient=Patient(id="B"))
    theirs = reporter.draft(replace(study, patient=Patient(id="A")), other)[0].sections["impression"]
    assert "Yes: " in mine and "Yes: " not in theirs


def test_all_that_the_machine_writes_of_one_draft_is_spelt_as_its_order_is(reporter):
    study = simulate_head_ct(9001, "subdural").study
    for order, there in (("fall, hemorrhage?", "hemo"), ("fall, haemorrhage?", "haem"), ("fall on the stairs", "haem")):
        sections = reporter.draft(study, Order(text=order))[0].sections
        assert there in f"{sections['technique']} {sections['impression']}" and sections["indication"] == order
        said = " ".join(text for name, text in sections.items() if name != "indication").lower()
        assert not any(other in said for other in {"hemo": ("haem", "oedema"), "haem": ("hemo", "hemat", " edema")}[there]), said


def test_an_empty_study_is_refused(reporter):
    with pytest.raises(StudyRefused):
        reporter.draft(Study(id="1", volumes=()))


def test_training_writes_a_model_that_loads_and_words_most_findings_faithfully(tmp_path, reporter):
    figures = train(out=tmp_path / "report", graphs=200, epochs=1, studies=0)
    (tmp_path / "findings").symlink_to(__import__("data.model_files", fromlist=["MODELS"]).MODELS / "findings")
    again = Reporter.load(tmp_path)
    assert again.decoder is not None and figures["likeliest words"]["read back as their graph"] == 1
    groups = [[finding("mass_effect")]]
    assert again.word(groups, NOTHING)[0] == again.word(groups, NOTHING)[0]


def test_the_words_of_another_patients_order_are_not_taken_over():
    from data.records import Order, Patient
    from vision.reporter import indication

    study = Study(id="1", volumes=(), patient=Patient(id="A"))
    assert indication(Order(text="fall", patient=Patient(id="A")), study) == indication(Order(text="fall"), study) == "fall"
    assert "another patient" in indication(Order(text="fall", patient=Patient(id="B")), study)
