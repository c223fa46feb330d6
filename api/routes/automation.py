"""The switch of automation: anyone may stop it at once, an administrator lets it run again."""
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from api.routes.login import Form
from api.schemas import Switch
from api.security import AnyPerson, Person, TheDesk
from api.workflow import Desk
from data.errors import InputError, NotAllowed

router = APIRouter(tags=["automation"])


@router.get("/v1/automation")
def automation(desk: TheDesk, person: AnyPerson) -> dict[str, Any]:
    """Whether orders are accepted without a person now; if it was stopped, by whom, when and why."""
    return desk.automation()


@router.post("/v1/automation")
def switch(change: Switch, desk: TheDesk, person: AnyPerson) -> dict[str, Any]:
    """Stop automation at once (anyone), or let it run again (an administrator)."""
    return switched(desk, person, change.running, change.reason)


@router.post("/automation", include_in_schema=False)
def switch_on_page(request: Request, desk: TheDesk, person: AnyPerson, form: Form) -> Response:
    action = str(form.get("action", ""))
    if action not in ("stop", "start"):
        raise InputError(f"action is '{str(action)[:20]}', expected stop or start")
    switched(desk, person, action == "start", str(form.get("reason", ""))[:2000])
    return RedirectResponse("/orders", 303)


def switched(desk: Desk, person: Person, running: bool, reason: str) -> dict[str, Any]:
    if running and person.role not in ("administrator", "local"):
        raise NotAllowed("only an administrator may let automation run again; sign in as one at /login")
    return desk.switch_automation(running, person.name, reason)
