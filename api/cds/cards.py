"""A suggestion as CDS Hooks cards. Source: CDS Hooks 2.0, "CDS Service Response"."""
import re
import uuid
from html import escape
from typing import Any

from api.fhir.values import LOINC, Resource, at, codes, concept, rows, words
from data.book import Book, Protocol
from data.records import Evidence, Flag, Order, Suggestion
from nlp.safety import modalities_of

PROTOCOL_SYSTEM = "urn:wetread:protocol"
REASON_SYSTEM = "urn:wetread:override-reason"
IMAGING = {"363679005", "394914008", "imaging", "RAD"}              # SNOMED CT and v2-0074 codes for the category
OTHER_REGION = re.compile(r"\b(chest|thorax|lungs?|abd(omen)?|abdominal|pelvis|pelvic|liver|renal|kidneys?|prostate|breast|mammo\w*|cardiac|heart|"
                          r"coronary|knees?|hips?|shoulders?|ankles?|wrists?|elbows?|hands?|foot|feet|femur|tibia|fetal|obstetric\w*|aort\w*|"
                          r"enterography|urogra\w*|colono\w*|bone density|dexa)\b", re.I)
OUR_REGION = re.compile(r"\b(head|brain|skull|neck|orbits?|face|facial|sinus\w*|spine|spinal|cervical|thoracic spine|lumbar|sacr\w*|"
                        r"[ctl]-?spine|pituitary|sella\w*|iac|temporal bones?|"
                        r"carotids?|cranial|cerebral|neuro\w*|stroke|tmj|parotid|myelo\w*|plexus)\b", re.I)
INDICATOR = {"stop": "critical", "warn": "warning", "inform": "info"}
OVERRIDE_REASONS = (
    ("discussed", "Discussed with a radiologist"), ("contraindicated", "The suggested exam is contraindicated for this patient"),
    ("not-available", "The suggested exam cannot be had here in time"), ("patient-preference", "The patient prefers the ordered exam"),
    ("not-applicable", "The suggestion does not fit this patient"),
)
SOURCE = {"label": "Wetread protocol suggestion"}
SUMMARY_MAX = 139
OFFERED = 3
SAFE = re.compile(r"([\\`*_{}\[\]()#+!|~])")


def is_imaging(request: Resource, order: Order, book: Book) -> bool:
    """Whether an order is for an image of head, neck or spine; a blood test or a chest CT gets no card."""
    if words(request, "resourceType") != "ServiceRequest" or at(request, "doNotPerform") is True:
        return False
    if protocol_of(request, book) is not None:
        return True
    category = {code for row in rows(request, "category") for code in codes(row)}
    said = f"{order.ordered_exam} {' '.join(concept(row) for row in rows(request, 'bodySite'))}"
    if (category and not category & IMAGING) or (OTHER_REGION.search(said) and not OUR_REGION.search(said)):
        return False
    return bool(category & IMAGING or modalities_of(said))


def protocol_of(request: Resource, book: Book) -> Protocol | None:
    """The protocol of the book that is ordered already, by our code, LOINC code or name."""
    code = request.get("code")
    ours, loinc, said = codes(code, PROTOCOL_SYSTEM), codes(code, LOINC), concept(code).casefold()
    for protocol in book.protocols.values():
        if protocol.id in ours or (said and said in (protocol.name.casefold(), protocol.loinc_name.casefold(), protocol.id.casefold())):
            return protocol
    same = [protocol for protocol in book.protocols.values() if protocol.loinc_code and protocol.loinc_code in loinc]
    return same[0] if len(same) == 1 else None


