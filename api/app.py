"""The HTTP service: the JSON API, the pages and what guards them."""
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from fastapi.staticfiles import StaticFiles

from api.cds.prompt import LateRules, Prompt
from api.errors import add_handlers
from api.fhir.fetch import Fetcher
from api.images import Images
from api.routes import (
    alerts,
    automation,
    cds,
    connections,
    dicomweb,
    drafts,
    fhir,
    login,
    monitor,
    orders,
    pages,
    protocols,
    report_templates,
    reports,
    studies,
)
from api.security import Gate, Tries
from api.settings import Settings
from api.views import STATIC, page
from api.workflow import Desk
from data.errors import WetreadError

ABOUT = ("Wetread suggests imaging protocols and drafts reports; a radiologist decides. Not a medical device. "
         "Beyond loopback send Authorization: Bearer KEY.")
ROUTES = (protocols.router, orders.router, automation.router, monitor.router, alerts.router, studies.router, studies.dicomweb, dicomweb.router,
          drafts.router, reports.router, report_templates.router, cds.router, fhir.router, connections.router, login.router, pages.router)


def create_app(desk: Desk, settings: Settings) -> FastAPI:
    """The service over one desk; nothing is loaded or started here."""
    # no docs_url: those pages load their script from elsewhere
    app = FastAPI(title="Wetread", version="0.1.0", description=ABOUT, docs_url=None, redoc_url=None)
    app.state.desk, app.state.settings = desk, settings
    app.state.images, app.state.tries = Images(), Tries()
    app.state.worker_models = dict      # serve puts its keeper's here
    app.state.prompt, app.state.fetcher = Prompt(desk.suggester, LateRules()), Fetcher(settings.fhir_servers)
    app.state.cards_shown = []
    app.state.listeners = []        # the server puts its own there
    for router in ROUTES:
        app.include_router(router)
    app.add_api_route("/health", health, methods=["GET"], tags=["service"])
    app.add_api_route("/ready", ready, methods=["GET"], tags=["service"])
    app.add_api_route("/docs", documentation, methods=["GET"], include_in_schema=False)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    add_handlers(app)
    app.add_middleware(Gate, store=desk.store, settings=settings)
    return app


async def health() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


def ready(request: Request) -> Response:
    """What is sent now would be kept. Says too how far the worker's models are: an order is taken meanwhile, and its suggestion follows."""
    desk: Desk = request.app.state.desk
    try:
        desk.store.require_writable()
    except WetreadError as error:
        return JSONResponse({"ready": False, "store": str(error)}, 503)
    at_work = request.app.state.worker_models()
    return JSONResponse({"ready": True, "store": "ok", "suggester": model_state(desk.suggester, at_work.get("suggester")),
                         "reporter": model_state(desk.reporter, at_work.get("reporter"))})


def model_state(model: Any, at_work: str | None) -> str:
    """none, not yet loaded, loading or loaded: the worker's, or without one that of this process."""
    if model is None:
        return "none"
    return at_work or ("loaded" if getattr(model, "loaded", True) else "not yet loaded")


def documentation(request: Request) -> Response:
    """What /openapi.json says, as a page without a script."""
    make: Callable[[], dict[str, Any]] = request.app.openapi
    described = make()
    rows = [{"method": method.upper(), "path": path, **{key: operation.get(key, "") for key in ("summary", "description", "tags")},
             "body": body_schema(operation, described), "parameters": operation.get("parameters", [])}
            for path, operations in described["paths"].items() for method, operation in operations.items()]
    return page(request, "docs.html", rows=rows, about=described["info"]["description"])


def body_schema(operation: dict[str, Any], described: dict[str, Any]) -> list[tuple[str, bool, str]]:
    """(field, needed, meaning) of a JSON body."""
    schema = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    schema = described.get("components", {}).get("schemas", {}).get(schema.get("$ref", "").rpartition("/")[2], {})
    return [(name, name in schema.get("required", ()), field.get("description", "")) for name, field in schema.get("properties", {}).items()]
