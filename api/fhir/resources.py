"""Our records as FHIR R4 resources: plain functions from rows of the store to JSON. Source: R4 (4.0.1), the page of each resource."""
import base64
import hashlib
from typing import Any

from api.cds.cards import PROTOCOL_SYSTEM
from api.fhir.values import ID, LOINC, SNOMED, UCUM, Resource, fhir_date, without_empty
from data.book import Book

FINDING_SYSTEM = "urn:wetread:finding"
V2_0203, V2_0074 = "http://terminology.hl7.org/CodeSystem/v2-0203", "http://terminology.hl7.org/CodeSystem/v2-0074"
DCM = "http://dicom.nema.org/resources/ontology/DCM"
MR, IDENTIFIER_TYPES = ("MR", "Medical record number"), {"placer_number": "PLAC", "filler_number": "FILL", "accession_number": "ACSN"}
GENDER = {"M": "male", "F": "female", "O": "other", "U": "unknown"}
PRIORITY = {"STAT": "stat", "URGENT": "urgent", "ROUTINE": "routine"}
TASK_STATUS = {"new": "requested", "suggested": "ready", "no-suggestion": "ready", "accepted": "completed", "changed": "completed",
               "rejected": "rejected", "cancelled": "cancelled"}
# a draft that no person has released is registered: its existence is known, its text stays here
REPORT_STATUS = {"draft": "registered", "preliminary": "preliminary", "final": "final", "amended": "amended", "cancelled": "cancelled"}
RELEASED = ("preliminary", "final", "amended")
# finding's measure -> (words, UCUM code, unit shown)
MEASURES = {"size_mm": ("Size", "mm", "mm"), "volume_ml": ("Volume", "mL", "mL"), "count": ("Count", "1", "1")}
SECTIONS = ("exam", "indication", "technique", "comparison", "findings", "impression")
REPRESENTATION = "http://hl7.org/fhir/StructureDefinition/iso21090-EN-representation"
REPRESENTATIONS = ("ABC", "IDE", "SYL")         # the groups of a DICOM PN: alphabetic, ideographic, phonetic


# -- parts -----------------------------------------------------------------------------------------------------------


def patient(row: dict[str, Any]) -> Resource:
    """The contained Patient that `subject` points to."""
    return {"resourceType": "Patient", "id": "patient", "identifier": [identifier(row.get("id", ""), *MR)], "name": names(row.get("name", "")),
            "gender": GENDER.get(row.get("sex", ""), "unknown"), "birthDate": fhir_date(row.get("birth_date", ""))}


def names(text: str) -> list[dict[str, Any]]:
    """Family^Given^Middle^Prefix^Suffix, each group of a DICOM PN a name of its own."""
    found = []
    groups = [group for group in text.split("=")[:3]]
    for kind, group in zip(REPRESENTATIONS, groups, strict=False):
        family, *rest = group.split("^")
        given, middle, prefix, suffix = (part.strip() for part in [*rest[:4], "", "", "", ""][:4])
        name = without_empty({"family": family.strip(), "given": [given, middle], "prefix": [prefix], "suffix": [suffix]})
        if name and len(groups) > 1:
            name["extension"] = [{"url": REPRESENTATION, "valueCode": kind}]
        if name:
            found.append(name)
    return found


def identifier(value: str, code: str, display: str = "", system: str = "") -> dict[str, Any]:
    kind = {"coding": [{"system": V2_0203, "code": code, "display": display}]}
    return {"type": kind, "system": system, "value": value} if value else {}


def subject(row: dict[str, Any]) -> dict[str, Any]:
    return {"reference": "#patient", "display": next((" ".join(part for part in [*name.get("given", ()), name.get("family", "")] if part)
                                                      for name in names(row.get("name", ""))), "")}


def meta(version: int | None, updated: str) -> dict[str, Any]:
    return {"versionId": str(version) if version is not None else "", "lastUpdated": updated}


