"""Modality worklist: an order as a scheduled procedure step, and the C-FIND that asks for them. Source: PS3.4 annex K."""
import re
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime
from typing import Any

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import generate_uid

from api.dicom.matching import answer, matches, text, with_character_set
from api.order_steps import order_from_record
from api.workflow import Desk
from data.book import Book, Protocol
from nlp.safety import check, modalities_of

PENDING, CANCELLED = 0xFF00, 0xFE00
RESULTS_MAX = 500
SEARCH_S = 8.0          # a scanner waits about ten seconds
SCHEME = "99WETREAD"    # PS3.3 8.2: private coding schemes begin with 99
SPANS = (("ScheduledProcedureStepStartDate", "ScheduledProcedureStepStartTime"),)
# the protocol book's modality, or the one read out of the clicked exam -> DICOM's (CID 29)
MODALITY = {"CT": "CT", "MR": "MR", "NM": "NM", "FL": "RF", "FL/CT": "RF", "XA": "XA", "US": "US", "XR": "DX", "PT": "PT"}
PRIORITY = {"STAT": "STAT", "URGENT": "HIGH", "ROUTINE": "ROUTINE"}
CONTRAST = {"none": "Contrast: none", "with": "Contrast: with", "without_and_with": "Contrast: without and with"}
AGENT = {"CT": "Iodinated contrast agent IV", "MR": "Gadolinium-based contrast agent IV"}
# PS3.3 C.2.4: 1 not pregnant, 2 possibly, 3 definitely, 4 unknown; a flag from the text alone is no more than possible
NOT_PREGNANT, POSSIBLY_PREGNANT, PREGNANT, PREGNANCY_UNKNOWN = 1, 2, 3, 4
NEEDS = ("claustrophobia", "anesthesia_sedation", "weight_limit")      # flags that are Special Needs; the others are Medical Alerts
# flags about the request, not the patient: the comments have them
REQUEST = ("missing_info", "duplicate_recent_exam", "low_value", "ordered_exam_mismatch", "laterality_conflict")
ALLERGY = ("contrast_allergy_gadolinium", "contrast_allergy_iodinated")


def find_worklist(desk: Desk, query: Dataset, caller: str, cancelled: Any = lambda: False) -> Iterator[tuple[int, Dataset | None]]:
    """(status, step) for each step that matches, in a C-FIND's own terms; past RESULTS_MAX or SEARCH_S it ends with out of resources."""
    end = time.monotonic() + SEARCH_S
    asked = query.ScheduledProcedureStepSequence[0] if query.get("ScheduledProcedureStepSequence") else Dataset()
    station = text(asked, "ScheduledStationAETitle")
    station = station if station and not re.search(r"[*?]", station) else caller
    found = 0
    for row in desk.worklist(patient_id=exact(query, "PatientID"), accession_number=exact(query, "AccessionNumber")):
        if cancelled():
            yield CANCELLED, None
            return
        if time.monotonic() > end or found == RESULTS_MAX:
            yield 0xA700, too_many()
            return
        item = scheduled_step(row, desk.book, station, [])
        if matches(query, item, SPANS):
            found += 1
            desk.keep_study_uid(row["id"], str(item.StudyInstanceUID))
            item = scheduled_step(row, desk.book, station, warnings(row, desk.book))
            yield PENDING, with_character_set(answer(query, item), query.get("SpecificCharacterSet"))


def exact(query: Dataset, keyword: str) -> str:
    value = text(query, keyword)
    return "" if re.search(r"[*?\\]", value) else value


def too_many() -> Dataset:
    answer = Dataset()
    answer.Status, answer.ErrorComment = 0xA700, f"more than {RESULTS_MAX} match, or {SEARCH_S:.0f} s are over; ask for less"
    return answer


def warnings(row: dict[str, Any], book: Book) -> list[dict[str, Any]]:
    """What the rules say of the order under its accepted protocol, and what was shown with the suggestion: a person who changed the protocol
    saw the flags of another."""
    flags = [asdict(flag) for flag in check(order_from_record(row["record"]), accepted(row, book))]
    raised = {flag["code"] for flag in flags}
    return [*flags, *(flag for flag in (row["suggestion"] or {}).get("flags", []) if flag["code"] not in raised)]


