"""What we say of ourselves, and how an error reads in FHIR. Source: R4 (4.0.1) CapabilityStatement, OperationOutcome."""
from typing import Any

from api.fhir.search import PARAMETERS, PATIENT
from api.fhir.values import Resource

MEDIA_TYPE = "application/fhir+json"
ERROR_SYSTEM = "urn:wetread:error"
# HTTP status -> issue.code
ISSUES = {400: "invalid", 401: "login", 403: "forbidden", 404: "not-found", 405: "not-supported", 406: "not-supported", 409: "conflict",
          412: "conflict", 413: "too-long", 415: "not-supported", 422: "processing", 429: "throttled", 503: "transient"}
SEARCH_TYPES = {"_id": "token", "identifier": "token", "status": "token", "authored": "date", "authored-on": "date", "_lastUpdated": "date",
                "started": "date", "based-on": "reference", "basedon": "reference", "focus": "reference", "derived-from": "reference",
                "target": "reference"}
WRITABLE = ("ServiceRequest",)
DOCUMENTATION = {
    "ServiceRequest": "POST and PUT take an order by the same step as HL7 v2: known by its identifier, sent twice it is one order.",
    "Task": "The protocoling of an order.", "DiagnosticReport": "Words and measurements only once a person released them.",
    "Observation": "Measurements of released reports, in UCUM.", "ImagingStudy": "Studies received.", "Provenance": "Which model and which person.",
}


def capability(base: str, version: str) -> Resource:
    return {
        "resourceType": "CapabilityStatement", "status": "active", "date": "2026-11-26", "kind": "instance", "fhirVersion": "4.0.1",
        "publisher": "Wetread", "format": ["json", MEDIA_TYPE], "software": {"name": "Wetread", "version": version},
        "implementation": {"description": "Protocol suggestions and draft reports for neuroradiology", "url": f"{base}/fhir"},
        "rest": [{"mode": "server",
                  "security": {"cors": False, "description": "Authorization: Bearer with an API key of wetread key, as for the REST API."},
                  "resource": [resource(kind, parameters) for kind, parameters in sorted(PARAMETERS.items())]}],
    }


def resource(kind: str, parameters: dict[str, Any]) -> dict[str, Any]:
    codes = ["read", "search-type", *(("create", "update") if kind in WRITABLE else ())]
    named = [*parameters, *(PATIENT[:1] if kind != "Provenance" else ())]
    return {"type": kind, "documentation": DOCUMENTATION[kind], "interaction": [{"code": code} for code in codes],
            "versioning": "versioned-update" if kind in WRITABLE else "no-version", "readHistory": False,
            **({"updateCreate": False, "conditionalCreate": False} if kind in WRITABLE else {}),
            "searchParam": [{"name": name, "type": SEARCH_TYPES.get(name, "token")} for name in named]}


def outcome(status: int, code: str, text: str) -> Resource:
    """One error; `text` names the field and the cure, never a value."""
    return {"resourceType": "OperationOutcome", "issue": [{
        "severity": "error", "code": ISSUES.get(status, "exception"), "details": {"coding": [{"system": ERROR_SYSTEM, "code": code}], "text": text},
        "diagnostics": text}]}