def protocol_concept(code: str, book: Book) -> dict[str, Any]:
    """A protocol by our code, and its LOINC code where that is confirmed."""
    protocol = book.protocols.get(code)
    if protocol is None:                # it was taken out of the book since
        return {"coding": [{"system": PROTOCOL_SYSTEM, "code": code}], "text": code}
    loinc = [{"system": LOINC, "code": protocol.loinc_code, "display": protocol.loinc_name}] if protocol.loinc_status == "confirmed" else []
    return {"coding": [{"system": PROTOCOL_SYSTEM, "code": code, "display": protocol.name}, *loinc], "text": protocol.name}


def study_id(uid: str) -> str:
    """An ImagingStudy's id is its UID; "" for a UID that is none."""
    return uid if ID.fullmatch(uid) else ""


# -- orders ----------------------------------------------------------------------------------------------------------


def service_request(row: dict[str, Any], book: Book) -> Resource:
    """An order as it stands; the decided protocol is its orderDetail."""
    order = row["record"]
    # the sender of an order that came by FHIR is the system of its number
    system = row["sender"] if ":" in row["sender"] and " " not in row["sender"] else ""
    numbers = [identifier(order[name], code, system=system) for name, code in IDENTIFIER_TYPES.items()]
    uid = order["study_instance_uid"]
    decision = row["decision"] or {}
    code = order["ordered_exam_code"]
    return without_empty({
        "resourceType": "ServiceRequest", "id": row["id"], "meta": meta(row["version"], row["updated"]), "contained": [patient(order["patient"])],
        "identifier": [*numbers, {"system": "urn:dicom:uid", "value": f"urn:oid:{uid}" if uid else ""} if uid else {}],
        "status": "revoked" if row["state"] == "cancelled" else "on-hold" if row["held"] else "active", "intent": "order",
        "category": [{"coding": [{"system": SNOMED, "code": "363679005", "display": "Imaging"}]}],
        "priority": PRIORITY[order["priority"]],
        "code": {"coding": [{"code": code, "display": order["ordered_exam"]}] if code and " " not in code else [], "text": order["ordered_exam"]},
        "orderDetail": [protocol_concept(decision["protocol"], book)] if decision.get("protocol") and row["state"] in ("accepted", "changed") else [],
        "subject": subject(order["patient"]), "occurrenceDateTime": fhir_date(order["requested_date"]), "authoredOn": row["created"],
        "requester": {"display": order["referrer"]}, "reasonCode": [{"text": order["text"]}],
    })


def task(row: dict[str, Any], book: Book) -> Resource:
    """The protocoling of an order: what was suggested is its input, what was decided its output."""
    order, decision, suggestion = row["record"], row["decision"] or {}, row["suggestion"] or {}
    decided = row["state"] in ("accepted", "changed", "rejected")
    said = decision.get("reason", "") if decided else {"no-suggestion": f"no suggestion: {row['reason']}"}.get(row["state"], "")
    waiting = row["state"] == "suggested" and suggestion.get("disposition") == "needs-information"
    return without_empty({
        "resourceType": "Task", "id": row["id"], "meta": meta(row["version"], row["updated"]), "contained": [patient(order["patient"])],
        "basedOn": [{"reference": f"ServiceRequest/{row['id']}"}], "status": TASK_STATUS[row["state"]],
        "statusReason": {"text": said}, "businessStatus": {"text": f"needs information: {suggestion['question']}" if waiting else row["state"]},
        "intent": "order", "priority": PRIORITY[order["priority"]], "code": {"text": "Choose the imaging protocol"},
        "focus": {"reference": f"ServiceRequest/{row['id']}"}, "for": subject(order["patient"]),
        "authoredOn": row["created"], "lastModified": row["updated"], "owner": {"display": decision.get("user", "") if decided else ""},
        "note": [{"text": f"{flag['severity']}: {flag['message']} ({flag['source']})"} for flag in suggestion.get("flags", ())],
        "input": [{"type": {"text": "Suggested protocol" + (f", probability {ranked['probability']:.2f}" if suggestion.get("model") else "")},
                   "valueCodeableConcept": protocol_concept(ranked["protocol"], book)}
                  for ranked in suggestion.get("ranked", ()) if ranked["protocol"] in suggestion.get("set", ())],
        "output": [{"type": {"text": "Protocol"}, "valueCodeableConcept": protocol_concept(decision["protocol"], book)}]
        if decided and decision.get("protocol") else [],
    })