def scheduled_step(row: dict[str, Any], book: Book, station: str, flags: list[dict[str, Any]]) -> Dataset:
    """One order as a worklist item with all that is known (table K.6-1); only a protocol that a person chose is in it.

    `station` is the scanner that asks: Wetread protocols, it doesn't assign rooms.
    """
    order, protocol = row["record"], accepted(row, book)
    item = Dataset()
    patient_module(item, order, flags)
    number = row["id"].lstrip("o")      # SH holds 16 characters
    item.AccessionNumber = line(order["accession_number"], 16)
    item.RequestingPhysician = item.ReferringPhysicianName = name_of_person(order["referrer"])
    item.PlacerOrderNumberImagingServiceRequest = line(order["placer_number"], 64)
    item.FillerOrderNumberImagingServiceRequest = line(order["filler_number"], 64)
    item.CurrentPatientLocation = line(order["setting"], 64)
    item.StudyInstanceUID = study_uid(row)
    item.RequestedProcedureID = number
    item.RequestedProcedurePriority = PRIORITY[order["priority"]]
    item.RequestedProcedureDescription = line(order["ordered_exam"], 64) or "Imaging study"
    item.RequestedProcedureCodeSequence = Sequence(
        [code(order["ordered_exam_code"], "L", order["ordered_exam"] or order["ordered_exam_code"])] if order["ordered_exam_code"] else [])
    item.ReasonForTheRequestedProcedure = line(order["text"], 64)
    item.RequestedProcedureComments = paragraph(comments(row, protocol, flags))
    item.ReferencedStudySequence = Sequence()
    item.ReferencedPatientSequence = Sequence()
    item.PatientTransportArrangements = item.AdmissionID = item.ConfidentialityConstraintOnPatientDataDescription = ""
    item.ScheduledProcedureStepSequence = Sequence([step(row, protocol, book, station, number)])
    return item


def step(row: dict[str, Any], protocol: Protocol | None, book: Book, station: str, number: str) -> Dataset:
    order, item = row["record"], Dataset()
    item.ScheduledStationAETitle = station
    item.ScheduledStationName = item.ScheduledPerformingPhysicianName = item.ScheduledProcedureStepLocation = item.PreMedication = ""
    item.ScheduledProcedureStepStartDate, item.ScheduledProcedureStepStartTime = start(order, row["created"])
    item.Modality = modality(order, protocol)
    item.ScheduledProcedureStepDescription = line(protocol.name if protocol else order["ordered_exam"], 64) or "Imaging study"
    item.ScheduledProcedureStepID = number
    item.ScheduledProcedureStepStatus = "STARTED" if row["performed"] == "IN PROGRESS" else "SCHEDULED"
    item.ScheduledProtocolCodeSequence = Sequence(protocol_codes(protocol, book))
    item.RequestedContrastAgent = AGENT.get(protocol.modality, "Contrast agent") if protocol and protocol.contrast != "none" else ""
    item.CommentsOnTheScheduledProcedureStep = paragraph("; ".join(protocol.sequences)) if protocol else ""
    return item


def accepted(row: dict[str, Any], book: Book) -> Protocol | None:
    """The protocol a person accepted or chose; automation is no person, and a protocol no longer in the book is none."""
    decision = row["decision"] or {}
    if row["state"] not in ("accepted", "changed") or decision.get("user") == "automation":
        return None
    return book.protocols.get(decision.get("protocol", ""))


def protocol_codes(protocol: Protocol | None, book: Book) -> list[Dataset]:
    """Our own code, and LOINC/RSNA Playbook's where the book says that it was confirmed."""
    if protocol is None:
        return []
    codes = [code(protocol.id, SCHEME, protocol.name, book.version)]
    if protocol.loinc_code and protocol.loinc_status == "confirmed":
        codes.append(code(protocol.loinc_code, "LN", protocol.loinc_name))
    return codes


def code(value: str, scheme: str, meaning: str, version: str = "") -> Dataset:
    """A code item; a value of more than 16 characters is a Long Code Value (PS3.3 table 8.8-1a)."""
    item = Dataset()
    value = line(value, 1024)
    if len(value) > 16:
        item.LongCodeValue = value
    else:
        item.CodeValue = value
    item.CodingSchemeDesignator = scheme
    if version:
        item.CodingSchemeVersion = version[:16]
    item.CodeMeaning = line(meaning, 64)
    return item


