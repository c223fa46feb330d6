import pytest

from data.findings import FINDINGS
from data.records import Finding, Prior
from nlp.assertions import read_report, says
from nlp.impression import asked_codes, compose_impression


def finding(number, code, present=True, probability=None, **facts):
    likely = probability or (0.9 if present else 0.1)
    return Finding(f"f{number}", code, FINDINGS[code].label, present, likely, critical=FINDINGS[code].critical, **facts)


def texts(findings, order=""):
    return [said.text for said in compose_impression(findings, order)]


def test_the_most_urgent_finding_comes_first_and_the_list_is_numbered():
    rows = texts([finding(1, "atrophy", probability=0.99), finding(2, "mass", side="left"),
                  finding(3, "subdural_haemorrhage", side="left", volume_ml=12.0)])
    assert rows == ["1. Left subdural haematoma, 12 mL.", "2. Left intracranial mass.", "3. Global cerebral atrophy."]


def test_the_orders_question_is_answered_yes_no_or_not_excluded_from_the_graph_alone():
    bleed = finding(1, "subdural_haemorrhage", side="left")
    assert texts([bleed], "fall. haemorrhage?") == ["Yes: left subdural haematoma."]
    assert texts([bleed, finding(2, "skull_fracture", False)], "? fracture") == ["1. Left subdural haematoma.", "2. No skull fracture."]
    assert texts([finding(1, "intracranial_haemorrhage", False)], "? SDH") == ["No intracranial haemorrhage."]
    assert texts([finding(1, "intracranial_haemorrhage", False, band="omit")], "haemorrhage?") == [
        "Intracranial haemorrhage cannot be excluded; the evidence is not enough."]
    assert "cannot be excluded; it was not assessed" in texts([bleed], "? stroke")[-1]
    assert not any("Yes" in row for row in texts([finding(1, "subdural_haemorrhage", band="hedge")], "? SDH"))


@pytest.mark.parametrize(("order", "yes"), [
    ("drowsy after assault, bleed?", True), ("assault ? bleed", True), ("r/o ICH", True), ("any haemorrhage", True), ("? ICH or fracture", True),
    ("ICH, SDH or fracture?", True), ("suspected subdural", True), ("haemorrhage? known frontal meningioma", True),
    ("is the headache a bleed?", True), ("drowsy after assault", False),
    ("fell down the stairs, drowsy?", False), ("worst headache", False), ("assault. Cause of the drowsiness?", False),
    ("subdural haematoma", False), ("SDH last week, worse?", False), ("SDH growing?", False), ("drowsy after SDH?", False),
    ("new bleed?", False), ("follow up of subdural", False), ("post op SDH evacuation, drowsy?", False), ("bleeding disorder, headache?", False),
    ("his mother had a haemorrhage, headache?", False), ("chronic SDH?", False), ("epidural?", False)])
def test_yes_answers_only_what_is_asked_by_name_of_a_finding(order, yes):
    found = [finding(1, "subdural_haemorrhage", side="left"), finding(2, "mass_effect")]
    assert [row.split(". ")[1][:4] == "Yes:" for row in texts(found, order)[:2]] == [yes, False], texts(found, order)


def test_a_wider_finding_is_no_yes_to_a_kind_of_it_nor_a_skull_fracture_to_another_bones():
    assert not texts([finding(1, "intracranial_haemorrhage")], "SDH?")[0].startswith("Yes")
    fracture = finding(1, "skull_fracture")
    assert texts([fracture], "skull fracture?")[0].startswith("Yes") and not texts([fracture], "wrist fracture?")[0].startswith("Yes")
    old = finding(1, "subdural_haemorrhage", acuity="chronic")
    assert texts([old], "chronic SDH?")[0].startswith("Yes")


