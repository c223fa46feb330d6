"""Drift of the text path: figures as JSON, and the page with its plot."""
import base64
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from api.monitor import FIGURES, JUDGED_MIN, SAID_BY, WEEKS, monitor, plot
from api.security import AnyPerson, TheDesk
from api.views import page

router = APIRouter(tags=["monitor"])
Weeks = Annotated[int, Query(ge=1, le=520)]
Reference = Annotated[str, Query(pattern=r"^(\d{4}-W\d\d)?$")]


@router.get("/v1/monitor")
def figures(desk: TheDesk, person: AnyPerson, weeks: Weeks = WEEKS, reference: Reference = "") -> dict[str, Any]:
    """Unknown words, protocol mix, overrides and calibration by week, each beside what chance alone gives; alarms with what to do."""
    found = monitor(desk.store, weeks, reference)
    desk.store.audit(person.name, "look", "monitor", "")
    return found


@router.get("/v1/monitor/reports")
def report_figures(desk: TheDesk, person: AnyPerson, weeks: Weeks = WEEKS) -> dict[str, Any]:
    """What became of the drafts' sentences when reports were signed: kept, edited, deleted, by week, finding and model."""
    found = desk.sentence_figures(weeks)
    desk.store.audit(person.name, "look", "monitor", "reports")
    return found


@router.get("/monitor", include_in_schema=False)
def monitor_page(request: Request, desk: TheDesk, person: AnyPerson, weeks: Weeks = WEEKS, reference: Reference = "") -> Response:
    found = monitor(desk.store, weeks, reference)
    desk.store.audit(person.name, "look", "monitor", "")
    picture = base64.b64encode(plot(found)).decode() if found["weeks"] else ""
    return page(request, "monitor.html", figures=found, names=FIGURES, picture=picture, models=desk.models(), automation=desk.automation(),
                reports=desk.sentence_figures(weeks), judged_min=JUDGED_MIN, said_by=SAID_BY)