# -- studies ---------------------------------------------------------------------------------------------------------


def imaging_study(row: dict[str, Any], series: list[dict[str, Any]]) -> Resource:
    instances = sum(len(one["instances"]) for one in series)
    return without_empty({
        "resourceType": "ImagingStudy", "id": row["id"], "meta": meta(row["revision"], row["updated"]), "contained": [patient(row["patient"])],
        "identifier": [{"system": "urn:dicom:uid", "value": f"urn:oid:{row['id']}"}, identifier(row["accession_number"], "ACSN")],
        "status": "registered" if row["state"] == "receiving" else "available",
        "modality": [{"system": DCM, "code": code} for code in sorted({one["modality"] for one in series} - {""})],
        "subject": subject(row["patient"]), "started": fhir_date(row["date"]),
        "basedOn": [{"reference": f"ServiceRequest/{row['order_id']}"}] if row["order_id"] else [],
        "numberOfSeries": len(series), "numberOfInstances": instances, "description": row["description"],
        "series": [{"uid": one["series_uid"], "number": one["number"] if (one["number"] or 0) >= 0 else None,
                    "modality": {"system": DCM, "code": one["modality"] or "OT"}, "description": one["description"],
                    "numberOfInstances": len(one["instances"])} for one in series if one["series_uid"]],
    })


def report_status(draft: dict[str, Any], released: bool) -> str:
    """Cancelled is one that nobody outside saw; one that had gone out as preliminary is withdrawn."""
    return "entered-in-error" if draft["status"] == "cancelled" and released else REPORT_STATUS[draft["status"]]


def diagnostic_report(draft: dict[str, Any], study: dict[str, Any], released: bool) -> Resource:
    """A draft row as a report. Its words and findings leave only once a person has released them, and not when withdrawn."""
    out = draft["status"] in RELEASED
    sections = draft["record"]["sections"] if out else {}
    words = "\n\n".join(f"{name.upper()}\n{sections[name]}" for name in SECTIONS if sections.get(name, "").strip())
    raw = words.encode()
    uid = study_id(study["id"])
    return without_empty({
        "resourceType": "DiagnosticReport", "id": draft["id"], "meta": meta(draft["version"], draft["updated"]),
        "contained": [patient(study["patient"])], "identifier": [identifier(study["accession_number"], "ACSN")],
        "basedOn": [{"reference": f"ServiceRequest/{study['order_id']}"}] if study["order_id"] else [],
        "status": report_status(draft, released),
        "category": [{"coding": [{"system": V2_0074, "code": "RAD", "display": "Radiology"}]}],
        "code": {"coding": [{"system": LOINC, "code": "18748-4", "display": "Diagnostic imaging study"}], "text": study["description"]},
        "subject": subject(study["patient"]), "effectiveDateTime": fhir_date(study["date"]),
        "issued": (draft["signed"] or draft["updated"]) if out else "",
        "resultsInterpreter": [{"display": draft["signed_by"]}] if out and draft["signed_by"] else [],
        "result": [{"reference": f"Observation/{one['id']}"} for one in observations(draft, study)],
        "imagingStudy": [{"reference": f"ImagingStudy/{uid}"}] if uid else [],
        "conclusion": sections.get("impression", ""),
        "presentedForm": [{"contentType": "text/plain; charset=utf-8", "data": base64.b64encode(raw).decode(), "size": len(raw),
                           "hash": base64.b64encode(hashlib.sha1(raw, usedforsecurity=False).digest()).decode(), "title": "Report"}] if raw else [],
    })