def test_a_finding_on_the_other_side_than_the_one_asked_about_is_no_yes():
    bleed = finding(1, "epidural_haemorrhage", side="right", volume_ml=34.2)
    for order in ("Left extradural haematoma?", "extradural on the left?", "Known LEFT extradural haematoma. EDH growing?"):
        assert texts([bleed], order)[0] == "Right epidural haematoma, 34.2 mL. On the right, not on the left that the order names."
    for order in ("Right extradural haematoma?", "extradural?", "Left sided weakness, extradural?", "Left or right extradural haematoma?",
                  "Right or left extradural haematoma?"):
        assert texts([bleed], order)[0].startswith("Yes: right")
    for order in ("Right sided weakness, left sided extradural?", "right weakness with left extradural?", "left extradural with right weakness?"):
        assert not texts([bleed], order)[0].startswith("Yes"), order
    for order in ("Left sided weakness, right sided extradural?", "left weakness with right extradural?", "right extradural with left weakness?"):
        assert texts([bleed], order)[0].startswith("Yes: right"), order
    both = finding(1, "subdural_haemorrhage", side="bilateral")
    assert texts([both], "left SDH?")[0].startswith("Yes: ")


def test_a_finding_in_another_part_of_the_brain_than_the_one_asked_about_or_in_none_that_is_known_is_no_yes():
    for region, yes in (("frontal", True), ("frontal, parietal", True), ("temporal", False), ("", False)):
        bleed = finding(1, "intraparenchymal_haemorrhage", side="right", region=region)
        assert texts([bleed], "right frontal haemorrhage?")[0].startswith("Yes") == yes
        assert texts([bleed], "haemorrhage? known frontal meningioma")[0].startswith("Yes")


def test_the_side_that_was_asked_about_is_answered_where_all_of_it_lies_on_the_other_side():
    right, left = finding(1, "subdural_haemorrhage", side="right"), finding(2, "epidural_haemorrhage", side="left")
    behind = " On the right, not on the left that the order names."
    assert texts([right], "left sided bleed?") == ["Right subdural haematoma." + behind]
    assert texts([right, left], "Left subdural?") == ["1. Right subdural haematoma." + behind, "2. Left epidural haematoma."]
    assert texts([right, left], "left sided bleed?") == ["1. Right subdural haematoma.", "2. Yes: left epidural haematoma."]
    for order in ("", "subdural?", "left epidural?", "left or right subdural?", "no left subdural on the first CT", "left arm weak, subdural?"):
        assert not any("that the order names" in row for row in texts([right], order))
    shift = finding(1, "midline_shift", side="left", size_mm=4.0)
    assert texts([shift], "midline shift to the right?") == ["Midline shift of 4 mm to the left. To the left, not to the right that the order names."]


@pytest.mark.parametrize("code", sorted(code for code, row in FINDINGS.items() if "left" in row.side))
@pytest.mark.parametrize("band", ["state", "hedge"])
def test_the_answer_about_the_other_side_reads_back_as_the_finding_alone(code, band):
    found = finding(1, code, side="right", band=band, volume_ml=12.5 if FINDINGS[code].volume else None)
    [row] = texts([found], f"left {FINDINGS[code].label}?")[:1]
    assert row.endswith(" the right, not on the left that the order names.") or code == "midline_shift"
    assert says(row, [found])


def test_the_impression_is_spelt_as_the_order_is():
    bleed = finding(1, "subdural_haemorrhage", side="left")
    assert texts([bleed], "intracranial hemorrhage?") == ["Yes: left subdural hematoma."]
    assert texts([finding(1, "intracranial_haemorrhage", False)], "Hemorrhage?") == ["No intracranial hemorrhage."]
    for order in ("haemorrhage?", "hemiparesis, bleed?", "hemorrhage? oedema?"):
        assert texts([bleed], order)[0] .endswith("Yes: left subdural haematoma.")
    assert texts([bleed]) == ["Left subdural haematoma."]


def test_what_an_order_tells_as_known_is_not_its_question():
    assert asked_codes("known meningioma, ? hydrocephalus") == ["hydrocephalus"] and asked_codes("") == []
    assert asked_codes("no haemorrhage on the first CT") == []


def test_nothing_is_compared_without_a_prior_that_was_measured():
    assert texts([finding(1, "subdural_haemorrhage", volume_ml=12.0)]) == ["Subdural haematoma, 12 mL."]
    assert texts([finding(1, "subdural_haemorrhage", volume_ml=12.0, prior=Prior("1", "20260102"))]) == ["Subdural haematoma, 12 mL."]
    assert texts([finding(1, "subdural_haemorrhage", volume_ml=12.0, prior=Prior("1", "20260102", True, 8.0))]) == ["Subdural haematoma, 12 mL."]


