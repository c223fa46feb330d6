"""The technologist's sheet: what to scan, how long, what to prepare and what to watch, from the protocol book and the safety rules."""
from dataclasses import asdict
from functools import cache
from typing import Any

from data.book import Book
from data.orders import read_authored
from data.records import Order
from nlp.safety import check

TAKEN = ("accepted", "changed")
OPEN = ("suggested",)


def sheet_of(row: dict[str, Any], order: Order, book: Book) -> dict[str, Any] | None:
    """The sheet of an order as it is presented: of the protocol a person (or automation) took, else of the first suggested one; None without either.

    `basis` says which of the two. Warnings are those of this protocol: another one than suggested can raise flags that the suggestion did not show,
    and these are marked `new`.
    """
    suggestion, decision = row["suggestion"] or {}, row["decision"] or {}
    first = next((entry["protocol"] for entry in suggestion.get("ranked", ())), "")
    taken = row["state"] in TAKEN
    id = decision["protocol"] if taken else first if row["state"] in OPEN else ""
    if not id:
        return None
    shown = suggestion.get("flags", [])
    protocol = book.protocols.get(id)
    head = {"protocol": id, "basis": "accepted" if taken else "suggested", "by": decision.get("user", "") if taken else "",
            "time": decision.get("time", "") if taken else "", "in_book": protocol is not None, "book": book.version}
    if protocol is None:        # taken out of the book since
        return {**head, "name": id, "modality": "", "region": "", "sequences": [], "minutes": None, "preparation": [], "contrast": "",
                "contrast_agent": "", "warnings": [{**flag, "new": False} for flag in shown]}
    flags = [asdict(flag) for flag in check(order, protocol)]
    seen, raised = {flag["code"] for flag in shown}, {flag["code"] for flag in flags}
    if id == first:             # nothing that was shown when this protocol was taken is lost, whatever the rules say today
        flags += [flag for flag in shown if flag["code"] not in raised]
    return {**head, "name": protocol.name, "modality": protocol.modality, "region": protocol.region, "sequences": list(protocol.sequences),
            "minutes": protocol.minutes, "preparation": list(protocol.preparation), "contrast": protocol.contrast,
            "contrast_agent": protocol.contrast_agent, "warnings": [{**flag, "new": flag["code"] not in seen} for flag in flags]}


@cache
def authored() -> dict[str, dict[str, Any]]:
    """The shipped labelled orders by id, to show what an order was found to be like."""
    return {row.order.id: {"source": "authored", "order_text": row.order.text, "ordered_exam": row.order.ordered_exam, "protocol": row.expected}
            for row in read_authored()}
