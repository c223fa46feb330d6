"""Figures beside their bars."""
from data.bars import bars_of

BARS = (("right", ("text", "right"), 0.9, True), ("seconds", ("speed",), 2.0, False), ("other", ("text", "other", "deep"), 1.0, True))


def test_a_bar_counts_the_mean_of_an_interval_on_its_good_side_and_none_where_nothing_was_measured():
    rows = bars_of({"text": {"right": [0.92, 0.85, 0.97], "other": 3}, "speed": 2.5}, BARS)
    assert [(row["figure"], row["direction"], row["reached"]) for row in rows] == [
        ("right", ">=", True), ("seconds", "<=", False), ("other", ">=", None)]
    assert rows[0]["measured"] == [0.92, 0.85, 0.97]
