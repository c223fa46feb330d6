"""The pages: orders to protocol, studies to read, one study with its draft and images, the audit."""
import hashlib
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from api.alert_steps import STATES
from api.draft_steps import EDITABLE, SECTIONS, SIGNED
from api.order_steps import OPEN
from api.report_steps import mark_of
from api.routes.login import Form
from api.security import Administrator, AnyPerson, Decider, Person, Reader, TheDesk
from api.views import page
from api.workflow import Desk
from data.errors import InputError, NotFound
from data.report_templates import ReportTemplate, template_for

router = APIRouter(include_in_schema=False)

SHOWN: dict[str, tuple[str, ...]] = {
    "open": OPEN, "decided": ("accepted", "changed", "rejected"), "cancelled": ("cancelled",),
}
STEPS = ("save", "preliminary", "sign", "amend", "cancel")
LIST_MAX = 200


@router.get("/")
def home() -> Response:
    return RedirectResponse("/orders", 303)


@router.get("/orders")
def orders(request: Request, desk: TheDesk, person: AnyPerson, show: str = "open") -> Response:
    """Orders to protocol, most urgent first."""
    rows = listed(desk, show)
    desk.store.audit(person.name, "list", "orders", show)
    return page(request, "orders.html", orders=rows[:LIST_MAX], show=show, shown=SHOWN, book=desk.book.protocols, more=len(rows) > LIST_MAX,
                mark=mark(rows), automation=desk.automation())


@router.get("/marks/orders")
def orders_mark(desk: TheDesk, person: AnyPerson, show: str = "open") -> dict[str, str]:
    """Changes when the list does. Says nothing of a patient, so it is not audited: pages ask every few seconds."""
    return {"mark": mark(listed(desk, show))}


@router.get("/marks/studies")
def studies_mark(desk: TheDesk, person: AnyPerson) -> dict[str, str]:
    return {"mark": studies_seen(desk.studies(LIST_MAX), desk.alerts())}


@router.get("/orders/{id}")
def order(request: Request, id: str, desk: TheDesk, person: AnyPerson) -> Response:
    """One order: why this protocol, and the technologist's sheet to print."""
    found = desk.order(id)
    desk.store.audit(person.name, "look", "order", found["id"])
    return page(request, "order.html", row=found, book=desk.book.protocols)


@router.post("/orders/{id}/decision")
def decide(id: str, desk: TheDesk, person: Decider, form: Form) -> Response:
    desk.decide(id, text(form, "action"), text(form, "protocol") or None, text(form, "reason")[:2000], person.name)
    show = text(form, "show")
    return RedirectResponse(f"/orders?show={show}" if show in SHOWN else "/orders", 303)


@router.get("/studies")
def studies(request: Request, desk: TheDesk, person: AnyPerson) -> Response:
    """Studies to read, most urgent first, with what the draft says in short."""
    rows = desk.studies(LIST_MAX)
    drafts = {row["id"]: desk.draft(row["draft_id"]) if row["draft_id"] else None for row in rows}
    desk.store.audit(person.name, "list", "studies", "")
    waiting = desk.alerts()
    return page(request, "studies.html", studies=rows, drafts=drafts, mark=studies_seen(rows, waiting), alerts=waiting,
                may_sign=person.role in ("radiologist", "local"))


@router.get("/studies/{id}")
def study(request: Request, id: str, desk: TheDesk, person: AnyPerson, draft: str = "", unseen: str = "") -> Response:
    """One study: images beside the draft. `draft` picks another than the one to show; `unseen`: it was not signed, for its remarks."""
    found = desk.study(id)
    shown = next((row for row in found["drafts"] if row["id"] == draft), None) if draft else found["draft"]
    if draft and shown is None:
        raise NotFound("the study has no draft of that id; its page without ?draft= shows the newest")
    desk.store.audit(person.name, "look", "study", id)
    return study_page(request, desk, person, found, shown, {}, bool(unseen))


