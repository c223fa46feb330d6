"""What the pages' templates need: the environment (escaping everything) and a few small functions for showing things."""
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined

HERE = Path(__file__).parent
STATIC = HERE / "static"

# codes that the desk keeps as a reason
WHY = {"no-model": "no model is loaded", "lease lost": "it was tried too often"}


def page(request: Request, name: str, status: int = 200, headers: dict[str, str] | None = None, /, **context: Any) -> Response:
    """A template as an answer; every page knows who looks at it and the CSRF token of the session."""
    person = getattr(request.state, "person", None)
    text = TEMPLATES.get_template(name).render(person=person, csrf=person.csrf if person else "", path=request.url.path, **context)
    return Response(text, status, headers, media_type="text/html")


def percent(probability: float) -> str:
    """Never 0 % or 100 %: a model is not certain."""
    return "<1 %" if probability < 0.01 else ">99 %" if probability > 0.99 else f"{probability:.0%}".replace("%", " %")


def when(text: str) -> str:
    """A UTC ISO time as date and minute."""
    return f"{text[:10]} {text[11:16]} UTC" if len(text) >= 16 and text[10] == "T" else text


def ago(text: str) -> str:
    """How long since a UTC ISO time, in the largest whole unit."""
    try:
        seconds = (datetime.now(UTC) - datetime.fromisoformat(text)).total_seconds()
    except (ValueError, TypeError):
        return ""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return "just now"


def date(text: str) -> str:
    """YYYYMMDD as YYYY-MM-DD; anything else as it came."""
    return f"{text[:4]}-{text[4:6]}-{text[6:8]}" if text[:8].isdigit() and len(text) >= 8 else text


def before(prior: dict[str, Any] | None) -> str:
    """What an earlier study measured of a finding: 2026-01-02: 8.0 mL."""
    if not prior:
        return ""
    measures = ((prior["volume_ml"], "{:.1f} mL"), (prior["size_mm"], "{:.1f} mm"), (prior["count"], "{}"))
    told = ", ".join(form.format(value) for value, form in measures if value is not None) or "there"
    return f"{date(prior['date'])}: {told if prior['present'] else 'not there'}"


def age(years: float) -> str:
    """Days for a newborn, months for an infant: 0.014 years says nothing to anybody."""
    if years < 0.25:
        return f"{years * 365.25:.0f} d"
    return f"{years * 12:.0f} mo" if years < 2 else f"{years:.0f} y"


def by_severity(flags: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(flags, key=lambda flag: ("stop", "warn", "inform").index(flag["severity"]))


def sentence(text: str) -> str:
    """With a full stop, for texts of rules that are written without."""
    return text if not text or text[-1] in ".!?" else f"{text}."


def person_name(text: str) -> str:
    """HL7 XPN or DICOM PN as `Family, Given`."""
    family, _, rest = text.partition("^")
    given = " ".join(part for part in rest.split("^")[:2] if part)
    return f"{family}, {given}" if given else family


def highlight(text: str, suggestion: dict[str, Any] | None) -> list[tuple[str, str, str]]:
    """The order's text as (piece, kind, why): kind stop, warn or inform for what a rule read, match for what the model read, or ""."""
    marks: list[tuple[str, str] | None] = [None] * len(text)
    spans = [("match", "read for the suggestion", seen) for seen in (suggestion or {}).get("evidence", ())]
    flags = by_severity((suggestion or {}).get("flags", []))
    spans += [(flag["severity"], flag["message"], seen) for flag in reversed(flags) for seen in flag["evidence"]]
    for kind, why, seen in spans:       # the most severe last, so that it is what shows
        if not seen["field"] and 0 <= seen["start"] < seen["end"] <= len(text):
            marks[seen["start"]:seen["end"]] = [(kind, why)] * (seen["end"] - seen["start"])
    pieces: list[tuple[str, str, str]] = []
    start = 0
    for i in range(1, len(text) + 1):
        if i == len(text) or marks[i] != marks[start]:
            kind, why = marks[start] or ("", "")
            pieces.append((text[start:i], kind, why))
            start = i
    return pieces


TEMPLATES = Environment(loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined,
                        trim_blocks=True, lstrip_blocks=True)
TEMPLATES.filters.update(percent=percent, when=when, ago=ago, date=date, before=before, person_name=person_name, age=age,
                         by_severity=by_severity, sentence=sentence)
TEMPLATES.globals.update(highlight=highlight, WHY=WHY)
