"""A FHIR R4 ServiceRequest, with what is known of its patient, to an Order. Source: R4 (4.0.1) ServiceRequest, HL7 v2 to FHIR ORM mapping."""
import re
from collections.abc import Iterable
from datetime import UTC, datetime

from api.fhir.values import LOINC, SNOMED, Resource, at, codes, concept, hl7_time, number, rows, words
from api.hl7.messages import EGFR, PREGNANCY, WEIGHT, age_years
from data.records import Facts, Order, Patient

PRIORITIES = {"stat": "STAT", "asap": "URGENT", "urgent": "URGENT", "routine": "ROUTINE"}
CONTROLS = {"revoked": "cancel", "entered-in-error": "cancel"}
SEXES = {"male": "M", "female": "F", "other": "O"}
IDENTIFIER_TYPES = {"PLAC": "placer_number", "FILL": "filler_number", "ACSN": "accession_number"}      # v2 table 0203
KG = {"kg": 1.0, "g": 0.001, "[lb_av]": 0.45359237, "lb": 0.45359237, "lbs": 0.45359237}
IMPLANT_WORDS = re.compile(r"pacemaker|defibrillator|\bICD\b|implant|stimulator|in situ|\bclip|\bcoil|shunt|\bpump\b|prosthe|stent|device", re.I)
PREGNANT = {"77386006", "Z33.1", "Z34.90"}
NO_ALLERGY = {"716186003", "409137002", "716184000"}
GONE = {"inactive", "resolved", "refuted", "entered-in-error", "cancelled"}


def order_from(request: Resource, others: Iterable[Resource] = (), id: str = "") -> Order:
    """What a person would read out of the order; `others` are the patient's other resources, contained ones are taken too."""
    contained = rows(request, "contained")
    known = [*contained, *others]
    patient = patient_from(next((r for r in known if r.get("resourceType") == "Patient"), {}), at(request, "subject"))
    numbers = identifiers(request)
    return Order(
        id=id, text=order_text(request, known), control=CONTROLS.get(words(request, "status"), "new"),     # type: ignore[arg-type]
        **numbers, patient=patient,
        ordered_exam=concept(at(request, "code"))[:500],
        ordered_exam_code=words(request, "code", "coding", "code")[:100],
        priority=PRIORITIES.get(words(request, "priority"), "ROUTINE"),        # type: ignore[arg-type]
        requested_date=hl7_time(words(request, "occurrenceDateTime") or words(request, "occurrencePeriod", "start")),
        referrer=words(request, "requester", "display")[:500],
        setting=words(request, "encounter", "display")[:500],
        age_years=age_years(patient.birth_date, datetime.now(UTC).strftime("%Y%m%d")),
        facts=facts_from(known),
        priors=priors_from(known),
    )


def identifiers(request: Resource) -> dict[str, str]:
    """Placer, filler and accession number by identifier.type; one without a type is the placer's. The Study UID by its system."""
    found: dict[str, str] = {}
    for row in rows(request, "identifier"):
        value = words(row, "value")[:200]
        if words(row, "system") == "urn:dicom:uid":
            if re.fullmatch(r"[0-9.]{5,64}", uid := value.removeprefix("urn:oid:")):
                found.setdefault("study_instance_uid", uid)
            continue
        name = next((IDENTIFIER_TYPES[code] for code in codes(row.get("type")) if code in IDENTIFIER_TYPES), "")
        if value and (name or not codes(row.get("type"))):
            found.setdefault(name or "placer_number", value)
    return found


def order_text(request: Resource, known: list[Resource]) -> str:
    """All free text of the order, one line each: reasons, the conditions they refer to, details, notes, body sites."""
    lines = [concept(row) for row in rows(request, "reasonCode")]
    for reference in rows(request, "reasonReference"):
        target = find(words(reference, "reference"), known)
        lines += [concept(at(target, "code")), words(target, "note", "text"), words(reference, "display")]
    lines += [concept(row) for row in rows(request, "orderDetail")] + [words(row, "text") for row in rows(request, "note")]
    lines.append(words(request, "patientInstruction"))
    return "\n".join(dict.fromkeys(line for line in lines if line))


def find(reference: str, known: list[Resource]) -> Resource:
    """The resource a reference names: contained (#id), or Type/id."""
    id = reference.removeprefix("#").rpartition("/")[2]
    kind = "" if reference.startswith("#") else reference.rpartition("/")[0].rpartition("/")[2]
    return next((r for r in known if id and r.get("id") == id and kind in ("", r.get("resourceType"))), {})


