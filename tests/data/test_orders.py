"""Orders as JSONL: what is wrong is named by field, what is unknown is null."""
import pytest

from data.book import read_book
from data.errors import InputError
from data.orders import order_from_json, read_authored, read_rows


def test_the_authored_orders_are_by_nine_authors_with_protocols_of_the_book():
    rows = read_authored()
    assert {author: sum(row.author == author for row in rows) for author in "abcdei"} == {**dict.fromkeys("abcde", 240), "i": 260}
    assert {row.author for row in rows if row.flags is None} == set("fgh") and len({row.order.id for row in rows}) == len(rows)
    book = read_book().protocols
    assert all({row.expected, *row.acceptable} <= set(book) for row in rows)


def test_only_the_text_is_needed():
    order = order_from_json({"order_text": "MS follow up"}, default_id="7")
    assert order.id == "7" and order.facts.egfr is None and order.patient.sex == "U"


@pytest.mark.parametrize("field, value", [
    ("order_text", None), ("order_text", 5), ("age", "forty"), ("age", -1), ("age", True), ("egfr", float("nan")),
    ("sex", "X"), ("priority", "NOW"), ("allergies", "penicillin"), ("pregnant", "maybe"), ("order_text", "x" * 200_001),
])
def test_a_wrong_field_is_named(field, value):
    with pytest.raises(InputError) as error:
        order_from_json({"order_text": "headache", field: value})
    assert field in str(error.value)


def test_all_faults_of_a_row_are_told_at_once_each_with_what_came_what_was_expected_and_the_cure_and_never_the_value():
    row = {"order_text": "fall", "sex": "Smith", "priority": "NOW", "age": 4711, "egfr": "low", "implants": "stent", "pregnant": "yes"}
    with pytest.raises(InputError) as told:
        order_from_json(row)
    lines = str(told.value).removeprefix("[E109] ").split(". ")
    assert [line.split(" ")[0] for line in lines] == ["sex", "priority", "age", "egfr", "implants", "pregnant"]
    assert all(" is " in line and ", expected " in line and "; send " in line for line in lines), lines
    assert not any(value in str(told.value) for value in ("Smith", "4711", "stent", "NOW"))


def test_a_line_that_is_no_json_object_is_numbered_and_the_others_are_read():
    rows = list(read_rows(b'{"a": 1}\n\n[1]\n{bad\n{"b": 2}'))
    assert [(n, row is not None) for n, row, _ in rows] == [(1, True), (3, False), (4, False), (5, True)]
