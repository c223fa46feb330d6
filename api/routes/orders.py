"""Orders: listed, taken, looked at, decided. An order number may hold a slash, hence the path converters."""
from typing import Annotated, Any

from fastapi import APIRouter, Query

from api.schemas import Decision, NewOrder
from api.security import AnyPerson, Decider, TheDesk

router = APIRouter(prefix="/v1/orders", tags=["orders"])
Limit = Annotated[int, Query(ge=1, le=1000)]


@router.get("")
def orders(desk: TheDesk, person: AnyPerson, state: str | None = None, limit: Limit = 200) -> list[dict[str, Any]]:
    """Orders without their history, most urgent first. state: new, suggested, no-suggestion, accepted, changed, rejected, cancelled."""
    rows = desk.orders(state, limit)
    desk.store.audit(person.name, "list", "orders", state or "")
    return rows


@router.post("", status_code=201)
def add(order: NewOrder, desk: TheDesk, person: AnyPerson) -> dict[str, Any]:
    """Keep an order that comes other than by HL7; its suggestion follows in a moment. The same number again is a change."""
    id = desk.add_order(order.order(), person.name)
    desk.store.audit(person.name, "add", "order", id)
    return desk.order(id)


@router.post("/{id:path}/decision")
def decide(id: str, decision: Decision, desk: TheDesk, person: Decider) -> dict[str, Any]:
    """Accept the suggestion, change to another protocol of the book, or reject with a reason."""
    return desk.decide(id, decision.action, decision.protocol, decision.reason, person.name)


@router.get("/{id:path}")
def order(id: str, desk: TheDesk, person: AnyPerson) -> dict[str, Any]:
    """One order with suggestion, decision, the technologist's sheet, nearest labelled orders, history and messages.

    Found by its id or its placer, filler or accession number.
    """
    found = desk.order(id)
    desk.store.audit(person.name, "look", "order", found["id"])
    return found
