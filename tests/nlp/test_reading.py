"""What an order mentions is read as it is meant: denied, past, of the family, in doubt, on a side, at a time."""
import subprocess
import sys
from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nlp.intervals import intervals
from nlp.reading import HOW, read

ORDERED = date(2024, 6, 1)


def said(text: str, word: str) -> set[str]:
    """What is said of a word, whether or not it is on a list."""
    at = text.rindex(word)
    mention = read(text, ORDERED).about(at, at + len(word))
    return {how for how in HOW if getattr(mention, how)}


@pytest.mark.parametrize(("text", "word", "how"), [
    ("no fever, chills or neck stiffness", "stiffness", {"negated"}),
    ("no fever but new weakness", "weakness", set()),
    ("denies headache; weakness since Tues", "weakness", set()),
    ("no pacemaker, cochlear implant L", "cochlear", set()),
    ("headache without papilledema", "papilledema", {"negated"}),
    ("pacemaker removed", "pacemaker", {"negated"}),
    ("LOC no, amnesia yes", "amnesia", set()),
    ("headache no better", "headache", set()),
    ("no new deficit except diplopia", "diplopia", set()),
    ("hx of breast cancer, new back pain", "cancer", {"historical"}),
    ("hx of breast cancer, new back pain", "pain", set()),
    ("s/p craniotomy 2009", "craniotomy", {"historical"}),
    ("s/p fall today with LOC", "fall", set()),
    ("old L MCA stroke now with aphasia", "stroke", {"historical"}),
    ("old L MCA stroke now with aphasia", "aphasia", set()),
    ("mother has MS", "MS", {"family"}),
    ("brother died of glioblastoma; HA 2 wks", "HA", set()),
    ("family hx of aneurysm, pt with thunderclap headache", "headache", set()),
    ("family hx of aneurysm, pt with thunderclap headache", "aneurysm", {"family"}),
    ("mom says seizure this am", "seizure", set()),
    ("r/o abscess", "abscess", {"uncertain"}),
    ("weak x 3 d. ?stroke", "stroke", {"uncertain"}),
    ("weak x 3 d. ?stroke", "weak", set()),
    ("tumor vs abscess", "abscess", {"uncertain"}),
    ("progressive ataxia x 3 yr", "ataxia", set()),
    ("head injury 2 yrs ago", "injury", {"historical"}),
    ("seizures since 2011", "seizures", set()),
    ("no evidence of stroke", "stroke", {"negated"}),
])
def test_a_mention_is_read_by_its_cue_and_the_cue_ends(text, word, how):
    assert said(text, word) == how


NOTE = "Indication: HA, new\nPMH: stroke 2015, diabetes\nFHx: aneurysm\nMeds: keppra for seizure\nExam: right facial droop\nMRI: old infarct"


def test_a_pasted_note_is_read_by_its_sections():
    assert [section.name for section in read(NOTE).sections] == ["question", "past", "family", "medication", "examination", "imaging"]
    assert said(NOTE, "stroke") == {"historical"} and said(NOTE, "aneurysm") == {"family"} and said(NOTE, "droop") == set()


def test_the_present_question_leaves_out_past_family_and_drugs():
    reading = read(NOTE)
    asked = "".join(NOTE[start:end] for start, end in reading.question())
    assert "HA, new" in asked and "facial droop" in asked
    assert not any(word in asked for word in ("stroke", "aneurysm", "keppra", "diabetes"))


def test_an_order_without_headings_is_one_section():
    reading = read("PE tubes 3 wk ago. Mom anxious")
    assert [section.name for section in reading.sections] == [""]


@pytest.mark.parametrize(("text", "word", "side"), [
    ("L arm weakness, R ear pain", "weakness", "left"), ("L arm weakness, R ear pain", "pain", "right"), ("b/l hearing loss", "hearing", "bilateral"),
    ("weakness of the left leg", "weakness", "left"), ("L spine pain", "pain", ""), ("on 2 L O2, weak", "weak", ""),
    ("left the ED, weakness", "weakness", ""),
])
def test_a_side_belongs_to_its_own_phrase(text, word, side):
    at = text.index(word)
    assert read(text).about(at, at + len(word)).side == side


@pytest.mark.parametrize(("text", "days"), [
    ("HA x 2 days", [2]), ("fell 3 wks ago", [21]), ("since 2019", [1797]), ("POD 2", [2]), ("pod#3", [3]), ("LKW 0830", [0.5]),
    ("a few days ago", [3]),    ("2-3 weeks of pain", [17.5]), ("yesterday", [1]), ("dx Mar 2018", [2270]), ("3/14/2021", [1175]),
    ("45 yo, 28 wks pregnant, q6 mo scan, in 6 weeks", []),
    ("6 mo f/u", []), ("20/400, C5-6, T2 12 mm", []), ("99/99/2020", [None]),
])
def test_times_become_days_before_the_order(text, days):
    assert [interval.days for interval in intervals(text, ORDERED)] == (days if None in days else pytest.approx(days, abs=0.05))


def test_a_year_is_no_days_where_the_orders_date_is_unknown():
    assert [interval.days for interval in intervals("since 2019")] == [None]


WORDS = ["no", "but", "PMH:", "L", "r/o", "mother", "stroke", "?", ",", ";", "\n", "HA", "3 d ago", "since 2019", "s/p"]


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=200) | st.lists(st.sampled_from(WORDS), max_size=40).map(" ".join))
def test_any_text_is_read_and_every_span_lies_in_it(text):
    reading = read(text, ORDERED)
    spans = [(part.start, part.end) for part in (*reading.sections, *reading.mentions, *reading.intervals)] + list(reading.question())
    assert all(0 <= start <= end <= len(text) for start, end in spans)
    assert all(text[mention.start:mention.end] == mention.text for mention in reading.mentions)
    reading.about(0, len(text))


def test_a_paste_without_a_full_stop_is_marked_in_proportion_to_its_length():
    """A cue reaches a few tokens, however long the sentence."""
    reading = read("no stroke and " * 4000)
    assert all(sum(scope) <= 10 * 4000 for scope in reading.scopes.values())


def test_importing_it_does_not_import_spacy():
    code = "import sys, nlp.reading\nassert 'spacy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
