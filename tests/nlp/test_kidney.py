"""Kidney function from text: eGFR, creatinine in two units, what is old and what is now."""
import pytest

from nlp.kidney import egfr_from, read_kidneys


def low(text, egfr=None, age=61.0, sex="M"):
    return bool(read_kidneys(text.lower(), text, egfr, age, sex).low)


@pytest.mark.parametrize("creatinine, age, sex, egfr", [(1.0, 50, "M", 92), (1.0, 50, "F", 69), (4.0, 70, "M", 15), (0.6, 30, "F", 124)])
def test_an_adult_is_read_by_ckd_epi_2021(creatinine, age, sex, egfr):
    assert round(egfr_from(creatinine, age, sex, 0)) == egfr


def test_a_child_is_read_by_schwartz_with_the_height_that_the_text_gives():
    assert round(egfr_from(1.4, 4, "F", 100), 1) == 29.5
    assert low("creat 1.8, ht 125 cm", age=9) and not low("creat 1.8, ht 170 cm", age=14)


@pytest.mark.parametrize("text, counts", [
    ("Cr 4.8", True), ("creatinine 420", True), ("creatinine 420 umol/L", True), ("Cr 1.1 -> 4.6", True), ("creat is 5.2 today", True),
    ("Cr 4.8 -> 1.1", False), ("Cr peaked at 5, now 1.2", False), ("creatinine 88", False), ("Cho/Cr 3.2", False), ("CR 2 cycles", False),
    ("CR 2 yrs", False), ("creatine kinase 900", False), ("Cr 4.9 in 2018", False),
    ("eGFR 18", True), ("eGFR today only 14", True), ("eGFR by CKD-EPI 2021: 22", True), ("eGFR 60 -> 18", True), ("eGFR on 11/3 was 84", False),
    ("eGFR 22 in 2017, now 71", False), ("eGFR 24 five years ago, 66 now", False), ("EGFR exon 19 deletion", False), ("EGFR L858R, 22 mm", False),
])
def test_only_a_present_low_value_counts(text, counts):
    assert low(text) == counts


@pytest.mark.parametrize("text, egfr, counts", [
    ("eGFR 22 in 2019", 71, False), ("eGFR 22 in 2019", None, True), ("dipped to eGFR 28 in week 1, 78 now", 78, False), ("eGFR today 14", 55, True),
    ("creatinine 128 now (was 310 / eGFR 16 at diagnosis in 2022, recovered)", 46, False), ("Cr 6.1", 70, True), ("Cr 2.3", 33, False),
])
def test_an_old_value_gives_way_to_the_metadata_and_a_present_one_does_not(text, egfr, counts):
    assert low(text, egfr) == counts


@pytest.mark.parametrize("text, counts", [("Cr 1.0 -> 2.9", True), ("Cr 2.9 (baseline 1.1)", True), ("Cr 1.2 (baseline 1.1)", False)])
def test_a_rise_to_one_and_a_half_times_the_baseline_is_acute_injury(text, counts):
    assert bool(read_kidneys(text.lower(), text, None, 61.0, "M").acute) == counts
