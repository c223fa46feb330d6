"""The harness of the re-reader: errors are errors, rewordings are none, and what changed is named."""
import json
from pathlib import Path
from random import Random

import pytest

from data.errors import InputError
from data.report_texts import read_report_texts
from nlp.evaluate_reading import main, table
from nlp.report_changes import changes, facts
from nlp.report_errors import KINDS, grade_changed

TEXT = """EXAM: CT head

HISTORY: left arm weakness, r/o bleed.

FINDINGS: There is a large left frontal meningioma measuring 3.5 cm. Mild surrounding edema is seen.
No acute infarct, hydrocephalus, or midline shift.

IMPRESSION: Large left frontal meningioma.
Dictated by: left right"""
OTHER = "FINDINGS: The ventricles are normal. There is a small right thalamic hemorrhage.\n"


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "harmless paraphrase"])
def test_every_kind_of_error_changes_what_the_text_says_and_is_noticed(kind):
    for seed in range(4):
        spoilt = KINDS[kind](TEXT, Random(seed), [TEXT, OTHER])
        assert spoilt is not None and spoilt != TEXT
        assert spoilt.startswith(TEXT[:60]) and spoilt.endswith("Dictated by: left right"), "only what reports is spoilt"
        assert facts(spoilt) != facts(TEXT), spoilt


@pytest.mark.parametrize("text", ["FINDINGS: Small-vessel white matter disease, Fazekas 1.", "FINDINGS: Chronic left subdural haematoma, 12 mL.",
                                  "FINDINGS: Mild mass effect.", "FINDINGS: Left hippocampal atrophy (MTA 3)."])
def test_another_grade_age_or_severity_is_noticed(text):
    spoilt = grade_changed(text, Random(0), [])
    assert spoilt is not None and spoilt != text and facts(spoilt) != facts(text)
    assert grade_changed("FINDINGS: No acute infarct or severe mass effect.", Random(0), []) is None


def test_a_rewording_is_no_error():
    flagged = [said for seed in range(12) if (said := KINDS["harmless paraphrase"](TEXT, Random(seed), [])) and facts(said) != facts(TEXT)]
    assert flagged == []


@pytest.mark.parametrize(("after", "kind"), [
    (TEXT.replace("3.5 cm", "35 cm"), "size"), (TEXT.replace("a large left", "a large right"), "side"),
    (TEXT.replace("No acute infarct", "Acute infarct"), "polarity"), (TEXT.replace("Mild", "Severe"), "severity"),
    (TEXT.replace("Mild surrounding edema is seen.", ""), "dropped"), (TEXT.replace("No acute", "Skull fracture. No acute"), "added"),
])
def test_a_change_is_named_with_both_places(after, kind):
    found = changes(TEXT, after)
    assert kind in {change.kind for change in found}
    for change in found:
        assert (change.before is None) == (change.kind == "added") and (change.after is None) == (change.kind == "dropped")


def test_a_reader_that_sees_nothing_scores_nothing(monkeypatch):
    monkeypatch.setattr("nlp.evaluate_reading.facts", lambda text: {})
    assert {row["noticed"] for row in table([TEXT, OTHER], 0)["kinds"].values()} == {0}


def test_own_drafts_are_measured_without_any_material(tmp_path):
    figures = main(out=tmp_path, texts=3)
    assert set(figures["sources"]) == {"own drafts"} and json.loads((tmp_path / "figures.json").read_text())["seed"] == 0
    assert "| negation removed | >= 0.95 |" in (tmp_path / "card.md").read_text()


def test_material_is_read_where_it_lies_and_half_of_it_is_kept_aside(tmp_path):
    folder = tmp_path / "reports" / "medpix_neuro"
    folder.mkdir(parents=True)
    said = "there is a left frontal meningioma with surrounding edema."
    rows = [{"case": f"c{n}", "findings": f"Case {n}: {said}", "caption": "", "history": "headache"}
            for n in range(40)]
    (folder / "cases.jsonl").write_text("\n".join(map(json.dumps, rows)))
    texts = read_report_texts(tmp_path)
    assert len(texts) == 40 and 8 < sum(text.aside for text in texts) < 32
    assert texts[0].text.startswith("HISTORY: headache\n\nFINDINGS: Case 0")


@pytest.mark.parametrize("content", [None, "{", '{"case": 1}'])
def test_a_folder_without_reports_is_named(tmp_path, content):
    if content:
        (tmp_path / "reports" / "medpix_neuro").mkdir(parents=True)
        (tmp_path / "reports" / "medpix_neuro" / "cases.jsonl").write_text(content)
    with pytest.raises(InputError):
        read_report_texts(Path(tmp_path))
