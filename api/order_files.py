"""Orders from a file of either form: the design's JSONL, or HL7 v2."""
import re
from dataclasses import replace
from pathlib import Path

from api.hl7.messages import HANDLERS
from api.hl7.reader import read_message
from data.errors import InputError, WetreadError
from data.orders import order_from_json, read_rows
from data.records import Order


def read_order_file(path: Path) -> tuple[list[Order], list[str]]:
    """(orders, one error text per row that failed); raises InputError when the file itself cannot be read."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); give a JSONL or .hl7 file") from None
    if raw.lstrip()[:3] in (b"MSH", b"FHS", b"BHS") or raw[:1] == b"\x0b":
        return orders_from_hl7(raw, path)
    rows = list(read_rows(raw))
    if rows and not any(row for _, row, _ in rows):
        raise InputError(f"{path} is neither JSONL nor HL7 v2; write one JSON object a line, {{\"order_text\": \"the clinical question\"}}, "
                         "or give an HL7 v2 message (ORM^O01, OMG^O19, OMI^O23), which begins with MSH")
    orders, errors = [], []
    for number, row, error in rows:
        try:
            if error:
                raise InputError(error)
            orders.append(order_from_json(row, default_id=str(number)))
        except WetreadError as problem:
            errors.append(f"{path}:{number}: {problem}")
    return orders, errors


def orders_from_hl7(raw: bytes, path: Path) -> tuple[list[Order], list[str]]:
    orders, errors = [], []
    bodies = [part for part in re.split(rb"[\r\n\x0b\x1c]+(?=MSH)", b"\r" + raw) if part.startswith(b"MSH")]
    for number, body in enumerate(bodies, 1):
        try:
            message = read_message(body.rstrip(b"\x1c\r\n") + b"\r")
            handler = HANDLERS.get(message.kind)
            if handler is None:
                raise InputError(f"MSH-9 is {message.kind}, expected one of {', '.join(sorted(HANDLERS))}")
            found = [record for record in handler(message) if isinstance(record, Order)]
            orders += [replace(one, id=one.placer_number or one.filler_number or f"{message.control_id}-{n}") for n, one in enumerate(found, 1)]
        except WetreadError as problem:
            errors.append(f"{path}:{number}: {problem}")
    return orders, errors
