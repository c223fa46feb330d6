from data.book import read_book
from data.orders import order_from_json
from data.simulated_orders import simulate_orders


def test_a_seed_gives_the_same_orders_and_another_gives_others():
    assert simulate_orders(5, 3) == simulate_orders(5, 3) != simulate_orders(5, 4)


def test_every_simulated_order_is_readable_and_its_truth_is_in_the_book():
    book = read_book()
    rows = simulate_orders(200, 1)
    assert all(row["expected_protocol"] in book.protocols for row in rows)
    assert all(order_from_json(row, "x").text == row["order_text"] for row in rows)
    assert len({row["expected_protocol"] for row in rows}) > 50 and len({row["order_text"] for row in rows}) > 150


def test_some_orders_carry_hazards_and_some_click_the_wrong_exam():
    book, rows = read_book(), simulate_orders(200, 1)
    assert any(row["implants"] for row in rows) and any(row["allergies"] for row in rows) and any(row["egfr"] for row in rows)
    wrong = sum(book.protocols[row["expected_protocol"]].name != row["ordered_exam"] for row in rows)
    assert 20 < wrong < 90
