"""Orders as JSONL: the design's fields, and the authored orders with labels that Wetread ships."""
import json
from collections.abc import Callable, Iterator
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
    wrong: list[str] = []

    def take(read: Callable[..., Any], *args: Any) -> Any:
        """A field, or None and a line on what is wrong with it: a row's faults are told together."""
        try:
            return read(row, *args)
        except InputError as error:
            wrong.append(error.args[0])
            return None

    text = take(order_text)
    sex = take(one_of, "sex", ("M", "F", "O", "U"), "U")
    exam, setting = take(words, "ordered_exam"), take(words, "setting")
    priority = take(one_of, "priority", ("STAT", "URGENT", "ROUTINE"), "ROUTINE")
    age, egfr = take(number, "age", 0, 130), take(number, "egfr", 0, 300)
    allergies, implants, priors = (take(texts, key) for key in ("allergies", "implants", "priors"))
    pregnant = take(one_of, "pregnant", (True, False, None), None)
    if wrong:
        raise InputError(". ".join(wrong))
    return Order(id=str(row.get("id") or default_id), text=text, patient=Patient(sex=sex), ordered_exam=exam, setting=setting, priority=priority,
                 age_years=age, facts=Facts(egfr=egfr, allergies=allergies, implants=implants, pregnant=pregnant), priors=priors)


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


def order_text(row: dict[str, Any]) -> str:
    text = row.get("order_text")
    if not isinstance(text, str):
        raise InputError(f"order_text is {came(text)}, expected a text; put the clinical question there")
    if len(text) > TEXT_MAX:
        raise InputError(f"order_text has {len(text)} characters, at most {TEXT_MAX} are read; send the clinical question")
    return text


def one_of(row: dict[str, Any], key: str, allowed: tuple[Any, ...], default: Any) -> Any:
    value = row.get(key)
    if value is None or value == "":
        return default
    if value not in allowed:
        names = [{True: "true", False: "false", None: "null"}.get(one, one) for one in allowed]
        raise InputError(f"{key} is {came(value)}, expected {', '.join(names[:-1])} or {names[-1]}; send one of them, or leave {key} out")
    return value


def came(value: Any) -> str:
    """What kind of value came, never the value: it may be a patient's."""
    if value is None:
        return "missing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return "a number"
    return f"a text of {len(value)} characters" if isinstance(value, str) else "a list" if isinstance(value, list) else "an object"


def words(row: dict[str, Any], key: str) -> str:
    value = row.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InputError(f"{key} is {came(value)}, expected a text; send a text or null")
    return value[:500]


def texts(row: dict[str, Any], key: str) -> tuple[str, ...]:
    value = row.get(key) or []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InputError(f"{key} is {came(value)}{' with other things than texts' if isinstance(value, list) else ''}, expected a list of texts; "
                         "send [\"…\"] or null")
    return tuple(value)


def number(row: dict[str, Any], key: str, low: float, high: float) -> float | None:
    value = row.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        kind = "a number out of range" if isinstance(value, int | float) and not isinstance(value, bool) else came(value)
        unit = "years, 18 months are 1.5" if key == "age" else "mL/min/1.73 m²" if key == "egfr" else "a number"
        raise InputError(f"{key} is {kind}, expected a number from {low} to {high}; send {unit}, or null")
    return float(value)
