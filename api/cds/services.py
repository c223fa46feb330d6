"""The CDS services: what they ask for beforehand, and a hook call read into orders. Source: CDS Hooks 2.0; hooks order-select, order-sign 1.0."""
import re
from typing import Any
from urllib.parse import quote

from api.fhir.values import ID, LOINC, Resource, at, entries, rows, words
from api.hl7.messages import EGFR, PREGNANCY, WEIGHT
from data.errors import InputError

PATIENT = "{{context.patientId}}"


def loinc(codes: set[str]) -> str:
    return ",".join(f"{LOINC}|{code}" for code in sorted(codes))


# key -> (FHIR query, what is missing without it)
PREFETCH = {
    "patient": (f"Patient/{PATIENT}", "age and sex"),
    "egfr": (f"Observation?patient={PATIENT}&code={loinc(EGFR)}&_sort=-date&_count=5", "eGFR"),
    "body": (f"Observation?patient={PATIENT}&code={loinc(WEIGHT | PREGNANCY)}&_sort=-date&_count=10", "pregnancy and weight"),
    "allergies": (f"AllergyIntolerance?patient={PATIENT}&clinical-status=active", "allergies"),
    "implants": (f"Device?patient={PATIENT}", "implants"),
    "conditions": (f"Condition?patient={PATIENT}&clinical-status=active", "conditions"),
    "priors": (f"ImagingStudy?patient={PATIENT}&_sort=-started&_count=10", "earlier studies"),
}
SERVICES = {
    "wetread-order-select": ("order-select", "Imaging protocol suggestion while ordering"),
    "wetread-order-sign": ("order-sign", "Imaging protocol and safety check before signing"),
}
ORDERS_MAX = 10                     # ServiceRequests a call looks at
ENTRIES_MAX = 5000


def discovery() -> dict[str, Any]:
    return {"services": [
        {"id": id, "hook": hook, "title": title, "description": "Suggests the neuroradiology protocol that fits the clinical question, with its "
         "reasons, and warns of contrast, implant, pregnancy and kidney hazards. A radiologist decides.",
         "prefetch": {key: query for key, (query, _) in PREFETCH.items()}}
        for id, (hook, title) in SERVICES.items()]}


def check_call(id: str, call: Any) -> Resource:
    """The call's context; raises InputError for what is no call of this service."""
    if not isinstance(call, dict):
        raise InputError("the body is no JSON object; send a CDS Hooks request")
    hook = SERVICES[id][0]
    if call.get("hook") != hook:
        raise InputError(f"hook is not {hook}, the one of this service; GET /cds-services lists them")
    if not words(call, "hookInstance"):
        raise InputError("hookInstance is missing; send a UUID for each call")
    context = call.get("context")
    if not isinstance(context, dict) or not isinstance(context.get("draftOrders"), dict):
        raise InputError("context.draftOrders is missing; send a Bundle of the draft orders")
    if len(rows(context, "draftOrders", "entry")) > ENTRIES_MAX:
        raise InputError(f"context.draftOrders has more than {ENTRIES_MAX} entries; send the orders of this session only")
    return context


def requests_of(call: Resource) -> list[Resource]:
    """The ServiceRequests to look at: those just selected, or all that are signed."""
    context = call["context"]
    found = [row for row in entries(context["draftOrders"]) if row.get("resourceType") == "ServiceRequest"]
    if call["hook"] == "order-select" and isinstance(context.get("selections"), list):
        chosen = {text.rpartition("ServiceRequest/")[2] for text in context["selections"] if isinstance(text, str) and "ServiceRequest/" in text}
        found = [row for row in found if words(row, "id") in chosen]
    return found[:ORDERS_MAX]


def missing(call: Resource) -> list[str]:
    """Prefetch keys that the client left out; null is an answer: there is nothing."""
    given = call.get("prefetch")
    return [key for key in PREFETCH if not isinstance(given, dict) or key not in given]


def queries(call: Resource, keys: list[str]) -> dict[str, str]:
    """key -> relative FHIR URL; none when the patient's id is no FHIR id."""
    patient = words(call, "context", "patientId")
    if not ID.fullmatch(patient):
        return {}
    return {key: quote(PREFETCH[key][0].replace(PATIENT, patient), safe="/?=&,|:-._%") for key in keys}


def known_of(call: Resource, fetched: dict[str, Any]) -> list[Resource]:
    """What is known of this patient: prefetched, fetched, and what stands beside the orders; another patient's resources are left out."""
    patient = words(call, "context", "patientId")
    given = call.get("prefetch")
    everything = [row for value in [*(given.values() if isinstance(given, dict) else ()), *fetched.values()] for row in entries(value)]
    everything += [row for row in entries(call["context"]["draftOrders"]) if row.get("resourceType") not in ("ServiceRequest", "MedicationRequest")]
    return [row for row in everything[:ENTRIES_MAX] if belongs(row, patient)]


def belongs(row: Resource, patient: str) -> bool:
    if row.get("resourceType") == "Patient":
        return not patient or row.get("id") in (patient, None)
    reference = words(row, "subject", "reference") or words(row, "patient", "reference")
    named = re.search(r"Patient/([A-Za-z0-9.-]{1,64})", reference)
    return not named or not patient or named[1] == patient


def subject_agrees(request: Resource, call: Resource) -> bool:
    """An order for somebody else than the context's patient must not be judged by this patient's facts."""
    return belongs({"subject": at(request, "subject")}, words(call, "context", "patientId"))
