"""Orders as JSONL: the design's fields, and the authored orders with labels that Wetread ships."""
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.errors import InputError
from data.records import Facts, Order, Patient

AUTHORED = Path(__file__).parent / "authored_orders"
TEXT_MAX = 200_000      # characters; a pasted chart is some 50,000


@dataclass(frozen=True)
class Labelled:
    """An order with what its author says an attending would choose; scored against the set `acceptable`."""

    order: Order
    author: str
    expected: str
    acceptable: tuple[str, ...]
    contrast: str
    flags: tuple[str, ...] | None       # None: not labelled
    urgent: bool


def read_rows(raw: bytes) -> Iterator[tuple[int, dict[str, Any] | None, str | None]]:
    """(line number, row or None, what is wrong or None) for each line that is not blank."""
    for number, line in enumerate(raw.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            yield number, None, "the line is no JSON; write one JSON object a line"
            continue
        yield (number, row, None) if isinstance(row, dict) else (number, None, "the line is no JSON object; write {\"order_text\": …}")


def order_from_json(row: dict[str, Any], default_id: str = "") -> Order:
    """A JSONL row to an Order; all but order_text is optional, null means unknown."""
    text = row.get("order_text")
    if not isinstance(text, str):
        raise InputError("order_text is missing or no text; put the clinical question there")
    if len(text) > TEXT_MAX:
        raise InputError(f"order_text has {len(text)} characters, at most {TEXT_MAX} are read; send the clinical question")
    sex = row.get("sex") or "U"
    if sex not in ("M", "F", "O", "U"):
        raise InputError("sex must be M, F, O or U")
    priority = (row.get("priority") or "ROUTINE")
    if priority not in ("STAT", "URGENT", "ROUTINE"):
        raise InputError("priority must be STAT, URGENT or ROUTINE")
    pregnant = row.get("pregnant")
    if pregnant not in (None, True, False):
        raise InputError("pregnant must be true, false or null")
    return Order(
        id=str(row.get("id") or default_id),
        text=text,
        patient=Patient(sex=sex),
        ordered_exam=words(row, "ordered_exam"),
        setting=words(row, "setting"),
        priority=priority,
        age_years=number(row, "age", 0, 130),
        facts=Facts(egfr=number(row, "egfr", 0, 300), allergies=texts(row, "allergies"), implants=texts(row, "implants"),
                    pregnant=pregnant),
        priors=texts(row, "priors"),
    )


def read_authored() -> list[Labelled]:
    """The authored orders; `author` is the letter of the file."""
    found = []
    for path in sorted(AUTHORED.glob("orders_*.jsonl")):
        for _, row, error in read_rows(path.read_bytes()):
            if row is None:
                raise InputError(f"{path}: {error}")
            found.append(labelled_from(row, path.stem[-1]))
    return found


def labelled_from(row: dict[str, Any], author: str) -> Labelled:
    return Labelled(order_from_json(row), author, row["expected_protocol"], tuple(row["acceptable_protocols"]),
                    row["expected_contrast"], None if row["expected_flags"] is None else tuple(row["expected_flags"]), bool(row["urgent"]))


def words(row: dict[str, Any], key: str) -> str:
    value = row.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InputError(f"{key} is no text; send a text or null")
    return value[:500]


def texts(row: dict[str, Any], key: str) -> tuple[str, ...]:
    value = row.get(key) or []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InputError(f"{key} is no list of texts; send [\"…\"] or null")
    return tuple(value)


def number(row: dict[str, Any], key: str, low: float, high: float) -> float | None:
    value = row.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        cure = "; years, 18 months are 1.5" if key == "age" else ""
        raise InputError(f"{key} must be a number from {low} to {high}, or null{cure}")
    return float(value)