def study_page(request: Request, desk: Desk, person: Person, found: dict[str, Any], shown: dict[str, Any] | None, typed: dict[str, str],
               not_signed: bool) -> Response:
    """`typed` are sections as they stand in the form, not kept yet."""
    remarks = desk.check_draft(shown["id"], typed) if shown and shown["status"] != "cancelled" else []
    return page(request, "study.html", study=found, draft={**shown, "sections": {**shown["sections"], **typed}} if shown else None, sections=SECTIONS,
                editable=EDITABLE, signed=SIGNED, remarks=remarks, mark=mark_of(remarks), not_signed=not_signed, typed=typed,
                masks=masks(shown) if shown else {}, history=desk.draft(shown["id"])["history"] if shown else [],
                alerts=desk.alerts(STATES, study_id=found["id"]), template=template_of(found), may_sign=person.role in ("radiologist", "local"))


@router.post("/drafts/{id}")
def step(request: Request, id: str, desk: TheDesk, person: Reader, form: Form) -> Response:
    """One step on a draft with the text as it stands on the page; a changed text is kept first."""
    action, version = text(form, "action"), text(form, "version")
    if action not in STEPS:
        raise InputError(f"action is '{str(action)[:20]}', expected one of {', '.join(STEPS)}")
    if not version.isascii() or not version.isdigit() or len(version) > 9:
        raise InputError("version must be the number of the version that was seen; reload the page")
    before = desk.draft(id)
    given = {name: text(form, name).replace("\r\n", "\n").strip() for name in SECTIONS if name in form}
    changed = {name: words for name, words in given.items() if words != before["sections"].get(name, "").strip()}
    now = int(version)
    if action in ("sign", "amend") and (mark := mark_of(desk.check_draft(id, changed))) and text(form, "seen") != mark:
        # not signed: shown first, and with one tick signed all the same
        if action == "amend":       # a signed report keeps nothing that is not signed: what was typed goes back into the form
            return study_page(request, desk, person, desk.study(before["study_id"]), before, changed, True)
        if changed:
            desk.edit_draft(id, changed, person.name, now)
        return RedirectResponse(f"/studies/{before['study_id']}?draft={id}&unseen=1#checks", 303)
    if action == "amend":
        desk.amend_draft(id, changed, person.name, now)
    elif action == "cancel":
        desk.cancel_draft(id, person.name, now)
    else:
        if changed:
            now = desk.edit_draft(id, changed, person.name, now)["version"]
        if action == "preliminary":
            desk.make_preliminary(id, person.name, now)
        elif action == "sign":
            desk.sign_draft(id, person.name, now)
    return RedirectResponse(f"/studies/{before['study_id']}?draft={id}", 303)


@router.get("/audit")
def audit(request: Request, desk: TheDesk, person: Administrator) -> Response:
    rows = desk.store.audit_rows(500)
    desk.store.audit(person.name, "look", "audit", "")
    return page(request, "audit.html", rows=rows)


def listed(desk: Desk, show: str) -> list[dict[str, Any]]:
    if show not in SHOWN:
        raise InputError(f"show is '{str(show)[:20]}', expected one of {', '.join(SHOWN)}")
    rows = [row for state in SHOWN[show] for row in desk.orders(state, LIST_MAX)]
    return sorted(rows, key=lambda row: (-row["urgency"], row["created"], row["id"]))


def mark(rows: list[dict[str, Any]]) -> str:
    return hashlib.sha256(repr([(row["id"], row["state"], row["updated"]) for row in rows]).encode()).hexdigest()[:16]


def template_of(study: dict[str, Any]) -> ReportTemplate | None:
    """By the protocol that was taken, else by the modality."""
    decision = (study["order"] or {}).get("decision") or {}
    return template_for(decision.get("protocol") or "", study["modality"])


def studies_seen(rows: list[dict[str, Any]], alerts: list[dict[str, Any]]) -> str:
    """The list's mark; an alert that comes, goes or is escalated changes it too."""
    return mark([*rows, *({**row, "updated": row["raised"]} for row in alerts)])


def text(form: Any, name: str) -> str:
    value = form.get(name, "")
    return value if isinstance(value, str) else ""


def masks(draft: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Finding id -> where it is seen: {name, slice, series, box}; findings without evidence are left out."""
    found = {}
    for finding in draft["findings"]:
        for seen in finding["evidence"][:1]:
            found[finding["id"]] = {"name": Path(seen["mask"]).stem if seen["mask"] else "", "slice": seen["slice"], "series": seen["series_uid"],
                                    "box": seen["box"] or ()}
    return found
