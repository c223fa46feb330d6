"""Report templates by protocol, empty or with a draft's sentences in their fields; as JSON or as IHE MRRT."""
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import Response

from api.mrrt import as_html, laid_out
from api.security import AnyPerson, TheDesk
from api.workflow import Desk
from data.errors import NotFound
from data.report_templates import read_report_templates, template_for

router = APIRouter(prefix="/v1/report-templates", tags=["report templates"])
DraftId = Annotated[str, Query(max_length=200, description="A draft whose sentences go into the fields.")]


@router.get("")
def templates(person: AnyPerson, protocol: Annotated[str, Query(max_length=200)] = "",
              modality: Annotated[str, Query(max_length=16)] = "") -> list[dict[str, Any]]:
    """All templates, or the one for a protocol (else for its modality); [] when there is none."""
    one = template_for(protocol, modality) if protocol or modality else None
    rows = [one] if one else [] if protocol or modality else list(read_report_templates().values())
    return [{"id": row.id, "title": row.title, "modality": row.modality, "protocols": row.protocols} for row in rows]


@router.get("/{id}")
def template(id: str, desk: TheDesk, person: AnyPerson, draft_id: DraftId = "") -> dict[str, Any]:
    """One template: sections, and the fields of the findings section with the codes that belong in each."""
    return page_of(id, desk, person.name, draft_id)


@router.get("/{id}/mrrt", response_class=Response)
def mrrt(id: str, desk: TheDesk, person: AnyPerson, draft_id: DraftId = "") -> Response:
    """The same as an HTML5 template of IHE MRRT, for a reporting system."""
    body = as_html(page_of(id, desk, person.name, draft_id))
    return Response(body, media_type="text/html", headers={"Content-Disposition": f'attachment; filename="{id}.html"'})


def page_of(id: str, desk: Desk, user: str, draft_id: str) -> dict[str, Any]:
    found = read_report_templates().get(id)
    if found is None:
        raise NotFound(f"there is no report template of that id; they are {', '.join(read_report_templates())}")
    record = desk.draft(draft_id) if draft_id else None
    if record:
        desk.store.audit(user, "look", "draft", draft_id)
    return laid_out(found, record)
