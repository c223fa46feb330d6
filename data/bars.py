"""Figures beside their bars: what was measured, what was asked for, reached or not."""
from collections.abc import Mapping, Sequence
from typing import Any

Bar = tuple[str, tuple[str, ...], float, bool]      # figure, where it stands in the figures, bar, whether more is better


def bar_row(name: str, value: Any, bar: float, up: bool) -> dict[str, Any]:
    """One row; of a value with its interval the first counts, and without a value nothing was reached or missed."""
    mean = value[0] if isinstance(value, list) else value
    reached = None if mean is None else bool(mean >= bar if up else mean <= bar)
    return {"figure": name, "measured": value, "direction": ">=" if up else "<=", "bar": bar, "reached": reached}


def bars_of(figures: Mapping[str, Any], bars: Sequence[Bar]) -> list[dict[str, Any]]:
    """One row a bar; what this run did not measure is None."""
    rows = []
    for name, path, bar, up in bars:
        value: Any = figures
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        rows.append(bar_row(name, value, bar, up))
    return rows
