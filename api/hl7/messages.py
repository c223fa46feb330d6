"""Message types to records: one pure function each, one row in HANDLERS. Source: HL7 v2.5.1 chapters 3 and 4."""
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date

from api.hl7.reader import Message, Segment
from data.errors import MessageRefused, OrderRejected
from data.records import Control, Facts, OrderEvent, Patient, PatientMerge, PatientUpdate

Record = OrderEvent | PatientUpdate | PatientMerge

# ORC-1 (table 0119) -> what it does to the order; a code that is not here is refused by name
CONTROLS: dict[str, Control] = {
    **dict.fromkeys(("NW", "SN", "RO", "CH", ""), "new"),
    **dict.fromkeys(("XO", "XX", "XR", "PA"), "change"),
    **dict.fromkeys(("RP", "RQ", "RU"), "change"),      # with an RO in the same message: cancel, because RO stands in its place
    **dict.fromkeys(("CA", "CR", "OC", "DC", "DR", "OD", "UA"), "cancel"),
    **dict.fromkeys(("HD", "HR", "OH"), "hold"),
    **dict.fromkeys(("RL", "OE", "OR"), "release"),
    **dict.fromkeys(("SC", "SR", "SS", "OK", "NA", "RE", "RR", "NR", "CN", "DE", "UC", "UD", "UH", "UR", "UX"), "status"),
}
REPLACED = ("RP", "RQ", "RU")
PRIORITIES = {"S": "STAT", "STAT": "STAT", "A": "URGENT", "ASAP": "URGENT", "URGENT": "URGENT", "U": "URGENT", "CR": "URGENT",
              "T": "URGENT", "TS": "STAT", "EM": "STAT", "E": "STAT", "R": "ROUTINE", "ROUTINE": "ROUTINE"}
EGFR = {"33914-3", "48642-3", "48643-1", "50044-7", "62238-1", "69405-9", "88293-6", "88294-4", "98979-8", "98980-6"}
WEIGHT = {"29463-7", "3141-9"}
PREGNANCY = {"82810-3", "11449-6"}
SETTINGS = {"E": "ED", "I": "inpatient", "O": "outpatient"}


@dataclass(frozen=True)
class Group:
    """One order of a message: its ORC and OBR, and the segments up to the next."""

    orc: Segment | None
    obr: Segment | None
    rest: tuple[Segment, ...]

    def named(self, name: str) -> list[Segment]:
        return [segment for segment in self.rest if segment.name == name]


def imaging_orders(message: Message) -> tuple[OrderEvent, ...]:
    """ORM^O01 (4.4.1), OMG^O19 (4.4.4), OMI^O23 (4.4.10): each order of the message.

    An order without a clinical question is one too: its sender is told (asked_orders), and a person asks back.
    Raises: MessageRefused when ORC-1 is unknown or there is neither ORC nor OBR.
    """
    patient, now = patient_of(message), message.get("MSH-7")[:14]
    shared = facts_of(message, [s for s in message.segments if s.name in ("AL1", "OBX")])
    setting = message.text("PV1-3") or SETTINGS.get(message.get("PV1-2"), "")
    orders = []
    for control, group in usable_groups(message):
        # ORC-9 is when the step was asked for; of an order that stands it is no date to be examined
        dates = ("ORC-9", "OBR-6", "ORC-15") if control == "new" else ("OBR-6", "ORC-15")
        orders.append(OrderEvent(
            text=order_text(message, group),
            asks=control == "new" or bool(question_of(message, group)),
            control=control,
            status=first(message, group, "ORC-5").upper(),
            event_time=transaction_time(message, group),
            placer_number=first(message, group, "ORC-2.1", "OBR-2.1"),
            filler_number=first(message, group, "ORC-3.1", "OBR-3.1"),
            accession_number=accession(message, group),
            study_instance_uid=study_uid(message, group),
            requested_procedure_id=next((value for s in group.named("IPC") if (value := message.get("IPC-2.1", s))), ""),
            patient=patient,
            ordered_exam=first(message, group, "OBR-4.2", "OBR-44.2", "OBR-4.5", "OBR-4.1"),
            ordered_exam_code=first(message, group, "OBR-4.1"),
            priority=(priority := priority_of(message, group)) or "ROUTINE",    # type: ignore[arg-type]    # PRIORITIES holds only the three
            says_priority=bool(priority),
            requested_date=first(message, group, *dates)[:14],
            referrer=" ".join(p for p in (first(message, group, "ORC-12.3", "OBR-16.3"), first(message, group, "ORC-12.2", "OBR-16.2")) if p),
            setting=setting,
            age_years=age_years(patient.birth_date, now),
            facts=shared,
        ))
    return tuple(orders)


