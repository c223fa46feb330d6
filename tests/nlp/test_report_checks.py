"""The check before signature: what it remarks on, where, and that it is silent on a report that fits."""
import pytest

from data.records import Finding, Order
from nlp.report_checks import Asked, check_report
from nlp.sentences import NO_FINDING, NOTHING

DRAFT = {"comparison": "No prior study was read.",
         "findings": "Left subdural haematoma, 12.5 mL. Midline shift of 4.2 mm to the right. No skull fracture.",
         "impression": "Left subdural haematoma, 12.5 mL. Midline shift of 4.2 mm to the right."}
FOUND = (Finding("f1", "subdural_haemorrhage", "subdural haematoma", True, 0.9, side="left", volume_ml=12.5, critical=True),
         Finding("f2", "midline_shift", "midline shift", True, 0.9, side="right", size_mm=4.2, critical=True),
         Finding("f3", "skull_fracture", "skull fracture", False, 0.02, critical=True))
ORDER = Order(text="fall on apixaban, r/o SDH", ordered_exam="CT head without contrast")
ASKED = Asked(ORDER, "F", 71, FOUND, DRAFT, False)


def remarks(asked=ASKED, **changed):
    sections = {**DRAFT, **changed}
    found = check_report(sections, asked)
    for row in found:
        assert 0 <= row.start <= row.end <= len(sections.get(row.section, "")), row
    return {row.code: (row.severity, sections.get(row.section, "")[row.start:row.end]) for row in found}


def test_a_draft_signed_as_it_is_needs_no_remark():
    assert remarks() == {}


@pytest.mark.parametrize(("changed", "code", "severity", "words"), [
    ({"findings": DRAFT["findings"].replace("Left", "Right")}, "side_draft", "stop", "subdural haematoma"),
    ({"impression": DRAFT["impression"].replace("Left", "Right")}, "side_impression", "stop", "subdural haematoma"),
    ({"findings": DRAFT["findings"].replace("12.5", "125")}, "number_ten", "stop", "125 mL"),
    ({"findings": DRAFT["findings"].replace("4.2 mm", "4.2 cm")}, "number_ten", "stop", "4.2 cm"),
    ({"findings": DRAFT["findings"].replace("4.2 mm", "42 mm")}, "implausible", "stop", "42 mm"),
    ({"findings": DRAFT["findings"].replace("12.5 mL", "12.5 mm")}, "unit_changed", "stop", "12.5 mm"),
    ({"impression": DRAFT["impression"].replace("4.2", "7")}, "number_impression", "warn", "7 mm"),
    ({"impression": "Normal head CT."}, "normal_in_impression", "stop", "Normal head CT"),
    ({"impression": "No acute intracranial abnormality."}, "normal_in_impression", "stop", "No acute intracranial abnormality"),
    ({"impression": "No subdural haematoma."}, "denied_in_impression", "stop", "subdural haematoma"),
    ({"impression": "Left subdural haematoma."}, "missing_in_impression", "warn", "Midline shift"),
    ({"impression": DRAFT["impression"] + " Hydrocephalus."}, "only_in_impression", "warn", "Hydrocephalus"),
    ({"findings": "No haemorrhage. Left subdural haematoma. Midline shift to the right."}, "contradiction", "warn", "haemorrhage"),
    ({"findings": "Midline shift of 4.2 mm to the right.", "impression": "Midline shift."}, "dropped_from_draft", "warn", ""),
    ({"findings": "No subdural haematoma.", "impression": "No subdural haematoma."}, "denied_against_draft", "stop", "subdural haematoma"),
    ({"findings": "No intracranial haemorrhage.", "impression": "No haemorrhage."}, "denied_against_draft", "stop", "intracranial haemorrhage"),
    ({"findings": "Normal head CT.", "impression": "Normal."}, "normal_against_draft", "stop", "Normal head CT"),
    ({"impression": "No intracranial haemorrhage."}, "denied_in_impression", "stop", "intracranial haemorrhage"),
    ({"findings": "No haemorrhage. Midline shift of 4.2 mm to the right."}, "denied_in_findings", "stop", "subdural haematoma"),
    ({"findings": DRAFT["findings"].replace("No skull", "Left skull")}, "stated_against_draft", "inform", "skull fracture"),
    ({"findings": DRAFT["findings"] + " The prostate is enlarged."}, "sex", "stop", "prostate"),
    ({"indication": "71-year-old man after a fall."}, "sex", "stop", "year-old man"),
    ({"indication": "17-year-old woman after a fall."}, "age", "stop", "17-year-old"),
    ({"indication": "17 yo F after a fall."}, "age", "stop", "17 yo"),
    ({"findings": DRAFT["findings"] + " The fontanelle is open."}, "age", "warn", "fontanelle"),
    ({"findings": DRAFT["findings"] + " Unchanged meningioma."}, "comparison_without_prior", "warn", "meningioma"),
    ({"impression": DRAFT["impression"] + " [ ]"}, "placeholder", "warn", "[ ]"),
    ({"impression": ""}, "section_empty", "warn", ""),
])
def test_each_slip_is_remarked_on_at_its_place(changed, code, severity, words):
    assert remarks(**changed).get(code) == (severity, words)


