import random

import pytest

from data.book import read_book
from data.orders import order_from_json
from data.simulated_orders import MANNERS, distract, lengthen, mistype, shorten, simulate_orders, swap_sides


def test_a_seed_gives_the_same_orders_and_another_gives_others():
    assert simulate_orders(5, 3) == simulate_orders(5, 3) != simulate_orders(5, 4)


def test_every_simulated_order_is_readable_and_its_truth_is_in_the_book():
    book = read_book()
    rows = simulate_orders(200, 1)
    assert all(row["expected_protocol"] in book.protocols for row in rows)
    assert all(order_from_json(row, "x").text == row["order_text"] for row in rows)
    assert len({row["expected_protocol"] for row in rows}) > 50 and len({row["authored"] for row in rows}) == 200


def test_some_orders_carry_hazards_and_some_click_the_wrong_exam():
    rows = simulate_orders(200, 1)
    assert any(row["implants"] for row in rows) and any(row["allergies"] for row in rows) and any(row["egfr"] for row in rows)
    assert 50 < sum("ordered_exam_mismatch" in row["expected_flags"] for row in rows) < 140


def test_more_orders_than_were_authored_are_all_made():
    assert len(simulate_orders(1500, 2)) == 1500


def test_both_sides_are_swapped_and_handedness_stays():
    assert swap_sides("Left arm, RIGHT face, right-handed, rt hand") == "Right arm, LEFT face, right-handed, rt hand"


@pytest.mark.parametrize("manner, said, wanted", [(shorten, "headache with fever", "HA w/ fever"), (lengthen, "HA w/ sz", "headache with seizure")])
def test_shorthand_goes_both_ways(manner, said, wanted):
    assert manner(said, random.Random(0)) == wanted


def test_typing_errors_leave_numbers_and_short_words():
    said = mistype("GCS 13 after cerebellar haemorrhage, INR 3.2", random.Random(1))
    assert said != "GCS 13 after cerebellar haemorrhage, INR 3.2" and "GCS 13" in said and "INR 3.2" in said


def test_a_distractor_keeps_the_question_whole():
    assert "saddle numbness" in distract("saddle numbness", random.Random(2))


def test_every_manner_answers_an_empty_text():
    assert all(isinstance(manner("", random.Random(0)), str) for manner, _ in MANNERS)
