"""Flow: what moves from the APIs through the outboxes and the log to the consumers, now."""

import json
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from shop.platform.flow import ConsumerFlow, Flow, ServiceFlow
from shop.services.console.access import Viewer
from shop.services.console.layout import Entry, page, rendered, viewing
from shop.services.console.streams import message, stream
from shop.services.console.watching import Watch

ENTRY = Entry("/", "Flow", "what moves, now")


def routes() -> APIRouter:
    router = APIRouter()

    @router.get("/")
    async def flow(request: Request, viewer: Annotated[Viewer, Depends(viewing)]) -> Response:
        watch: Watch = request.app.watch
        return page(
            request,
            "flow.html",
            viewer=viewer,
            picture=picture(watch),
            points=json.dumps(list(zip(*watch.points, strict=True))),
        )

    @router.get("/flow/stream")
    async def live(request: Request, viewer: Annotated[Viewer, Depends(viewing)]) -> Response:
        del viewer
        return stream(request, _messages(request.app.watch))

    return router


async def _messages(watch: Watch) -> AsyncIterator[str]:
    async for _ in watch.looks():
        yield message(picture(watch)) + message(json.dumps(watch.points[-1]), "point")


def picture(watch: Watch) -> str:
    """The picture of the newest look."""
    flow = watch.flow
    if flow is None:
        return rendered("flow_picture.html", flow=None)
    return watch.made_once(
        "picture",
        lambda: rendered(
            "flow_picture.html",
            flow=flow,
            lanes=lanes(flow),
            readers=[each for each in flow.services if each.log is None],
        ),
    )


def lanes(flow: Flow) -> list[tuple[ServiceFlow, list[ConsumerFlow]]]:
    """Each service that publishes, and who reads its topic."""
    return [
        (
            service,
            [
                consumer
                for each in flow.services
                for consumer in each.consumers
                if consumer.topic == service.log.topic
            ],
        )
        for service in flow.services
        if service.log is not None
    ]