BLEED = FOUND[0]
POSSIBLE = Finding("f1", "subdural_haemorrhage", "subdural haematoma", True, 0.5, side="left", band="hedge", critical=True)


@pytest.mark.parametrize(("findings", "said", "severities"), [
    ((BLEED,), "No subdural haematoma.", ["stop"]), ((POSSIBLE,), "No subdural haematoma.", ["warn"]),
    ((POSSIBLE,), "No haemorrhage.", ["warn"]), ((POSSIBLE,), "Normal head CT.", []),
    ((BLEED,), "No acute haemorrhage.", ["stop"]), ((BLEED,), "No left subdural haematoma.", ["stop"]),
    ((BLEED,), "No haemorrhage on the right.", []), ((BLEED,), "No new haemorrhage.", []),
    ((BLEED,), "No subdural haematoma on the right.", ["warn"]), ((BLEED,), "Haemorrhage.", []),
    ((BLEED,), "Left subdural haematoma. No haemorrhage on the right.", []), ((BLEED,), "Left subdural haematoma. The brain is normal.", []),
    ((Finding("f0", "intracranial_haemorrhage", "intracranial haemorrhage", True, 0.9, critical=True), BLEED), "No haemorrhage.", ["stop"])])
def test_the_denial_of_a_bleed_that_the_draft_states_asks_for_a_look_and_of_one_only_possible_warns(findings, said, severities):
    found = check_report({"findings": said, "impression": said}, Asked(findings=findings))
    denials = [row for row in found if row.code in ("denied_against_draft", "normal_against_draft")]
    assert [row.severity for row in denials] == severities and all(row.end > row.start for row in denials)


def test_of_two_bleeds_that_one_denial_denies_the_largest_is_named():
    large = Finding("f1", "intraparenchymal_haemorrhage", "intraparenchymal haemorrhage", True, 0.85, side="left", volume_ml=40.0, critical=True)
    small = Finding("f2", "subdural_haemorrhage", "subdural haematoma", True, 0.95, side="left", volume_ml=3.0, critical=True)
    general = Finding("f0", "intracranial_haemorrhage", "intracranial haemorrhage", True, 0.99, critical=True)
    for found in ((general, large, small), (general, small, large), (small, large, general)):
        for text in ("No haemorrhage.", "Normal head CT."):
            [row] = [r for r in check_report({"findings": text, "impression": text}, Asked(findings=found)) if r.code.endswith("against_draft")]
            assert "intraparenchymal haemorrhage" in row.message, row


def test_a_section_in_which_the_machine_states_nothing_counts_as_empty():
    found = check_report({"findings": NO_FINDING, "impression": NOTHING})
    assert [(row.code, row.section) for row in found] == [("section_empty", "findings"), ("section_empty", "impression")]
    assert not check_report({"findings": f"{NO_FINDING} No infarct.", "impression": "No infarct."})


def test_a_comparison_is_missed_only_where_there_is_a_prior():
    known = Asked(ORDER, "F", 71, FOUND, DRAFT, True)
    assert remarks(known) == {"comparison_missing": ("warn", "No prior study was read.")}
    assert remarks(known, comparison="CT head of 2026-01-02.") == {}
    assert remarks(known, findings=DRAFT["findings"].replace("Left", "New left")) == {}
    assert remarks(Asked(ORDER, "F", 71, FOUND, DRAFT, None)) == {}