def cards_for(request: Resource, order: Order, suggestion: Suggestion, book: Book, unknown: list[str]) -> list[dict[str, Any]]:
    """The suggested protocol with its reasons first, then a card for each safety flag; `unknown` are facts that could not be had."""
    flags = [flag_card(flag) for flag in suggestion.flags]
    if not suggestion.ranked:
        return flags
    top = book.protocols[suggestion.ranked[0].protocol]
    ordered = protocol_of(request, book)
    offered = [book.protocols[r.protocol] for r in suggestion.ranked[:OFFERED] if r.protocol in suggestion.set[:OFFERED] or r.protocol == top.id]
    agrees = ordered is not None and ordered.id in suggestion.set
    card: dict[str, Any] = {
        "uuid": str(uuid.uuid4()),
        "summary": cut(f"Protocol fits: {ordered.name}" if agrees and ordered else f"Suggested protocol: {top.name}"),
        "indicator": "info" if agrees or not suggestion.urgent else "warning",
        "source": SOURCE,
        "detail": detail(order, suggestion, top, book, unknown),
        "overrideReasons": [{"code": code, "system": REASON_SYSTEM, "display": display} for code, display in OVERRIDE_REASONS],
    }
    if not agrees:
        card["selectionBehavior"] = "at-most-one"
        card["suggestions"] = [replacing(request, protocol, suggestion, protocol is top) for protocol in offered]
    return [card, *flags]


def replacing(request: Resource, protocol: Protocol, suggestion: Suggestion, first: bool) -> dict[str, Any]:
    """A suggestion whose action is the whole order again, for the other exam."""
    code = {"coding": [{"system": PROTOCOL_SYSTEM, "code": protocol.id, "display": protocol.name}], "text": protocol.name}
    if protocol.loinc_code and protocol.loinc_status == "confirmed":
        code["coding"].insert(0, {"system": LOINC, "code": protocol.loinc_code, "display": protocol.loinc_name})     # type: ignore[attr-defined]
    return {"label": cut(f"Order {protocol.name}"), "uuid": str(uuid.uuid4()),
            # without a model the order of the list is a match of words: nothing is recommended
            "isRecommended": first and bool(suggestion.model),
            "actions": [{"type": "update", "description": cut(f"Replace the ordered exam by {protocol.name}"),
                         "resource": {**request, "code": code}}]}


def detail(order: Order, suggestion: Suggestion, top: Protocol, book: Book, unknown: list[str]) -> str:
    """Why, in Markdown; what came with the order is escaped, so that it shows as it is."""
    chance = {ranked.protocol: ranked.probability for ranked in suggestion.ranked}
    how = f"probability {chance[top.id]:.0%}" if suggestion.model else "the nearest by words; no model answered in time"
    lines = [f"**{plain(top.name)}**, {how}"]
    if suggestion.indications:
        lines.append("Indications matched: " + plain("; ".join(suggestion.indications)))
    if seen := unique(e.text for e in suggestion.evidence if not e.field):
        lines.append("Read in the order: " + ", ".join(f"“{plain(text)}”" for text in seen[:8]))
    if others := [book.protocols[key].name for key in suggestion.set if key != top.id][:OFFERED]:
        lines.append("Also possible: " + plain("; ".join(others)))
    if suggestion.question:
        lines.append("Please say: " + plain(suggestion.question))
    if unknown:
        lines.append("Not known here: " + ", ".join(unknown) + ". Flags that depend on it may be missing.")
    version = f"model {suggestion.model}, " if suggestion.model else ""
    lines.append(f"A radiologist decides on the protocol. ({plain(version)}protocol book {plain(suggestion.book)})")
    return "\n\n".join(lines)


def flag_card(flag: Flag) -> dict[str, Any]:
    seen = unique(told(e) for e in flag.evidence)
    lines = [plain(flag.message), plain(flag.action), "Because of: " + ", ".join(f"“{plain(text)}”" for text in seen[:4]) if seen else ""]
    return {"uuid": str(uuid.uuid4()), "summary": cut(flag.message), "indicator": INDICATOR[flag.severity], "source": {"label": flag.source},
            "detail": "\n\n".join(line for line in [*lines, f"Rule {plain(flag.rule)}."] if line),
            "overrideReasons": [{"code": code, "system": REASON_SYSTEM, "display": display} for code, display in OVERRIDE_REASONS]}


def told(evidence: Evidence) -> str:
    return f"{evidence.field}: {evidence.text}" if evidence.field else evidence.text


def unique(texts: Any) -> list[str]:
    return list(dict.fromkeys(text for text in texts if text))


def cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= SUMMARY_MAX else text[:SUMMARY_MAX - 1] + "…"


def plain(text: str) -> str:
    """Text from outside as it is, neither Markdown nor HTML."""
    return SAFE.sub(r"\\\1", escape(" ".join(text.split())[:500], quote=False))
