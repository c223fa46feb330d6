"""CDS Hooks: cards while an order is entered and signed. A call always gets its cards, if need be none: no failure of ours blocks an order."""
import asyncio
import logging
import time
from typing import Any

from anyio import to_thread
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from api.cds.cards import cards_for, is_imaging
from api.cds.services import PREFETCH, SERVICES, check_call, discovery, known_of, missing, queries, requests_of, subject_agrees
from api.errors import HttpError
from api.fhir.orders import order_from
from api.fhir.values import Resource, words
from api.fhir.values import rows as list_of
from api.json_body import read_json
from api.security import AnyPerson, TheDesk
from api.workflow import Desk
from data.errors import InputError, NotFound, WetreadError

router = APIRouter(prefix="/cds-services", tags=["CDS Hooks"])
log = logging.getLogger("wetread.cds")
FETCH_S = 0.1               # of a call's quarter of a second, when prefetch is wanting
DEADLINE_S = 0.2
FEEDBACK_MAX = 200
KEEP_EVERY_S = 0.5
OUTCOMES = ("accepted", "overridden")
BODY = {"requestBody": {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}}}


@router.get("")
def services() -> dict[str, Any]:
    """The services with their prefetch templates."""
    return discovery()


@router.post("/{id}", openapi_extra=BODY)
async def call(id: str, request: Request, desk: TheDesk, person: AnyPerson) -> Response:
    """Cards for the draft orders: the suggested protocol with its reasons, and a card for each safety flag. 200 with `cards`, perhaps none."""
    began = time.monotonic()
    if id not in SERVICES:
        raise NotFound("there is no CDS service of that id; GET /cds-services lists them")
    given = await body_of(request)
    check_call(id, given)
    try:
        cards, served = await cards_of(request, desk, given, began + DEADLINE_S)
    except Exception as error:              # a mistake of ours must not stand between a clinician and an order
        log.error("no cards: %s", error if isinstance(error, WetreadError) else type(error).__name__)
        cards, served = [], []
    if served:
        remember(request.app.state, desk, [{**card, "service": id, "hook_instance": words(given, "hookInstance")[:100], "user": person.name}
                                           for card in served])
    return JSONResponse({"cards": cards})


@router.post("/{id}/feedback", openapi_extra=BODY)
async def feedback(id: str, request: Request, desk: TheDesk, person: AnyPerson) -> dict[str, Any]:
    """What became of cards: accepted with its suggestions, or overridden with a reason. Kept before it is answered."""
    if id not in SERVICES:
        raise NotFound("there is no CDS service of that id; GET /cds-services lists them")
    rows = feedback_rows(await body_of(request))
    await to_thread.run_sync(desk.keep_card_feedback, id, rows, person.name)
    return {"kept": len(rows)}


async def body_of(request: Request) -> Any:
    raw = await request.body()
    try:
        # a small body is read sooner than a thread is had
        return read_json(raw) if len(raw) < 65536 else await to_thread.run_sync(read_json, raw)
    except InputError as error:
        raise HttpError(400, error) from None


async def cards_of(request: Request, desk: Desk, given: Resource, until: float) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(cards, what is kept of them): the orders are looked at side by side, each with what is left of the time."""
    app = request.app.state
    asked = [row for row in requests_of(given) if subject_agrees(row, given)]
    if not asked:
        return [], []
    lacking, fetched = missing(given), {}
    if lacking and isinstance(server := given.get("fhirServer"), str):
        bearer = words(given, "fhirAuthorization", "access_token")
        fetched = await app.fetcher.get_all(server, queries(given, lacking), bearer, min(FETCH_S, until - time.monotonic()))
    known = known_of(given, fetched)
    unknown = [PREFETCH[key][1] for key in lacking if key not in fetched and not (key == "patient" and has_patient(asked, known))]
    orders = [(row, order_from(row, known)) for row in asked]
    orders = [(row, order) for row, order in orders if is_imaging(row, order, desk.book)]
    found = await asyncio.gather(*(app.prompt.suggest(order, until) for _, order in orders))
    cards, served = [], []
    for (row, order), suggestion in zip(orders, found, strict=True):
        if suggestion is not None:
            made = cards_for(row, order, suggestion, desk.book, unknown)
            cards += made
            served += [{"uuid": card["uuid"], "protocol": suggestion.ranked[0].protocol if suggestion.ranked else "",
                        "summary": card["summary"], "model": suggestion.model, "book": suggestion.book,
                        "suggestions": [s["uuid"] for s in card.get("suggestions", ())]} for card in made]
    order_of = ("critical", "warning", "info")
    return sorted(cards, key=lambda card: order_of.index(card["indicator"])), served


def has_patient(asked: list[Resource], known: list[Resource]) -> bool:
    return any(row.get("resourceType") == "Patient" for row in known) or \
        all(any(isinstance(c, dict) and c.get("resourceType") == "Patient" for c in row.get("contained") or ()) for row in asked)


def remember(app: Any, desk: Desk, served: list[dict[str, Any]]) -> None:
    """Note which cards were shown, so that feedback can be read beside them; written some at a time, after the answers."""
    waiting: list[dict[str, Any]] = app.cards_shown
    waiting += served
    if len(waiting) == len(served):
        app.cards_keeper = asyncio.create_task(keep_shown(waiting, desk))


async def keep_shown(waiting: list[dict[str, Any]], desk: Desk) -> None:
    await asyncio.sleep(KEEP_EVERY_S)
    cards = waiting[:]
    waiting.clear()
    try:
        await to_thread.run_sync(desk.keep_cards, cards)
    except WetreadError as error:           # nobody waits for it
        log.error("%d cards shown were not kept: %s", len(cards), error)


def feedback_rows(given: Any) -> list[dict[str, Any]]:
    """Raises InputError naming the row and field at fault."""
    rows = given.get("feedback") if isinstance(given, dict) else None
    if not isinstance(rows, list) or not 0 < len(rows) <= FEEDBACK_MAX:
        raise InputError(f"feedback is missing or no list of 1 to {FEEDBACK_MAX}; send {{\"feedback\": [{{card, outcome, outcomeTimestamp}}]}}")
    found = []
    for number, row in enumerate(rows):
        card, outcome, when = (words(row, name) for name in ("card", "outcome", "outcomeTimestamp"))
        accepted = [words(suggestion, "id")[:100] for suggestion in list_of(row, "acceptedSuggestions")][:50]
        if not card or len(card) > 100:
            raise InputError(f"feedback[{number}].card is missing; send the card's uuid")
        if outcome not in OUTCOMES:
            raise InputError(f"feedback[{number}].outcome is '{str(outcome)[:20]}', expected accepted or overridden")
        if outcome == "accepted" and not any(accepted):
            raise InputError(f"feedback[{number}].acceptedSuggestions is missing; send the id of each suggestion that was accepted")
        if not when or len(when) > 50:
            raise InputError(f"feedback[{number}].outcomeTimestamp is missing; send the time as ISO 8601 in UTC")
        reason = row.get("overrideReason")
        found.append({"card": card, "outcome": outcome, "outcome_time": when, "suggestions": accepted,
                      "reason_code": words(reason, "reason", "code")[:200], "reason_system": words(reason, "reason", "system")[:200],
                      "comment": words(reason, "userComment")[:2000]})
    return found
