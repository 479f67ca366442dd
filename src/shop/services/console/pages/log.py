"""Log: events as they come, with filters; one event; the events from a time on."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response

from eventspine.seeking import Place, offsets_at
from shop.services.console.access import Viewer
from shop.services.console.layout import Entry, page, rendered, viewing
from shop.services.console.reading import Reading
from shop.services.console.records import (
    Filter,
    Found,
    ends,
    event,
    following,
    newest,
    one,
    places_of,
    places_text,
)
from shop.services.console.streams import BEAT, message, stream
from shop.services.console.times import time_typed

ENTRY = Entry("/log", "Log", "events as they come")

_ON_A_PAGE = 100
_SHOWN_AT_ONCE = 100
"""Rows of one message. More would only flicker past."""

Text = Annotated[str, Query(max_length=200)]
Many = Annotated[str, Query(max_length=100_000)]


def wanted(
    topic: Text = "",
    type: Text = "",  # noqa: A002 - its name in the address
    key: Text = "",
    header: Text = "",
    text: Text = "",
) -> Filter:
    return Filter(topic, type.strip(), key.strip(), header.strip(), text.strip())


Wanted = Annotated[Filter, Depends(wanted)]
Looks = Annotated[Viewer, Depends(viewing)]


def routes() -> APIRouter:
    router = APIRouter()

    @router.get("/log")
    async def log(
        request: Request,
        viewer: Looks,
        chosen: Wanted,
        at: Text = "",
        before: Many = "",
        after: Many = "",
    ) -> Response:
        reading: Reading = request.app.reading
        time, mistake = time_typed(at)
        topics = [chosen.topic] if chosen.topic in reading.topics else list(reading.topics)
        now = await ends(reading.log, topics)
        forward = bool(after or time)
        if forward:
            start = places_of(after, topics) or await offsets_at(
                reading.log, now, time or datetime.now(UTC)
            )
            found = await following(reading.log, chosen, start, _ON_A_PAGE)
        else:
            start = {**now, **places_of(before, topics)} if before else now
            found = await newest(reading.log, chosen, start, _ON_A_PAGE)
        live = not forward and not before
        values: dict[str, Any] = {
            "chosen": chosen,
            "at": at,
            "mistake": mistake,
            "found": found,
            "forward": forward,
            "live": live,
            "topics": list(reading.topics),
            "types": _types(reading),
            "stream": f"/log/stream?{_query(chosen, since=places_text(now))}" if live else "",
            "further": _further(chosen, found, forward=forward, at=at),
            "newest": f"/log?{_query(chosen)}",
            "total": sum(now.values()),
        }
        return page(request, "log.html", viewer=viewer, **values)

    @router.get("/log/stream")
    async def live(request: Request, viewer: Looks, chosen: Wanted, since: Many = "") -> Response:
        del viewer
        # A browser that was away says what it was shown last.
        said = request.headers.get("last-event-id", "") or since
        places = places_of(said, list(request.app.reading.topics))
        return stream(request, _messages(request, chosen, places))

    @router.get("/log/{topic}/{partition}/{offset}")
    async def record(
        request: Request, viewer: Looks, topic: str, partition: int, offset: int
    ) -> Response:
        reading: Reading = request.app.reading
        if topic not in reading.topics or partition < 0 or not 0 <= offset < 2**63:
            raise HTTPException(404, f"there is no {topic}/{partition}@{offset}")
        found = await one(reading.log, topic, partition, offset)
        if found is None:
            raise HTTPException(404, f"the log has no record {topic}/{partition}@{offset}")
        part = request.headers.get("hx-request") == "true"
        template = "record_part.html" if part else "record.html"
        return page(request, template, viewer=viewer, each=found)

    return router


async def _messages(
    request: Request, chosen: Filter, since: dict[Place, int]
) -> AsyncIterator[str]:
    shown = dict(since)
    # Closed as soon as the browser leaves, so that the log is not read for nobody.
    async with aclosing(request.app.tail.news(since)) as coming:
        async for news in coming:
            if news is None:
                yield BEAT
                continue
            for record in news.records:
                shown[record.topic, record.partition] = record.offset + 1
            matching = [event(each) for each in news.records if chosen.matches(each)]
            skipped = news.skipped + max(0, len(matching) - _SHOWN_AT_ONCE)
            if matching or skipped or news.away:
                rows = rendered(
                    "log_rows.html",
                    events=matching[: -_SHOWN_AT_ONCE - 1 : -1],
                    skipped=skipped,
                    away=news.away,
                )
                yield f"id: {places_text(shown)}\n{message(rows)}"


def _types(reading: Reading) -> list[str]:
    return sorted({kind.type for name in reading.services for kind in reading.contracts(name)})


def _query(chosen: Filter, **more: str) -> str:
    return urlencode({name: value for name, value in {**vars(chosen), **more}.items() if value})


def _further(chosen: Filter, found: Found, *, forward: bool, at: str) -> str:
    """The address of the next look; empty if there is nothing beyond."""
    if not found.more:
        return ""
    places = places_text(found.places)
    more = {"after": places, "at": at} if forward else {"before": places}
    return f"/log?{_query(chosen, **more)}"
