"""Shorthand is written out by its neighbours, codes are read, and every letter leads back into the original."""
import re
import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nlp import normalise as module
from nlp.normalise import DATA, normalise, read_codes, read_terms


@pytest.mark.parametrize(("text", "said"), [
    ("known MS, new weakness", "multiple sclerosis"),
    ("80F MS changes since fall", "mental status"),
    ("gave MS 4 mg IV for pain", "morphine sulfate"),
    ("CP angle mass, hearing loss", "cerebellopontine angle"),
    ("CP, spastic diplegia, VPS", "cerebral palsy"),
    ("CP and SOB, neuro consult", "chest pain"),
    ("on heparin for PE, new confusion", "pulmonary embolism"),
    ("watery ear after PE tube", "pressure equalization tube"),
    ("old CVA, new R weakness", "stroke"),
    ("fever, CVA tenderness", "costovertebral angle tenderness"),
    ("sat 96 RA", "room air"),
    ("RA pannus at C1-2", "rheumatoid arthritis"),
    ("CRAO OD this morning", "right eye"),
    ("found down, fentanyl OD", "overdose"),
    ("edema vs bleed", "edema versus bleed"),
    ("VS 12 mm in the IAC", "vestibular schwannoma"),
    ("27 Gy in 3 fx to parietal met", "3 fractions"),
    ("C2 fx after dive", "fracture"),
    ("pt w walker", "patient with walker"),
    ("failed PT x 6 wks", "physical therapy"),
    ("kidney tx 2018", "kidney transplant"),
    ("CA 11.4, PTH 118", "calcium"),
    ("breast CA with new HA", "breast cancer"),
    ("L arm weak", "left arm"),
    ("LKW 0830, c/f LVO", "last known well 0830, concern for large vessel occlusion"),
    ("haemorrhage, oedema, tumour", "hemorrhage, edema, tumor"),
])
def test_a_short_form_is_read_by_its_neighbours(text, said):
    assert said in normalise(text).text


@pytest.mark.parametrize("text", ["L spine films, 2 L O2 by NC", "by R/O of infarct", "met the criteria", "MOG-AD", "DWI and FLAIR only",
                                  "look it up on it, or do not"])
def test_a_form_that_means_something_else_here_is_not_written_out_as_if(text):
    assert not re.search(r"\b(left|right|metastasis|Alzheimer|optic)\b", normalise(text).text)


@pytest.mark.parametrize(("text", "said"), [
    ("G35", "multiple sclerosis"), ("C79.31", "metastasis to brain"), ("I63.9", "stroke"), ("R51.9", "headache"), ("i63.9", "stroke"),
    ("M54.16", "radiculopathy, lumbar region"), ("H90.3", "sensorineural hearing loss, bilateral"), ("G40.219", "epilepsy"),
    ("I63.99", "stroke"), ("S06.2X9S", "traumatic brain injury"), ("C7931", "metastasis to brain"), ("dx M54", "back pain"), ("M54", "back pain"),
])
def test_a_code_alone_is_written_out_behind_the_code(text, said):
    found = normalise(text).text
    assert text.split()[-1] in found and said in found


@pytest.mark.parametrize("text", [
    "C5-6 disc, L4 root, T12 fx, S1 radic", "C5/6 and T10 level", "d12 of life", "B12 low", "P16 positive", "gave it Q12 hours", "M50 with back pain",
    "F55 with a fall", "H2O, CO2, 3T", "PMID X99.9", "flight A320", "room C71B-2",
])
def test_levels_and_other_look_alikes_are_no_codes(text):
    assert list(module.codes(text)) == []


def test_every_title_and_cue_of_the_tables_can_be_read():
    assert all(re.fullmatch(r"[A-TV-Z]\d[\dAB](\.[\dA-Z]{1,4})?", code) for code in read_codes())
    terms, ambiguous, pattern = read_terms()
    assert not set(terms) & set(ambiguous), "a form stands in both tables"
    assert all(pattern.fullmatch(short) for short in (*terms, *ambiguous))
    for block in ("terms.toml", "ambiguous.toml", "icd10.toml"):
        assert tomllib.loads((DATA / block).read_text())


def test_evidence_leads_to_the_whole_short_form():
    text = "“new” r/o SAH, haemorrhage"
    found = normalise(text)
    at = found.text.index("hemorrhage")
    assert text[slice(*found.original(at, at + len("hemorrhage")))] == "SAH"
    assert text[slice(*found.original(found.text.rindex("hemorrhage"), len(found.text)))] == "haemorrhage"


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=300) | st.text(alphabet="RLMSCPxw/ .-?035,;vsGTtfhd", max_size=200))
def test_offsets_are_monotonic_and_within_the_text_for_any_text(text):
    found = normalise(text)
    assert len(found.offsets) == len(found.text) + 1 and len(found.ends) == len(found.text)
    assert list(found.offsets) == sorted(found.offsets) and list(found.ends) == sorted(found.ends)
    assert all(0 <= start < end <= len(text) for start, end in zip(found.offsets, found.ends, strict=False))
    assert found.offsets[-1] == len(text)


def test_bytes_that_are_no_text_are_taken():
    text = bytes(range(256)).decode("latin-1") * 3
    assert normalise(text).offsets[-1] == len(text)


def test_a_paste_costs_work_in_proportion_to_its_length(monkeypatch):
    """The neighbours looked at are counted, not the clock."""
    looked: list[int] = []
    meaning = module.meaning
    monkeypatch.setattr(module, "meaning", lambda *a: looked.append(2 * module.NEAR + 1) or meaning(*a))
    text = "MS changes, R arm weak, r/o CVA vs PE. "
    for times in (100, 1300):
        looked.clear()
        normalise(text * times)
        assert sum(looked) <= 5 * times * (2 * module.NEAR + 1)


@pytest.mark.parametrize("text", ["G35", "L arm weak, MS changes, r/o CVA", "C79.31 w/ HA x3 d, tumour", "pt w PE tube"])
def test_a_text_written_out_is_not_written_out_again(text):
    once = normalise(text).text
    assert normalise(once).text == once
