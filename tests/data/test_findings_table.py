"""data/findings.toml: value sets that a draft may use, and who looks for what."""
import pytest

from data.errors import BookError
from data.findings import FINDINGS, read_findings
from data.simulator import LABELS
from nlp.report_pipe import codes
from vision.heads import HEADS


def test_thirty_findings_and_more_have_a_label_a_modality_and_a_code_the_re_reader_knows():
    assert len(FINDINGS) >= 30 and set(FINDINGS) <= set(codes()) and {c: r.label for c, r in FINDINGS.items()} == LABELS
    assert all(row.label and row.modalities and set(row.modalities) <= {"CT", "MR"} for row in FINDINGS.values())


def test_a_finding_is_looked_for_by_a_head_that_exists_and_in_a_modality_that_shows_it():
    for row in FINDINGS.values():
        assert set(row.head) <= set(row.modalities), row.code
        assert all(HEADS[head].modality == modality for modality, head in row.head.items()), row.code


def test_what_is_critical_has_a_time_to_tell_it_and_what_is_graded_names_its_scale_or_degrees():
    assert FINDINGS["acute_infarct"].communicate_minutes == 60 and FINDINGS["white_matter_disease"].scale == "Fazekas"
    assert FINDINGS["hippocampal_atrophy"].scale == "MTA" and FINDINGS["hippocampal_atrophy"].grade == ("1", "2", "3", "4")
    assert all(row.critical == (row.communicate_minutes is not None) for row in FINDINGS.values())
    assert all(row.scale or "mild" in row.grade for row in FINDINGS.values() if row.grade)


@pytest.mark.parametrize(("text", "word"), [
    ('[a]\nlabel = "a"\ncritical = true', "communicate_minutes"), ('[a]\nlabel = "a"\nparent = "b"', "parent"),
    ('[a]\nlabel = "a"\nsides = ["left"]', "sides"), ("[a", "TOML")])
def test_a_malformed_table_names_its_block_and_key(tmp_path, text, word):
    (tmp_path / "findings.toml").write_text(text)
    with pytest.raises(BookError, match=word):
        read_findings(tmp_path / "findings.toml")
