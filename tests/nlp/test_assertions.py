import itertools

import pytest

from data.records import Finding
from nlp.assertions import TERMS, read_report, says
from nlp.sentences import render, render_absent

LABELS = {"intracranial_haemorrhage": "intracranial haemorrhage", "epidural_haemorrhage": "epidural haematoma",
          "subdural_haemorrhage": "subdural haematoma", "subarachnoid_haemorrhage": "subarachnoid haemorrhage",
          "intraparenchymal_haemorrhage": "intraparenchymal haemorrhage", "intraventricular_haemorrhage": "intraventricular haemorrhage",
          "midline_shift": "midline shift", "mass_effect": "mass effect", "skull_fracture": "skull fracture"}


def finding(code, present=True, **facts):
    return Finding(id="f1", code=code, label=LABELS[code], present=present, probability=0.9, **facts)


def test_every_finding_has_a_term():
    assert set(LABELS) == set(TERMS)


@pytest.mark.parametrize("code", LABELS)
def test_what_is_rendered_is_read_back_as_the_same_finding(code):
    for side, band, present in itertools.product((None, "left", "right", "bilateral"), ("state", "hedge"), (True, False)):
        size = {"size_mm": 7.4} if code == "midline_shift" else {"volume_ml": 12.0} if "haemorrhage" in code else {}
        if code == "midline_shift" and side == "bilateral":
            continue
        one = finding(code, present, side=side, band=band, **size)
        assert says(render(one), [one]), render(one)


@pytest.mark.parametrize(("changed", "facts"), [("Right subdural haematoma, 12 mL.", {}), ("Left subdural haematoma, 21 mL.", {}),
                                                ("No subdural haematoma.", {}), ("Possible left subdural haematoma, 12 mL.", {}),
                                                ("Left epidural haematoma, 12 mL.", {}), ("Left subdural haematoma.", {}),
                                                ("Left subdural haematoma, 12 mL. Mass effect.", {}), ("The study is normal.", {})])
def test_a_sentence_that_says_something_else_is_noticed(changed, facts):
    assert not says(changed, [finding("subdural_haemorrhage", side="left", volume_ml=12.0, **facts)])


def test_a_denial_reaches_the_whole_list_but_not_the_next_sentence_or_a_but():
    read = read_report("No haemorrhage, mass effect or midline shift. There is a skull fracture. No SDH, but a small right EDH, 3 cc.")
    assert [(a.code, a.polarity, a.side, a.volume_ml) for a in read] == [
        ("intracranial_haemorrhage", "absent", None, None), ("mass_effect", "absent", None, None), ("midline_shift", "absent", None, None),
        ("skull_fracture", "present", None, None), ("subdural_haemorrhage", "absent", None, None), ("epidural_haemorrhage", "present", "right", 3.0)]


def test_american_spelling_centimetres_and_doubt_are_read():
    [one] = read_report("Midline shift of 1.2 cm to the left.")
    assert (one.code, one.size_mm, one.side) == ("midline_shift", 12.0, "left")
    [one] = read_report("Subarachnoid hemorrhage cannot be excluded.")
    assert one.polarity == "possible"


def test_offsets_point_at_the_words():
    text = "Comparison: none.\nLeft subdural hematoma, 4.5 mL."
    [one] = read_report(text)
    assert text[one.start:one.end] == "subdural hematoma" and one.volume_ml == 4.5


def test_several_absences_are_one_sentence_and_read_back():
    absent = [finding(code, False) for code in ("intracranial_haemorrhage", "midline_shift", "mass_effect")]
    assert render_absent(absent) == "No intracranial haemorrhage, midline shift or mass effect."
    assert says(render_absent(absent), absent)
