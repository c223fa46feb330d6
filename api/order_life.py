"""What is known of an order from its events, joined so that neither their arrival order nor a repetition counts, only their own times.

`Known` holds for each thing an event can say the newest statement and its stamp. Joining two is taking the newer of each: commutative,
associative, and the same again changes nothing. So the state is that of event time, whichever way the messages came.
"""
import json
from typing import Any

from data.records import Facts, Order, OrderEvent, Patient, as_json

Known = dict[str, Any]      # name -> [stamp, value]; "notes" is a table text -> stamp

# of two events at one time the later in an order's life wins: a cancel cannot come before its order
RANKS = {"new": 0, "change": 1, "status": 1, "hold": 1, "release": 1, "cancel": 2}
IN_PROGRESS, COMPLETED = "IN PROGRESS", "COMPLETED"
# what a control says of the order's life; a change alone brings no cancelled order back
SAID_BY_CONTROL: dict[str, dict[str, Any]] = {
    "new": {"cancelled": False, "held": False}, "change": {}, "status": {}, "cancel": {"cancelled": True},
    "hold": {"held": True}, "release": {"held": False},
}
# ORC-5 (table 0038), where it stands; what is not here says nothing
SAID_BY_STATUS: dict[str, dict[str, Any]] = {
    "SC": {"cancelled": False, "held": False, "progress": ""}, "IP": {"cancelled": False, "held": False, "progress": IN_PROGRESS},
    "A": {"cancelled": False, "held": False, "progress": IN_PROGRESS}, "CM": {"cancelled": False, "held": False, "progress": COMPLETED},
    "HD": {"held": True}, "CA": {"cancelled": True}, "DC": {"cancelled": True}, "RP": {"cancelled": True},
}
NUMBERS = ("placer_number", "filler_number", "accession_number", "study_instance_uid", "requested_procedure_id")
APART = ("id", "text", "control", "patient", "facts", "priority", "status", "event_time", "asks", "says_priority", *NUMBERS)
NOTES_MAX = 50              # the newest; the same words again are one note
STRONG, WEAK = "1", "0"     # before the time in a stamp: what a cancel says of the content only fills what nothing else said


def stamp_of(when: str, sent: str, control: str, number: int) -> str:
    """Sorts by the event's time, the message's, the place in an order's life, then arrival."""
    return f"{when}|{sent}|{RANKS[control]}|{number:012d}"


def known_from(order: Order, when: str, sent: str, number: int) -> Known:
    """What one event says."""
    stamp = stamp_of(when, sent, order.control, number)
    content = (WEAK if order.control == "cancel" else STRONG) + stamp
    known: Known = {name: [STRONG + stamp, getattr(order, name)] for name in NUMBERS if getattr(order, name)}
    record = as_json(order)
    known |= {name: [content, value] for name, value in record.items() if name not in APART and says(value)}
    facts = record["facts"]
    if facts["egfr"] is not None:       # a value never stands beside another value's date
        known["facts.egfr"] = [content, [facts["egfr"], facts["egfr_date"]]]
    known |= {f"facts.{name}": [content, value] for name, value in facts.items() if not name.startswith("egfr") and says(value)}
    if order.priority != "ROUTINE" or (order.text and order.control != "cancel"):
        # a default fills only what nothing else says: a new question without a priority leaves STAT as it was
        known["priority"] = [content if getattr(order, "says_priority", True) else WEAK + stamp, order.priority]
    if order.patient.id:
        known["patient_id"] = [STRONG + stamp, order.patient.id]
    if order.patient != Patient(id=order.patient.id):
        known["patient"] = [STRONG + stamp, record["patient"]]      # used where there is no identifier
    if order.text:
        if order.control == "cancel" or getattr(order, "asks", True):
            known["text"] = [content, order.text]
        else:
            known["notes"] = {order.text: content}
    status = order.status if isinstance(order, OrderEvent) else ""
    life = {**SAID_BY_CONTROL[order.control], **(SAID_BY_STATUS.get(status, {}) if order.control != "cancel" else {})}
    known |= {name: [STRONG + stamp, value] for name, value in life.items()}
    known["last"] = [STRONG + stamp, order.control]
    return known


def known_of_row(row: dict[str, Any]) -> Known:
    """What is known of a kept order; one of before there were events of its own counts as said at its newest event."""
    if row["known"]:
        return row["known"]
    order = Order(**{**row["record"], "patient": Patient(**row["record"]["patient"]), "facts": Facts(**row["record"]["facts"]), "control": "new"})
    known = known_from(order, row["event_time"], row["event_time"], row["event_number"])
    known["cancelled"][1] = row["state"] == "cancelled"
    return known


def join(one: Known, other: Known) -> Known:
    """The newer statement of each thing, and the notes that came after the newest question."""
    joined = {**one}
    for name, statement in other.items():
        if name != "notes" and (name not in one or newer(statement, one[name])):
            joined[name] = statement
    notes = [(stamp, text) for known in (one, other) for text, stamp in known.get("notes", {}).items() if stamp > joined.get("text", [""])[0]]
    joined.pop("notes", None)
    if notes:
        joined["notes"] = {text: stamp for stamp, text in sorted(notes)[-NOTES_MAX:]}
    return joined


def newer(one: list[Any], other: list[Any]) -> bool:
    return (one[0], json.dumps(one[1])) > (other[0], json.dumps(other[1]))


def order_from_known(known: Known, patient: Patient, id: str = "") -> Order:
    """The order as its events say, of `patient` as known now."""
    from api.hl7.messages import age_years

    values = {name: said(known, name) for name in known if "." not in name and name in FIELDS}
    facts = {name[6:]: said(known, name) for name in known if name.startswith("facts.")}
    if "egfr" in facts:
        facts["egfr"], facts["egfr_date"] = facts["egfr"]
    facts = {name: tuple(fact) if isinstance(fact, list) else fact for name, fact in facts.items()}
    if patient.birth_date:
        values["age_years"] = age_years(patient.birth_date, digits(max(s[0] for s in known.values() if isinstance(s, list))[1:]))
    elif said(known, "patient", {}).get("birth_date"):
        values.pop("age_years", None)       # it was counted from a birth date that is no longer known
    values = {name: tuple(one) if isinstance(one, list) else one for name, one in values.items()}
    return Order(**{**values, "id": id, "text": text_of(known), "control": said(known, "last", "new"), "patient": patient, "facts": Facts(**facts)})


FIELDS = {*NUMBERS, "ordered_exam", "ordered_exam_code", "priority", "requested_date", "referrer", "setting", "age_years", "priors"}


def text_of(known: Known) -> str:
    """The newest question, then the notes that came after it."""
    stamp, text = known.get("text", ["", ""])
    lines = text.split("\n") if text else []
    for at, note in sorted((at, note) for note, at in known.get("notes", {}).items()):
        if at > stamp:
            lines += [line for line in note.split("\n") if line not in lines]
    return "\n".join(lines)


def said(known: Known, name: str, default: Any = None) -> Any:
    return known[name][1] if name in known else default


def says(value: Any) -> bool:
    return value is not None and value != "" and value != [] and value != ()


def digits(time: str) -> str:
    return time[:10].replace("-", "")