def usable_groups(message: Message) -> list[tuple[Control, Group]]:
    """Each order of the message with what is to be done."""
    found = []
    people = [identifier(message, "PID-3", s) for s in message.segments if s.name == "PID"]
    if len(set(people)) > 1:
        raise MessageRefused(f"the message holds {len(people)} PID segments of different patients; send the orders of each in a message of its own")
    replacement = any(s.name == "ORC" and message.get("ORC-1", s).strip().upper() == "RO" for s in message.segments)
    for group in groups(message):
        code = message.get("ORC-1", group.orc).strip().upper() if group.orc else ""
        if code not in CONTROLS:
            raise MessageRefused(f"ORC-1 (Order Control) is '{code[:8]}', expected one of {', '.join(filter(None, CONTROLS))}")
        control = "cancel" if code in REPLACED and replacement else CONTROLS[code]
        if control == "new" and group.obr is None:
            raise MessageRefused("OBR is missing; a new imaging order needs ORC and OBR")
        if control != "new" and not numbered(message, group):
            raise MessageRefused(f"ORC-1 is {code} and ORC-2, ORC-3 and the accession number are empty; send a number of the order that is meant")
        found.append((control, group))
    if not found:
        raise MessageRefused("the message holds no ORC or OBR; an order needs both")
    return found


def numbered(message: Message, group: Group) -> bool:
    """Whether a later message can mean this order."""
    return bool(first(message, group, "ORC-2.1", "OBR-2.1", "ORC-3.1", "OBR-3.1") or accession(message, group) or study_uid(message, group))


def asked_orders(message: Message) -> None:
    """Before the acknowledgement: raises as imaging_orders does, at a tenth of its cost; OrderRejected where no patient or no question is named."""
    for control, group in usable_groups(message):
        if control == "new" and not numbered(message, group):
            raise OrderRejected("ORC-2 (Placer Order Number), ORC-3 and the accession number are empty; send one, or no cancel finds the order")
        if control == "new" and not identifier(message, "PID-3"):
            raise OrderRejected(f"PID-3 (Patient Identifier List) {nobody(message)}; send the identifier that the patient's images will carry")
        if control == "new" and not (message.text("OBR-31", group.obr) or order_text(message, group)):
            raise OrderRejected("OBR-31 (Reason for Study) is empty, and so are OBR-13, NTE and OBX; send the clinical question there")


def patient_update(message: Message) -> tuple[PatientUpdate, ...]:
    """ADT^A08 (3.3.8), A31 (3.3.31), A28 (3.3.28), A01 and A04 (3.3.1, 3.3.4): the demographics of a patient."""
    patient = patient_of(message)
    if not patient.id and message.get("MSH-9.2") not in ("A08", "A31"):
        return ()                   # an admission of somebody whom no order can name
    if not patient.id:
        raise MessageRefused(f"PID-3 (Patient Identifier List) {nobody(message)}; send the identifier the orders carry")
    return (PatientUpdate(patient, event_time(message), tuple(name for name, path in DEMOGRAPHICS.items() if message.deletes(path))),)


DEMOGRAPHICS = {"name": "PID-5", "birth_date": "PID-7", "sex": "PID-8"}


def patient_merge(message: Message) -> tuple[PatientMerge, ...]:
    """ADT^A40 (3.3.40), A18 (3.3.18), A47 (3.3.47): each MRG-1 becomes part of the PID-3 before it."""
    pid, merges = None, []
    for segment in message.segments:
        if segment.name == "PID":
            pid = segment
        if segment.name != "MRG":
            continue
        patient = patient_of(message, pid)
        prior = identifier(message, "MRG-1", segment)
        if not prior or not patient.id:
            raise MessageRefused(f"MRG-1 (Prior Patient Identifier) or PID-3 {nobody(message)}; a merge names both")
        if prior == patient.id:
            raise MessageRefused("MRG-1 equals PID-3; a patient cannot be merged into itself")
        merges.append(PatientMerge(prior, patient, event_time(message)))
    if not merges:
        raise MessageRefused("the message holds no MRG segment; a merge names the prior identifier there")
    return tuple(merges)


