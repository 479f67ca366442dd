"""The login page, where tokens are required."""

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from shop.services.console.access import COOKIE, NotAllowed
from shop.services.console.layout import form, page


def routes() -> APIRouter:
    router = APIRouter()

    @router.get("/login")
    async def ask(request: Request) -> Response:
        if not request.app.access.required:
            return RedirectResponse("/", 303)
        return page(request, "login.html", email="", said="")

    @router.post("/login")
    async def log_in(request: Request) -> Response:
        given = await form(request)
        email, password = (given.get(name, [""])[0] for name in ("email", "password"))
        try:
            client = request.client.host if request.client else ""
            session = await request.app.access.log_in(email, password, client)
        except NotAllowed as error:
            return page(request, "login.html", status=403, email=email, said=str(error))
        answer = RedirectResponse("/", 303)
        answer.set_cookie(COOKIE, session, secure=True, httponly=True, samesite="strict", path="/")
        return answer

    @router.post("/logout")
    async def log_out(request: Request) -> Response:
        request.app.access.log_out(request)
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(COOKIE, secure=True, httponly=True, samesite="strict", path="/")
        return answer

    return router
