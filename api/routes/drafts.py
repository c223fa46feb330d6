"""Drafts: looked at, edited, sent as preliminary, signed, amended, cancelled. Every step names the version that was seen."""
from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response

from api.images import mask_bytes
from api.schemas import Amendment, Edit, Step
from api.security import AnyPerson, Reader, TheDesk

router = APIRouter(prefix="/v1/drafts", tags=["drafts"])


@router.get("/{id}")
def draft(id: str, desk: TheDesk, person: AnyPerson) -> dict[str, Any]:
    """One draft with its versions, oldest first."""
    found = desk.draft(id)
    desk.store.audit(person.name, "look", "draft", id)
    return found


@router.get("/{id}/masks/{name}", response_class=Response)
def mask(id: str, name: str, desk: TheDesk, person: AnyPerson) -> Response:
    """A finding's mask, one byte a voxel in the order of its series' pixels; X-Shape has slices, rows, columns."""
    body, shape = mask_bytes(desk.store.home, desk.draft(id), name)
    desk.store.audit(person.name, "look", "draft", id)
    return Response(body, media_type="application/octet-stream", headers={"X-Shape": ",".join(map(str, shape))})


@router.put("/{id}")
def edit(id: str, change: Edit, desk: TheDesk, person: Reader) -> dict[str, Any]:
    """Replace the text of the sections given; what changed is yours from then on."""
    return desk.edit_draft(id, change.sections.given(), person.name, change.version)


@router.post("/{id}/preliminary")
def preliminary(id: str, step: Step, desk: TheDesk, person: Reader) -> dict[str, Any]:
    """Send as a preliminary report (ORU^R01 with status P)."""
    return desk.make_preliminary(id, person.name, step.version)


@router.post("/{id}/sign")
def sign(id: str, step: Step, desk: TheDesk, person: Reader) -> dict[str, Any]:
    """Make it final (ORU^R01 with status F): the one way to a final report."""
    return desk.sign_draft(id, person.name, step.version)


@router.post("/{id}/amend")
def amend(id: str, change: Amendment, desk: TheDesk, person: Reader) -> dict[str, Any]:
    """Change a signed report and sign the change (ORU^R01 with status C); what was signed stays in the history."""
    return desk.amend_draft(id, change.sections.given(), person.name, change.version)


@router.post("/{id}/cancel")
def cancel(id: str, step: Step, desk: TheDesk, person: Reader) -> dict[str, Any]:
    return desk.cancel_draft(id, person.name, step.version)