def patient_module(item: Dataset, order: dict[str, Any], flags: list[dict[str, Any]]) -> None:
    patient, facts = order["patient"], order["facts"]
    item.PatientName = person_name(patient["name"])
    item.PatientID = line(patient["id"], 64)
    item.PatientBirthDate = patient["birth_date"]
    item.PatientSex = patient["sex"] if patient["sex"] in ("M", "F", "O") else ""
    item.PatientWeight = f"{facts['weight_kg']:.5g}" if facts["weight_kg"] is not None else None
    item.PregnancyStatus = pregnancy(order, {flag["code"] for flag in flags})
    alerts = [f"{flag['severity'].upper()}: {flag['message']}" for flag in flags
              if flag["severity"] in ("stop", "warn") and flag["code"] not in (*NEEDS, *ALLERGY, *REQUEST)]
    item.MedicalAlerts = [line(alert, 64) for alert in [*alerts, *(f"Implant: {implant}" for implant in facts["implants"])]]
    item.Allergies = [line(said, 64) for said in [*facts["allergies"], *(flag["message"] for flag in flags if flag["code"] in ALLERGY)]]
    item.SpecialNeeds = line("; ".join(flag["message"] for flag in flags if flag["code"] in NEEDS), 64)
    item.PatientState = ""


def pregnancy(order: dict[str, Any], flags: set[str]) -> int | None:
    said = order["facts"]["pregnant"]
    if said is not None:
        return PREGNANT if said else NOT_PREGNANT
    if "pregnancy" in flags:
        return POSSIBLY_PREGNANT
    return None if order["patient"]["sex"] == "M" else PREGNANCY_UNKNOWN


def comments(row: dict[str, Any], protocol: Protocol | None, flags: list[dict[str, Any]]) -> str:
    """What the technologist reads: protocol, sequences, contrast, preparation, each warning in full, then the question."""
    order, lines = row["record"], []
    if protocol is None:
        lines.append("No protocol accepted yet; exam as requested.")
    else:
        lines += [f"Protocol: {protocol.name}", f"Sequences: {'; '.join(protocol.sequences)}", CONTRAST[protocol.contrast]]
        lines += [f"Preparation: {words}" for words in protocol.preparation]
        if reason := row["decision"].get("reason"):
            lines.append(f"Radiologist: {reason}")
    lines += [f"{flag['severity'].upper()}: {flag['message']}" + (f" - {flag['action']}" if flag["action"] else "") for flag in flags]
    facts = order["facts"]
    if facts["egfr"] is not None:
        lines.append(f"eGFR {facts['egfr']:g} mL/min/1.73 m2" + (f" of {facts['egfr_date']}" if facts["egfr_date"] else ""))
    return "\n".join([*lines, f"Question: {order['text']}"])


def study_uid(row: dict[str, Any]) -> str:
    """The order's own, else one that follows from the order, so that every scanner that asks is told the same."""
    return row["record"]["study_instance_uid"] or generate_uid(entropy_srcs=["wetread", "study", row["id"]])


def modality(order: dict[str, Any], protocol: Protocol | None) -> str:
    if protocol is not None:
        return MODALITY[protocol.modality]
    clicked = (modalities_of(order["ordered_exam"]) or modalities_of(order["ordered_exam_code"])) & set(MODALITY)
    return MODALITY[sorted(clicked)[0]] if clicked else "OT"


def start(order: dict[str, Any], created: str) -> tuple[str, str]:
    """When it is asked for; an order without a date is there to be done from when it came, by this machine's clock."""
    asked = re.match(r"(\d{8})(\d{2,6})?", order["requested_date"])
    if asked:
        return asked[1], (asked[2] or "").ljust(6, "0")[:6]
    came = datetime.fromisoformat(created).astimezone()
    return f"{came:%Y%m%d}", f"{came:%H%M%S}"


def person_name(name: str) -> str:
    """HL7 XPN (family, given, middle, suffix, prefix) as DICOM PN (family, given, middle, prefix, suffix); source: HL7 v2.5.1 2.A.88, PS3.5 6.2."""
    parts = [part.split("&")[0].strip() for part in name.split("=")[0].split("^")][:5] + [""] * 5
    family, given, middle, suffix, prefix = parts[:5]
    words = "^".join(clean(part, r"[\\=]")[:64] for part in (family, given, middle, prefix, suffix)).rstrip("^")
    return "=".join([words, *(clean(group, r"\\") for group in name.split("=")[1:3])])


def name_of_person(words: str) -> str:
    return clean(words, r"[\\^=]")[:64]


def line(words: str, length: int) -> str:
    """One line of LO or SH: no backslash, which parts values, and no longer than its VR allows."""
    words = clean(words, r"\\")
    return words if len(words) <= length else words[:length - 3].rstrip() + "..."


def paragraph(words: str) -> str:
    """LT: lines are kept as CR LF (PS3.5 6.1.3), 10240 characters at most."""
    return "\r\n".join(clean(row, "") for row in words.splitlines())[:10240]


def clean(words: str, never: str) -> str:
    words = re.sub(never, "/", words) if never else words
    return re.sub(r"\s+", " ", re.sub(r"[\x00-\x1f\x7f]", " ", words)).strip()