def test_a_measured_prior_is_compared_with_both_numbers():
    for before, change in ((8.0, "larger"), (9.9, "larger"), (20.0, "smaller"), (15.5, "smaller"), (11.5, "unchanged"), (10.1, "unchanged"),
                           (14.5, "unchanged")):
        [row] = texts([finding(1, "subdural_haemorrhage", side="left", volume_ml=12.0, prior=Prior("1", "20260102", True, None, before))])
        assert row == f"Left subdural haematoma, 12 mL, {change} since 2026-01-02 (previously {before:g} mL)."
        [read] = read_report(row)
        assert (read.comparison, read.volume_ml, read.side) == (change, 12.0, "left")
    for now, change in ((6.9, "unchanged"), (7.1, "larger"), (3.1, "unchanged")):
        [row] = texts([finding(1, "midline_shift", size_mm=now, prior=Prior("1", "20260102", True, 5.0))])
        assert f", {change} since" in row
    for now, change in ((11, "unchanged"), (13, "increased in number"), (7, "decreased in number")):
        [row] = texts([finding(1, "microbleeds", count=now, prior=Prior("1", "20260102", True, count=10))])
        assert f"{change} since 2026-01-02 (previously 10)" in row
    [row] = texts([finding(1, "mass", size_mm=9.0, prior=Prior("1", "20260102", False))])
    assert row == "Intracranial mass, 9 mm, new since 2026-01-02." and read_report(row)[0].comparison == "new"


@pytest.mark.parametrize(("now", "said"), [
    ((44.0, 44.0), ""), ((55.0, 35.0), "unchanged since 2026-01-08 (previously 34.3 mL)"),
    ((54.0, 48.0), "larger since 2026-01-08 (previously 34.3 mL)"),
    ((44.0, 34.0), "smaller since 2026-01-08 (previously 53.7 mm)"), ((40.0, 20.0), "smaller since 2026-01-08 (previously 34.3 mL)")])
def test_two_measures_that_change_the_same_way_or_one_alone_give_the_word_and_two_that_differ_give_none(now, said):
    [row] = texts([finding(1, "mass", side="right", size_mm=now[0], volume_ml=now[1], prior=Prior("1", "20260108", True, 53.7, 34.3))])
    assert said in row and (said or "since" not in row)


@pytest.mark.parametrize(("order", "code"), [
    ("old infarct?", "chronic_infarct"), ("old stroke?", "chronic_infarct"), ("previous stroke?", "chronic_infarct"),
    ("acute or old stroke?", "chronic_infarct"), ("chronic infarct?", "chronic_infarct")])
def test_an_old_infarct_that_is_asked_about_is_answered(order, code):
    assert code in asked_codes(order)
    assert code not in asked_codes("known old infarct, headache")


def test_what_has_gone_is_said_to_have_resolved_only_on_its_own_evidence():
    gone = finding(1, "oedema", False, prior=Prior("1", "20260102"))
    assert texts([gone])[0] == "1. Vasogenic oedema has resolved since 2026-01-02."
    assert read_report(texts([gone])[0])[0].polarity == "absent"
    assert not any("resolved" in row for row in texts([finding(1, "oedema", False, band="omit", prior=Prior("1"))]))


def test_normal_needs_its_own_evidence():
    assert texts([]) == ["No statement: the evidence is not enough. Read the images."]
    assert texts([finding(1, "intracranial_haemorrhage", False), finding(2, "mass_effect", False)]) == ["No intracranial haemorrhage."]


@pytest.mark.parametrize(("parent", "kind", "said"), [
    ("state", "hedge", {"Intracranial haemorrhage.", "Possible left subdural haematoma."}), ("state", "state", {"Left subdural haematoma."}),
    ("hedge", "hedge", {"Possible left subdural haematoma."})])
def test_haemorrhage_that_is_sure_stays_so_where_its_kind_is_only_possible(parent, kind, said):
    found = [finding(1, "intracranial_haemorrhage", band=parent), finding(2, "subdural_haemorrhage", band=kind, side="left")]
    assert {text.lstrip("12. ") for text in texts(found)} == said
