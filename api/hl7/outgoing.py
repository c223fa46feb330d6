"""Messages we send: ORU^R01 for a report, ORM^O01 for an order update. Composed here, checked by hl7apy before they are queued."""
from typing import Any

from hl7apy.exceptions import HL7apyException
from hl7apy.parser import parse_message
from hl7apy.validation import Validator

from api.hl7.reader import escape_text
from data.errors import MessageRefused, StateError

SECTIONS = ("exam", "indication", "technique", "comparison", "findings", "impression")
# LOINC document sections; 18782-3 Radiology Study observation is the exam line
LOINC = {"exam": "18782-3^Radiology Study observation^LN", "indication": "18785-6^Radiology Reason for study^LN",
         "technique": "55111-9^Current imaging procedure descriptions^LN", "comparison": "18834-2^Radiology Comparison study^LN",
         "findings": "59776-5^Procedure findings^LN", "impression": "19005-8^Radiology Imaging study [Interpretation]^LN"}
ALLOWED = {"P": {"preliminary"}, "F": {"final"}, "C": {"amended"}}     # OBX-11 -> the draft's status it may come from
AI_NOTE = "Drafted by software; preliminary, not read by a radiologist. Not for diagnosis."


def report_message(draft: dict[str, Any], study: dict[str, Any], order: dict[str, Any] | None, status: str, control_id: str, now: str) -> bytes:
    """ORU^R01 2.5.1 after IHE RAD-128 (Results Distribution): an OBX for each section, OBR-25 and OBX-11 `status` P, F or C; who signed in
    OBR-32; the study as 113014^DICOM Study^DCM.

    Raises: StateError when the draft's status does not allow it: an unsigned draft never leaves as final.
    """
    if draft["status"] not in ALLOWED.get(status, set()):
        raise StateError(f"a draft with status {draft['status']} cannot leave as {status}; sign or amend it first")
    record = (order or {}).get("order", order) or {}
    patient = record.get("patient") or study.get("patient") or {}
    stamp = digits(now)
    lines = [header("ORU^R01^ORU_R01", control_id, stamp), pid(patient),
             fields("ORC", "RE", record.get("placer_number"), record.get("filler_number")),
             observation_request(record, study, stamp, status, draft.get("signed_by", "") if status != "P" else "")]
    number = 0
    for name in SECTIONS:
        words = (draft.get("sections") or {}).get(name, "").replace("\r\n", "\n").replace("\r", "\n")
        if words:
            number += 1
            lines.append(f"OBX|{number}|TX|{LOINC[name]}||{escape_text(words)}||||||{status}|||{stamp}")
    number += 1
    lines.append(f"OBX|{number}|ST|113014^DICOM Study^DCM||{escape_text(study['id'])}||||||O|||{stamp}")
    if status == "P":
        lines.append(f"NTE|1||{escape_text(AI_NOTE)}")
    return checked(lines)


def order_update(order: dict[str, Any], suggestion: dict[str, Any] | None, decision: dict[str, Any] | None, control_id: str, now: str) -> bytes:
    """ORM^O01 2.5.1 with ORC-1 XO: the protocol in OBR-44 (Procedure Code), what led to it in NTE, one flag a NTE.

    A decision's protocol goes before the suggestion's; a suggestion is marked so in ORC-16 and is nobody's decision.
    """
    record = order.get("order", order)
    decided = bool(decision and decision.get("protocol"))
    ranked = (suggestion or {}).get("ranked") or []
    protocol = decision["protocol"] if decision and decided else (ranked[0]["protocol"] if ranked else "")
    word = {"accept": "accepted", "change": "changed", "reject": "rejected"}.get((decision or {}).get("action", ""), "suggested")
    lines = [header("ORM^O01^ORM_O01", control_id, digits(now)), pid(record.get("patient") or {}),
             fields("ORC", "XO", record.get("placer_number"), record.get("filler_number"), "", "SC", *[""] * 10, "^protocol " + word, raw=(16,)),
             f"OBR|1|{text(record.get('placer_number'))}|{text(record.get('filler_number'))}|"
             f"{text(record.get('ordered_exam_code'))}^{text(record.get('ordered_exam'))}" + "|" * 14 + text(record.get("accession_number"))
             + "|" * 26 + (f"{text(protocol)}^{text(protocol)}^99WETREAD" if protocol else "")]
    notes = [f"Protocol {word}: {protocol or 'none'}"]
    notes += [f"Suggested {row['protocol']} {row['probability']:.2f}" for row in ranked[:3]]
    if suggestion:
        notes.append(f"Contrast: {suggestion['contrast']}. Urgent: {'yes' if suggestion['urgent'] else 'no'}. {suggestion['disposition']}")
        notes += [f"{flag['severity'].upper()} {flag['code']}: {flag['message']} [{flag['source']}]" for flag in suggestion["flags"]]
        if suggestion.get("question"):
            notes.append(f"Question: {suggestion['question']}")
    if decision and decision.get("reason"):
        notes.append(f"Reason: {decision['reason']}")
    lines += [f"NTE|{i}||{escape_text(note)}" for i, note in enumerate(notes, 1)]
    return checked(lines)


def header(kind: str, control_id: str, stamp: str) -> str:
    return f"MSH|^~\\&|WETREAD|RADIOLOGY|||{stamp}||{kind}|{control_id}|P|2.5.1||||||UNICODE UTF-8"


def pid(patient: dict[str, Any]) -> str:
    # a name comes as sent, its ^ are components; everything else in it is escaped
    name = "^".join(escape_text(part) for part in (patient.get("name") or "").split("^"))
    return f"PID|1||{text(patient.get('id'))}||{name}||{digits(patient.get('birth_date') or '')[:8]}|{text(patient.get('sex') or 'U')}"


def observation_request(record: dict[str, Any], study: dict[str, Any], stamp: str, status: str, signed_by: str) -> str:
    exam = record.get("ordered_exam") or study.get("description") or "Imaging study"
    parts = ["OBR", "1", text(record.get("placer_number")), text(record.get("filler_number")),
             f"{text(record.get('ordered_exam_code')) or '18782-3'}^{text(exam)}", "", "", stamp] + [""] * 36
    parts[18] = text(record.get("accession_number") or study.get("accession_number"))
    parts[22], parts[25] = stamp, status
    parts[32] = f"&{text(signed_by)}" if signed_by else ""      # NDL.1 is a CNN: identifier, family name
    return "|".join(parts).rstrip("|")


def fields(name: str, *values: str | None, raw: tuple[int, ...] = ()) -> str:
    return "|".join([name, *(value or "" if i in raw else text(value) for i, value in enumerate(values, 1))]).rstrip("|")


def text(value: Any) -> str:
    return escape_text(str(value or ""))


def digits(time: str) -> str:
    """2026-11-24T08:00:00.123Z to 20261124080000."""
    return "".join(c for c in time.split(".")[0] if c.isdigit())[:14]


def checked(lines: list[str]) -> bytes:
    """The message as bytes, once hl7apy reads every segment back; ORU is validated whole.

    hl7apy's validator never passes an ORM^O01, whatever stands in it, so there the reading back is the check.
    """
    message = "\r".join(lines) + "\r"
    try:
        parsed = parse_message(message, find_groups=False)
        if len(parsed.children) != len(lines):
            raise MessageRefused(f"{len(lines)} segments were composed, hl7apy reads {len(parsed.children)}")
        if "ORU^R01" in lines[0]:
            Validator.validate(parse_message(message))
    except HL7apyException as error:
        raise MessageRefused(f"the composed message is not valid HL7 2.5.1 ({type(error).__name__})") from None
    return message.encode()
