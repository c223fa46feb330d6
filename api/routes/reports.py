"""The check of a report's text before it is signed."""
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter

from api.report_steps import mark_of, sections_of
from api.schemas import ReportQuestion
from api.security import AnyPerson, TheDesk
from data.errors import InputError

router = APIRouter(prefix="/v1/reports", tags=["reports"])


@router.post("/check")
def check(question: ReportQuestion, desk: TheDesk, person: AnyPerson) -> dict[str, Any]:
    """What in a report's text does not fit its order, patient, draft or itself, each with its place. Keeps nothing but the audit.

    Send `draft_id` with the sections that were edited, or `sections` or `text` alone, with the `order` they answer.
    Offsets are characters in the section named; `findings` is the text as it was read.
    """
    from nlp.assertions import read_report

    if question.draft_id and question.order:
        raise InputError("draft_id and order were both given; a draft has its own order, send one of them")
    if question.text is not None and question.sections is not None:
        raise InputError("text and sections were both given; send the report once")
    if not question.draft_id and question.text is None and question.sections is None:
        raise InputError("draft_id, sections and text are all missing; send the report's text in one of them")
    given = sections_of(question.text) if question.text is not None else question.sections.given() if question.sections else {}
    if question.draft_id:
        found = desk.check_draft(question.draft_id, given)
        given = {**desk.draft(question.draft_id)["sections"], **given}
    else:
        found = desk.check_text(given, question.order.order() if question.order else None)
    desk.store.audit(person.name, "check", "draft" if question.draft_id else "report", question.draft_id or "")
    read = [{**asdict(a), "section": name} for name in ("findings", "impression") for a in read_report(given.get(name, ""))]
    return {"remarks": found, "mark": mark_of(found), "sections": given, "findings": read}