def test_a_question_without_an_answer_is_remarked_on():
    asked = Asked(Order(text="known breast ca, evaluate for metastasis"), "F", 71)
    assert "question_unanswered" in remarks(asked)
    assert "question_unanswered" not in remarks(asked, findings="No mass or metastasis.", impression="No metastasis.")
    assert "question_unanswered" in remarks(Asked(Order(text="fell down the stairs")), findings="Atrophy.", impression="Atrophy.")
    assert "question_unanswered" not in remarks(Asked(Order(text="no history of stroke, headache")), findings="Atrophy.", impression="Atrophy.")


def test_the_side_of_the_order_is_compared_finding_by_finding():
    asked = Asked(Order(text="follow-up of known right subdural haematoma, left arm weak", ordered_exam="CT orbit LEFT"))
    assert remarks(asked)["side_order"] == ("stop", "subdural haematoma")
    assert remarks(asked, findings="Bilateral subdural haematomas.", impression="Bilateral subdural haematomas.", exam="CT of the right orbit.")[
        "side_order"] == ("stop", "right")
    assert "side_order" not in remarks(Asked(Order(text="left arm weakness")))


def test_words_of_a_relative_are_not_the_patients():
    assert "sex" not in remarks(indication="Father with prostate cancer.") and "age" not in remarks(indication="Her 45-year-old sister has MS.")


def test_months_and_years_are_the_same_age():
    assert "age" not in remarks(Asked(age_years=0.5), indication="6-month-old girl.")
    assert "age" in remarks(Asked(age_years=6), indication="6-month-old girl.")


@pytest.mark.parametrize("text", ["", "\r\n", "[", "no no no", "left", "4.5 cm", "x" * 2000])
def test_no_text_breaks_it(text):
    check_report({"findings": text, "impression": text, "comparison": text}, ASKED)


@pytest.mark.parametrize(("order", "stops"), [("known right haematoma", True), ("history of right ICH, growing?", True),
                                              ("known left haematoma", False), ("known right meningioma", False)])
def test_a_side_is_compared_with_that_of_the_same_thing_by_a_wider_name(order, stops):
    text = "Left intraparenchymal haemorrhage of 94.7 mL."
    found = check_report({"findings": text, "impression": text}, Asked(Order(text=order)))
    assert ("side_order" in {row.code for row in found}) is stops


@pytest.mark.parametrize(("findings", "impression", "codes"), [
    ("Left intraparenchymal haemorrhage in the parietal lobe.", "", {"region_draft"}), ("Left parietal haemorrhage.", "", {"region_draft"}),
    ("", "Left pontine haemorrhage.", {"region_draft"}), ("Left intraparenchymal haemorrhage in the frontal lobe.", "Left frontal bleed.", set()),
    ("Left intraparenchymal haemorrhage in the frontal lobe.", "Left intraparenchymal haemorrhage, occipital lobe.",
     {"region_draft", "region_impression"}),
    ("Left fronto-parietal haemorrhage.", "", set()), ("Left haemorrhage of 3 cm.", "", set()), ("Left haemorrhage in the insula.", "", set()),
    ("Left frontal haemorrhage. No haemorrhage in the parietal lobe.", "", set()), ("Old parietal infarct. Left frontal haemorrhage.", "", set())])
def test_another_part_of_the_brain_than_the_drafts_is_remarked_on(findings, impression, codes):
    bleed = Finding("f1", "intraparenchymal_haemorrhage", "intraparenchymal haemorrhage", True, 0.9, side="left", region="frontal", critical=True)
    found = check_report({"findings": findings, "impression": impression}, Asked(findings=(bleed,)))
    assert {row.code for row in found if row.code.startswith("region")} == codes
    assert all(row.severity == "warn" and row.end > row.start for row in found if row.code.startswith("region"))


def test_a_part_of_the_brain_is_compared_by_what_lies_in_it_and_only_where_all_of_its_bleeds_have_one():
    def codes(text, *found):
        return {row.code for row in check_report({"findings": text, "impression": text}, Asked(findings=found))} & {"region_draft"}

    deep = Finding("f1", "intraparenchymal_haemorrhage", "intraparenchymal haemorrhage", True, 0.9, region="basal ganglia, thalamus")
    below = Finding("f2", "subdural_haemorrhage", "subdural haematoma", True, 0.9, region="posterior fossa")
    assert not codes("Putaminal haemorrhage. Haemorrhage in the putamen.", deep) and codes("Cerebellar haemorrhage.", deep)
    assert not codes("Haemorrhage in the posterior fossa.", deep, below) and codes("Frontal subdural haematoma.", deep, below)
    assert not codes("Subdural haematoma over the cerebellum.", below)