HANDLERS: dict[str, Callable[[Message], tuple[Record, ...]]] = {
    "ORM^O01": imaging_orders,
    "OMI^O23": imaging_orders,
    "OMG^O19": imaging_orders,
    "ADT^A01": patient_update,
    "ADT^A04": patient_update,
    "ADT^A08": patient_update,
    "ADT^A28": patient_update,
    "ADT^A31": patient_update,
    "ADT^A18": patient_merge,
    "ADT^A40": patient_merge,
    "ADT^A47": patient_merge,
}
# what tells, before the acknowledgement, whether the handler will accept; where none stands here, the handler itself
CHECKS: dict[str, Callable[[Message], object]] = {"ORM^O01": asked_orders, "OMI^O23": asked_orders, "OMG^O19": asked_orders}


def groups(message: Message) -> Iterator[Group]:
    """ORC opens an order; an OBR without its own ORC opens one too."""
    orc, obr, rest = None, None, []
    for segment in message.segments:
        if segment.name == "ORC" or (segment.name == "OBR" and obr is not None):
            if orc or obr:
                yield Group(orc, obr, tuple(rest))
            orc, obr, rest = (segment, None, []) if segment.name == "ORC" else (None, segment, [])
        elif segment.name == "OBR":
            obr = segment
        elif orc or obr:
            rest.append(segment)
    if orc or obr:
        yield Group(orc, obr, tuple(rest))


def first(message: Message, group: Group, *paths: str) -> str:
    """The first path that holds something, looked up in this order's own ORC and OBR."""
    for path in paths:
        segment = group.orc if path.startswith("ORC") else group.obr
        value = message.get(path, segment).strip() if segment else ""
        if value:
            return value
    return ""


def order_text(message: Message, group: Group) -> str:
    """All free text of an order, one line each: reason, clinical information, notes, text observations."""
    lines = question_of(message, group)
    if group.orc:
        lines.append(message.text("ORC-16", group.orc))
    lines += [message.text("NTE-3", s) for s in group.named("NTE")]
    for observation in group.named("OBX"):
        if message.get("OBX-2", observation) in ("TX", "FT", "ST", "CE", "CWE"):
            name, said = message.get("OBX-3.2", observation), message.text("OBX-5", observation)
            lines.append(f"{name}: {said}" if name and said else said)
    lines += [message.get("DG1-3.2", s) or message.get("DG1-3.1", s) for s in group.named("DG1")]
    return "\n".join(dict.fromkeys(line for line in lines if line))


def question_of(message: Message, group: Group) -> list[str]:
    """Reason for study and relevant clinical information."""
    if not group.obr:
        return []
    lines = []
    # senders that count fields by hand put the reason in OBR-29 or OBR-30; an id there (29 is a parent EIP) has no blank
    for path in ("OBR-31", "OBR-13", "OBR-30", "OBR-29"):
        said = message.text(path, group.obr)
        if path in ("OBR-29", "OBR-30") and (" " not in said and "?" not in said and "-" not in said):
            continue
        if path == "OBR-29" and re.fullmatch(r"[\w.&-]+( [\w.&-]+)?", said):
            continue
        lines.append(re.sub(r"^R (?=\S)", "", said) if path == "OBR-29" else said)
    return [line for line in lines if line]


def transaction_time(message: Message, group: Group) -> str:
    """ORC-9 (4.5.1.9), when the step was taken; a mere date would put a cancel before the order of that morning."""
    time = first(message, group, "ORC-9")
    return time if re.match(r"\d{12}", time) else ""


def accession(message: Message, group: Group) -> str:
    """IPC-1 (4.5.6.1), else OBR-18 or OBR-20, where departments put it, else the filler number's place in OBR-19."""
    for segment in group.named("IPC"):
        if value := message.get("IPC-1.1", segment):
            return value
    return first(message, group, "OBR-18.1", "OBR-20.1", "OBR-19.1")


