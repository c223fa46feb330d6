"""Alerts of critical findings: listed, and acknowledged by a person."""
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from fastapi.responses import RedirectResponse, Response

from api.alert_steps import OPEN
from api.routes.login import Form
from api.schemas import Acknowledgement
from api.security import AnyPerson, Reader, TheDesk

router = APIRouter(tags=["alerts"])


@router.get("/v1/alerts")
def alerts(desk: TheDesk, person: AnyPerson, state: Literal["waiting", "open", "escalated", "acknowledged"] = "waiting",
           study_id: Annotated[str, Query(max_length=64)] = "", limit: Annotated[int, Query(ge=1, le=1000)] = 200) -> list[dict[str, Any]]:
    """Alerts, those longest due first. `waiting` are open and escalated ones: nobody has acknowledged them yet."""
    rows = desk.alerts(OPEN if state == "waiting" else (state,), study_id, limit)
    desk.store.audit(person.name, "list", "alerts", study_id)
    return rows


@router.post("/v1/alerts/{id}/acknowledge")
def acknowledge(id: str, given: Acknowledgement, desk: TheDesk, person: Reader) -> dict[str, Any]:
    """Say that you have seen it, and in `note` whom you told. 409 when somebody did before."""
    return desk.acknowledge_alert(id, person.name, given.note)


@router.post("/alerts/{id}", include_in_schema=False)
def acknowledge_on_page(id: str, desk: TheDesk, person: Reader, form: Form) -> Response:
    found = desk.acknowledge_alert(id, person.name, str(form.get("note", ""))[:2000])
    return RedirectResponse(f"/studies/{found['study_id']}" if form.get("back") == "study" else "/studies", 303)
