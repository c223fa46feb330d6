"""The protocol book, and a suggestion for one order that is not kept."""
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter

from api.schemas import OrderQuestion
from api.security import AnyPerson, TheDesk
from data.errors import NotFound
from data.records import as_json

router = APIRouter(prefix="/v1/protocols", tags=["protocols"])


@router.post("/suggest")
def suggest(question: OrderQuestion, desk: TheDesk, person: AnyPerson) -> dict[str, Any]:
    """Suggest protocols for one order, best first. Keeps nothing but the audit that it was asked."""
    found = desk.suggest(question.order())
    desk.store.audit(person.name, "suggest", "order", question.id or "")
    return {"id": question.id or "", **as_json(found)}


@router.get("")
def protocols(desk: TheDesk) -> dict[str, Any]:
    """The protocol book with its version."""
    return {"version": desk.book.version, "protocols": [asdict(protocol) for protocol in desk.book.protocols.values()]}


@router.get("/{id}")
def protocol(id: str, desk: TheDesk) -> dict[str, Any]:
    if id not in desk.book.protocols:
        raise NotFound("there is no protocol of that id; GET /v1/protocols lists them")
    return asdict(desk.book.protocols[id])