def study_uid(message: Message, group: Group) -> str:
    for path, name in (("IPC-3.1", "IPC"), ("ZDS-1.1", "ZDS")):
        for segment in group.named(name):
            if re.fullmatch(r"[0-9.]{5,64}", value := message.get(path, segment)):
                return value
    return ""


def priority_of(message: Message, group: Group) -> str:
    codes = [message.get("TQ1-9.1", s) for s in group.named("TQ1")]
    codes += [first(message, group, path) for path in ("ORC-7.6", "OBR-27.6", "OBR-5")]
    named = {PRIORITIES[code.upper()] for code in codes if code.upper() in PRIORITIES}
    return next((word for word in ("STAT", "URGENT", "ROUTINE") if word in named), "")      # where fields differ, the most urgent


def facts_of(message: Message, segments: list[Segment]) -> Facts:
    allergies, egfr, egfr_date, weight, pregnant = [], None, "", None, None
    for segment in segments:
        if segment.name == "AL1":
            words = [message.get("AL1-3.2", segment) or message.get("AL1-3.1", segment), message.text("AL1-5", segment)]
            allergies.append(": ".join(word for word in words if word))
            continue
        code, value = message.get("OBX-3.1", segment), message.get("OBX-5.1", segment)
        amount = float(value) if re.fullmatch(r"\d{1,4}(\.\d+)?", value) else None
        if amount is not None and (code in EGFR or re.search(r"\be?gfr\b|glomerular", message.get("OBX-3.2", segment), re.I)):
            egfr, egfr_date = amount, message.get("OBX-14", segment)[:8]
        elif amount is not None and code in WEIGHT:
            weight = amount * (0.4536 if message.get("OBX-6.1", segment).lower().startswith(("lb", "[lb")) else 1)
        elif code in PREGNANCY:
            said = f"{value} {message.get('OBX-5.2', segment)}".lower()
            pregnant = False if "not" in said or "no" in said.split() else True if "pregnant" in said or "yes" in said.split() else None
    return Facts(egfr=egfr, egfr_date=egfr_date, allergies=tuple(a for a in allergies if a), weight_kg=weight, pregnant=pregnant)


def patient_of(message: Message, segment: Segment | None = None) -> Patient:
    """The first PID, or the one given."""
    sex = message.get("PID-8", segment).strip().upper()[:1]
    born = message.get("PID-7", segment)[:8]
    return Patient(id=identifier(message, "PID-3", segment), name=person_name(message, segment),
                   birth_date=born if re.fullmatch(r"\d{8}", born) else "",
                   sex=sex if sex in ("M", "F", "O") else "U")      # type: ignore[arg-type]


def identifier(message: Message, path: str, segment: Segment | None = None) -> str:
    """Of several identifiers the medical record number (type MR), else the first that is one; none that names a foreign assigning authority."""
    parts = zip(*(message.repetitions(f"{path}.{n}", segment) for n in (1, 4, 5)), strict=False)
    found = [(number, kind) for number, authority, kind in parts if not message.authority or authority.split("&")[0] in ("", message.authority)]
    numbers = [(number, kind) for number, kind in found if any(letter.isalnum() for letter in number)]
    return next((number for number, kind in numbers if kind == "MR"), numbers[0][0] if numbers else "")


def nobody(message: Message) -> str:
    return f"holds no identifier of {message.authority[:20]}" if message.authority else "is empty"


def person_name(message: Message, segment: Segment | None) -> str:
    """PID-5.1 to 5.5, unescaped, joined by ^ whatever the sender separates by; of a family name with its parts the whole (FN.1)."""
    parts = [message.get(f"PID-5.{n}.1", segment).replace("^", " ") for n in range(1, 6)]
    return "^".join(parts).rstrip("^")


def age_years(birth_date: str, when: str) -> float | None:
    """Age on the day of the message; None when either date is missing or impossible."""
    try:
        born = date(int(birth_date[:4]), int(birth_date[4:6]), int(birth_date[6:8]))
        day = date(int(when[:4]), int(when[4:6]), int(when[6:8]))
    except ValueError:
        return None
    years = (day - born).days / 365.25
    return None if years < 0 or years > 130 else round(years, 2) if years < 2 else float(int(years))


def event_time(message: Message) -> str:
    return message.get("EVN-6") or message.get("EVN-2") or message.get("MSH-7")
