"""Timeline: the whole story of an order, a user, a trace or a request, in the order of time."""

from typing import Annotated
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Depends, Query, Request, Response

from shop.services.console import stories
from shop.services.console.access import Viewer
from shop.services.console.layout import Entry, page, viewing
from shop.services.console.questions import Entity, Meaning, meaning
from shop.services.console.reading import Reading
from shop.services.console.stories import Story
from shop.services.console.watching import Watch

ENTRY = Entry("/timeline", "Timeline", "one story, step by step")


def routes() -> APIRouter:
    router = APIRouter()

    @router.get("/timeline")
    async def timeline(
        request: Request,
        viewer: Annotated[Viewer, Depends(viewing)],
        q: Annotated[str, Query(max_length=500)] = "",
        back: Annotated[str, Query(max_length=2000)] = "",
    ) -> Response:
        reading: Reading = request.app.reading
        text = q.strip()
        asked = await meaning(reading, text) if text else Meaning([])
        story = await _story(reading, request.app.watch, asked, _reached(reading, back))
        return page(
            request,
            "timeline.html",
            viewer=viewer,
            q=q,
            asked=asked,
            story=story,
            further=_further(text, story),
            address=lambda entity: f"/timeline?q={quote(f'{entity.topic}/{entity.key}')}",
        )

    return router


async def _story(
    reading: Reading, watch: Watch, asked: Meaning, reached: dict[str, int]
) -> Story | None:
    if asked.trace:
        return await stories.of_trace(reading, watch, asked.trace, reached)
    if asked.key_hash:
        return await stories.of_request(reading, watch, asked.key_hash)
    if len(asked.entities) == 1:
        return await stories.of_entity(reading, watch, Entity(*asked.entities[0]), reached)
    return None


def _reached(reading: Reading, text: str) -> dict[str, int]:
    """`orders:120,users:88`: how far an earlier look has searched."""
    found = {}
    for each in text.split(","):
        name, _, position = each.partition(":")
        if name in reading.services and position.isdecimal() and len(position) < 19:  # noqa: PLR2004
            found[name] = int(position)
    return found


def _further(text: str, story: Story | None) -> str:
    """The address that searches further back; empty if nothing is left to search."""
    if story is None or story.complete:
        return ""
    back = ",".join(f"{name}:{position}" for name, position in story.reached.items())
    return f"/timeline?{urlencode({'q': text, 'back': back})}"
