"""Signing in and out."""
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import RedirectResponse, Response
from starlette.datastructures import FormData

from api.errors import HttpError
from api.security import COOKIE, SESSION_HOURS, TheDesk, check_csrf, digest, password_fits, start_session
from api.views import page
from data.errors import InputError

router = APIRouter(include_in_schema=False)
FIELDS_MAX = 40


async def page_form(request: Request) -> FormData:
    """A page's form, once its CSRF token was found right; files have no place in it."""
    if not request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        raise HttpError(415, InputError("the body is no page's form; programs use /v1"))
    form = await request.form(max_files=0, max_fields=FIELDS_MAX)
    check_csrf(request.state.person, str(form.get("csrf", "")))
    return form


Form = Annotated[FormData, Depends(page_form)]


@router.get("/login")
def login_page(request: Request, next: str = "/") -> Response:
    return page(request, "login.html", next=inside(next), failed=False)


@router.post("/login")
def login(request: Request, desk: TheDesk, form: Form) -> Response:
    name, tries = str(form.get("name", ""))[:200], request.app.state.tries
    tries.check(name)
    user = desk.store.user(name)
    ok = password_fits(user, str(form.get("password", "")))
    tries.note(name, ok)
    desk.store.audit(name if user else "", "login" if ok else "login-failed", "session", "")
    if not ok:
        return page(request, "login.html", 401, next=inside(str(form.get("next", "/"))), failed=True)
    answer = RedirectResponse(inside(str(form.get("next", "/"))), 303)
    # beyond loopback only over TLS: a password or session in plain text on a hospital's network is everyone's
    secure = request.url.scheme == "https" or request.app.state.settings.api_key_required
    answer.set_cookie(COOKIE, start_session(desk.store, name), max_age=SESSION_HOURS * 3600, httponly=True, samesite="lax", secure=secure)
    return answer


@router.post("/logout")
def logout(request: Request, desk: TheDesk, form: Form) -> Response:
    if token := request.cookies.get(COOKIE):
        desk.store.end_session(digest(token))
    answer = RedirectResponse("/login", 303)
    answer.delete_cookie(COOKIE)
    return answer


def inside(address: str) -> str:
    """Only a path of our own may follow a sign-in."""
    ours = address.startswith("/") and not address.startswith(("//", "/\\")) and address.isprintable()
    return address if ours else "/"
