"""Connections: MLLP listeners with what came in on them, destinations with what waits for them, dead letters and their replay."""
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from api.routes.login import Form
from api.security import Administrator, TheDesk
from api.views import page

router = APIRouter(tags=["connections"])


@router.get("/v1/connections")
def connections(request: Request, desk: TheDesk, person: Administrator) -> dict[str, Any]:
    """Listeners and their connections, destinations and their outages, dead letters; nothing of any message's content."""
    desk.store.audit(person.name, "look", "connections", "")
    return {"listeners": [listener.report() for listener in request.app.state.listeners], **desk.connections()}


@router.post("/v1/connections/replay/{kind}/{id}")
def replay(kind: str, id: str, desk: TheDesk, person: Administrator) -> dict[str, Any]:
    """Send an outbox message (kind outbox) once more, apply a kept message (message) or do a dead job (job) again."""
    desk.replay(kind, id, person.name)
    return {"kind": kind, "id": id, "state": "queued"}


@router.get("/connections", include_in_schema=False)
def connections_page(request: Request, desk: TheDesk, person: Administrator) -> Response:
    desk.store.audit(person.name, "look", "connections", "")
    return page(request, "connections.html", listeners=[listener.report() for listener in request.app.state.listeners], **desk.connections())


@router.post("/connections", include_in_schema=False)
def replay_on_page(desk: TheDesk, person: Administrator, form: Form) -> Response:
    """One dead letter by kind and id, or all of a destination."""
    if form.get("kind") == "all":
        desk.replay_failed(str(form.get("id", "")), person.name)
    else:
        desk.replay(str(form.get("kind", "")), str(form.get("id", "")), person.name)
    return RedirectResponse("/connections", 303)