def observations(draft: dict[str, Any], study: dict[str, Any]) -> list[Resource]:
    """The measurements of a released report's findings, in UCUM units."""
    if draft["status"] not in RELEASED:
        return []
    return [observation(draft, study, finding) for finding in draft["record"]["findings"]
            if finding["present"] and finding["band"] != "omit" and any(finding[name] is not None for name in MEASURES)
            and ID.fullmatch(f"{draft['id']}-{finding['id']}")]


def observation(draft: dict[str, Any], study: dict[str, Any], finding: dict[str, Any]) -> Resource:
    uid = study_id(study["id"])
    measured = [{"code": {"text": measure}, "valueQuantity": {"value": finding[name], "unit": unit, "system": UCUM, "code": code}}
                for name, (measure, code, unit) in MEASURES.items() if finding[name] is not None]
    words = f"possible {finding['label']}" if finding["band"] == "hedge" else finding["label"]
    return without_empty({
        "resourceType": "Observation", "id": f"{draft['id']}-{finding['id']}", "meta": meta(draft["version"], draft["updated"]),
        "contained": [patient(study["patient"])], "status": draft["status"],
        "basedOn": [{"reference": f"ServiceRequest/{study['order_id']}"}] if study["order_id"] else [],
        "category": [{"coding": [{"system": "http://terminology.hl7.org/CodeSystem/observation-category", "code": "imaging", "display": "Imaging"}]}],
        "code": {"coding": [{"system": FINDING_SYSTEM, "code": finding["code"], "display": finding["label"]}], "text": words},
        "subject": subject(study["patient"]), "effectiveDateTime": fhir_date(study["date"]),
        "issued": draft["signed"] or draft["updated"],
        "bodySite": {"text": " ".join(part for part in (finding["side"], finding["region"]) if part)},
        "derivedFrom": [{"reference": f"ImagingStudy/{uid}"}] if uid else [], "component": measured,
    })


# -- provenance ------------------------------------------------------------------------------------------------------

AGENT_TYPE = "http://terminology.hl7.org/CodeSystem/provenance-participant-type"


def report_provenance(version: dict[str, Any], draft: dict[str, Any]) -> Resource:
    """Who made one version of a report: the model its first, a person each later one."""
    model = draft["record"].get("model") or {}
    machine = f"Wetread {', '.join(f'{name} {value}' for name, value in sorted(model.items()) if isinstance(value, str) and value)}".strip(" ,")
    return provenance(f"{draft['id']}-v{version['version']}", f"DiagnosticReport/{draft['id']}", version["time"], version["status"],
                      version["user"], machine)


def order_provenance(event: dict[str, Any]) -> Resource:
    """Who suggested or decided on a protocol."""
    suggestion = (event["detail"] or {}).get("suggestion") or {}
    version = ", ".join(part for part in (suggestion.get("model", ""), f"protocol book {suggestion.get('book', '')}" if suggestion else "") if part)
    user = "" if event["user"] == "automation" else event["user"]
    return provenance(f"{event['order_id']}-e{event['id']}", f"Task/{event['order_id']}", event["time"], event["what"], user,
                      f"Wetread {version}".strip())


def provenance(id: str, target: str, time: str, activity: str, user: str, machine: str) -> Resource:
    kind = ("verifier", "Verifier") if user and activity in ("final", "amended", "accept", "change", "reject") else \
        ("author", "Author") if user else ("assembler", "Assembler")
    device = {"resourceType": "Device", "id": "model", "deviceName": [{"name": machine, "type": "model-name"}]}
    return without_empty({
        "resourceType": "Provenance", "id": id, "contained": [] if user else [device], "target": [{"reference": target}], "recorded": time,
        "activity": {"text": activity},
        "agent": [{"type": {"coding": [{"system": AGENT_TYPE, "code": kind[0], "display": kind[1]}]},
                   "who": {"display": user} if user else {"reference": "#model", "display": machine}}],
    })
