"""The parts of docs/hl7.md that follow from the tables of the code: `python -m api.hl7.conformance` writes them anew."""
from pathlib import Path
from typing import Any

from api.hl7.messages import CONTROLS, HANDLERS, PRIORITIES, REPLACED
from api.hl7.reader import CHARSETS
from api.order_life import SAID_BY_CONTROL, SAID_BY_STATUS

PAGE = Path(__file__).parents[2] / "docs" / "hl7.md"
MARK = "<!-- {}: written by python -m api.hl7.conformance -->"
DOES = {
    "new": "a new order; one that was cancelled stands again", "change": "new content; a cancelled order stays cancelled",
    "cancel": "cancelled; what it says of the content only fills blanks", "hold": "on hold: not on the modality worklist",
    "release": "no longer on hold", "status": "ORC-5 and numbers; its content counts as a change's",
}
LIFE = {("cancelled", True): "cancelled", ("cancelled", False): "not cancelled", ("held", True): "on hold", ("held", False): "not on hold"}


def messages_in() -> str:
    kinds: dict[Any, list[str]] = {}
    for kind, handler in HANDLERS.items():
        kinds.setdefault(handler, []).append(f"`{kind}`")
    rows = [f"| {', '.join(names)} | `{handler.__name__}` | {(handler.__doc__ or '').splitlines()[0].strip()} |" for handler, names in kinds.items()]
    return "\n".join(["| MSH-9 | handler | what it is (clauses of HL7 v2.5.1) |", "|---|---|---|", *rows])


def order_control() -> str:
    codes: dict[str, list[str]] = {}
    for code, control in CONTROLS.items():
        codes.setdefault(control, []).append(code or "(empty)")
    rows = [f"| {', '.join(codes[control])} | {control} | {DOES[control]} |" for control in SAID_BY_CONTROL]
    rows.append(f"| {', '.join(REPLACED)} with an RO in the same message | cancel | the order is replaced; RO is the new one |")
    return "\n".join(["| ORC-1 (table 0119) | event | what it does |", "|---|---|---|", *rows])


def order_status() -> str:
    rows = []
    for code, said in SAID_BY_STATUS.items():
        words = [LIFE[name, value] for name, value in said.items() if (name, value) in LIFE]
        progress = said.get("progress")
        rows.append(f"| {code} | {'; '.join([*words, *([progress.lower() or 'scheduled'] if progress is not None else [])])} |")
    return "\n".join(["| ORC-5 (table 0038) | the order is |", "|---|---|", *rows])


def values() -> str:
    by_word: dict[str, list[str]] = {}
    for code, word in PRIORITIES.items():
        by_word.setdefault(word, []).append(code)
    priorities = "; ".join(f"{word}: {', '.join(codes)}" for word, codes in by_word.items())
    return (f"Priority (TQ1-9, ORC-7.6, OBR-27.6, OBR-5): {priorities}; the most urgent where they differ. All else is ROUTINE in a new order, and "
            f"unchanged in a later message.\n\nMSH-18: {', '.join(filter(None, CHARSETS))}.")


PARTS = {"messages": messages_in, "order control": order_control, "order status": order_status, "values": values}


def written(page: str) -> str:
    """The page with each part as the tables say it; the rest as it stands."""
    for name, make in PARTS.items():
        before, start, rest = page.partition(MARK.format(name))
        _, end, after = rest.partition(f"<!-- end of {name} -->")
        assert start and end, f"docs/hl7.md has no place for {name}"
        page = f"{before}{start}\n{make()}\n{end}{after}"
    return page


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
