"""Looking into FHIR JSON that anybody may have written: what is absent or of another type reads as empty, never raises."""
import re
from collections.abc import Iterator
from datetime import date
from typing import Any

LOINC, SNOMED, UCUM = "http://loinc.org", "http://snomed.info/sct", "http://unitsofmeasure.org"
ID = re.compile(r"[A-Za-z0-9.-]{1,64}")                         # the datatype id
DATE_TIME = re.compile(r"(\d{4})(?:-(\d\d)(?:-(\d\d)(?:T(\d\d):(\d\d)(?::(\d\d))?[0-9.:Z+-]*)?)?)?")
TEXT_MAX = 20_000

Resource = dict[str, Any]


def at(value: Any, *path: str) -> Any:
    """value[a][b]..., the first of a list where a list stands; None where the path ends."""
    for name in path:
        while isinstance(value, list):
            value = value[0] if value else None
        value = value.get(name) if isinstance(value, dict) else None
    return value


def words(value: Any, *path: str) -> str:
    found = at(value, *path)
    return found.strip()[:TEXT_MAX] if isinstance(found, str) else ""


def rows(value: Any, *path: str) -> list[dict[str, Any]]:
    """The objects of a list, or the one object, that stands there."""
    found = at(value, *path)
    return [row for row in (found if isinstance(found, list) else [found]) if isinstance(row, dict)]


def concept(value: Any) -> str:
    """A CodeableConcept in words: its text, else the first display, else the first code."""
    return words(value, "text") or next((words(c, "display") for c in rows(value, "coding") if words(c, "display")), "") or \
        words(value, "coding", "code")


def codes(value: Any, system: str = "") -> set[str]:
    return {words(c, "code") for c in rows(value, "coding") if not system or words(c, "system") == system} - {""}


def number(value: Any, *path: str) -> float | None:
    found = at(value, *path)
    return float(found) if isinstance(found, int | float) and not isinstance(found, bool) and abs(found) < 1e9 else None


def hl7_time(text: str) -> str:
    """A FHIR date or dateTime as YYYYMMDD[HHMM[SS]], its offset dropped: the sender's wall clock, as in HL7 v2; "" for what is none."""
    found = DATE_TIME.fullmatch(text)
    if not found or not found[3]:
        return ""
    try:
        date(int(found[1]), int(found[2]), int(found[3]))
    except ValueError:
        return ""
    return "".join(part for part in found.groups() if part)


def fhir_date(text: str) -> str:
    """YYYYMMDD... as a FHIR date; "" for what is none."""
    try:
        return date(int(text[:4]), int(text[4:6]), int(text[6:8])).isoformat() if len(text) >= 8 and text[:8].isdigit() else ""
    except ValueError:
        return ""


def entries(bundle: Any) -> Iterator[Resource]:
    """The resources of a Bundle, or the resource itself."""
    if words(bundle, "resourceType") != "Bundle":
        if isinstance(bundle, dict):
            yield bundle
        return
    for entry in rows(bundle, "entry"):
        if isinstance(resource := entry.get("resource"), dict) and words(entry, "search", "mode") != "outcome":
            yield resource


def without_empty(value: Any) -> Any:
    """FHIR knows no empty text, list or object: they are left out."""
    if isinstance(value, dict):
        kept = {name: without_empty(item) for name, item in value.items()}
        return {name: item for name, item in kept.items() if item not in (None, "", [], {})}
    if isinstance(value, list):
        return [item for item in map(without_empty, value) if item not in (None, "", [], {})]
    return value