def patient_from(patient: Resource, subject: object = None) -> Patient:
    """Patient with the identifier typed MR, else the first, else the one of the reference itself."""
    numbers = rows(patient, "identifier")
    chosen = next((n for n in numbers if "MR" in codes(n.get("type")) and words(n, "value")), numbers[0] if numbers else {})
    name = next((n for n in rows(patient, "name") if words(n, "use") in ("official", "usual", "")), at(patient, "name"))
    return Patient(id=words(chosen, "value") or words(subject, "identifier", "value"), name=person_name(name) or words(subject, "display"),
                   birth_date=hl7_time(words(patient, "birthDate"))[:8],
                   sex=SEXES.get(words(patient, "gender"), "U"))       # type: ignore[arg-type]


def person_name(name: object) -> str:
    """HumanName as Family^Given^Middle; a ^ inside a part would begin another, so it becomes a blank."""
    given = at(name, "given")
    parts = [words(name, "family"), *(g for g in (given if isinstance(given, list) else []) if isinstance(g, str))]
    if not any(parts):
        return words(name, "text").replace("^", " ")
    return "^".join(part.replace("^", " ").replace("=", " ").strip() for part in parts)


def facts_from(known: list[Resource]) -> Facts:
    """Safety facts; of several measurements the newest counts."""
    facts = Facts()
    allergies, implants, medication, newest = [], [], [], dict.fromkeys(("egfr", "weight", "pregnant"), "")
    values: dict[str, float | bool | None] = dict.fromkeys(newest)
    for row in known:
        if GONE & {words(row, "status"), *codes(row.get("clinicalStatus")), *codes(row.get("verificationStatus"))}:
            continue
        kind = row.get("resourceType")
        if kind == "AllergyIntolerance":
            if not codes(row.get("code")) & NO_ALLERGY and not re.match(r"no (known|allerg)|nka|nkda", said := concept(row.get("code")), re.I):
                reactions = [concept(m) for r in rows(row, "reaction") for m in rows(r, "manifestation")]
                allergies.append(": ".join(filter(None, (said, ", ".join(filter(None, reactions))))))
        elif kind in ("Device", "DeviceUseStatement"):
            implants.append(" ".join(filter(None, (concept(row.get("type")), words(row, "deviceName", "name"), words(row, "manufacturer"),
                                                   words(row, "modelNumber"), words(row, "device", "display")))))
        elif kind in ("MedicationRequest", "MedicationStatement"):
            medication.append(concept(row.get("medicationCodeableConcept")) or words(row, "medicationReference", "display"))
        elif kind == "Condition":
            if codes(row.get("code")) & PREGNANT:
                values["pregnant"] = True
            elif IMPLANT_WORDS.search(said := concept(row.get("code"))):
                implants.append(said)
        elif kind == "Observation":
            name, value = measurement(row)
            when = words(row, "effectiveDateTime") or words(row, "issued")
            if name and value is not None and when >= newest[name]:
                newest[name], values[name] = when, value
    facts = Facts(egfr=values["egfr"], egfr_date=hl7_time(newest["egfr"])[:8], allergies=kept(allergies), implants=kept(implants),  # type: ignore[arg-type]
                  pregnant=values["pregnant"], weight_kg=values["weight"], medication=kept(medication))         # type: ignore[arg-type]
    return facts


def measurement(row: Resource) -> tuple[str, float | bool | None]:
    """(egfr, weight or pregnant, its value), or ("", None) for what no rule reads."""
    code = codes(row.get("code"), LOINC)
    value = number(row, "valueQuantity", "value")
    if code & EGFR and value is not None and 0 <= value <= 300:
        return "egfr", value
    if code & WEIGHT and value is not None:
        factor = KG.get(words(row, "valueQuantity", "code") or words(row, "valueQuantity", "unit").lower() or "kg")
        return "weight", None if factor is None else value * factor
    if code & PREGNANCY:
        said = (concept(row.get("valueCodeableConcept")) or words(row, "valueString")).lower()
        answer = False if re.search(r"\bnot?\b", said) else True if re.search(r"pregnant|yes|positive", said) else None
        return "pregnant", True if codes(row.get("valueCodeableConcept"), SNOMED) & PREGNANT else answer
    return "", None


def priors_from(known: list[Resource]) -> tuple[str, ...]:
    """Earlier studies as `description date`, newest first."""
    studies = sorted((row for row in known if row.get("resourceType") == "ImagingStudy" and words(row, "status") != "entered-in-error"),
                     key=lambda row: words(row, "started"), reverse=True)
    told = [words(row, "description") or concept(at(row, "procedureCode")) or words(row, "modality", "code") for row in studies]
    return kept([f"{said} {words(row, 'started')[:10]}".strip() for said, row in zip(told, studies, strict=True) if said][:20])


def kept(texts: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text[:500] for text in texts if text))[:200]
