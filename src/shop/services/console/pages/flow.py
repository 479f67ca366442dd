"""Flow: what moves from the APIs through the outboxes and the log to the consumers, now."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from shop.services.console.access import Viewer
from shop.services.console.layout import Entry, page, viewing

ENTRY = Entry("/", "Flow", "what moves, now")


def routes() -> APIRouter:
    router = APIRouter()

    @router.get("/")
    async def flow(request: Request, viewer: Annotated[Viewer, Depends(viewing)]) -> Response:
        return page(request, "flow.html", viewer=viewer)

    return router
