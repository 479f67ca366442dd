"""Find: orders, users and what else services keep, by their columns; one open at a time, with its history."""

from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response
from fastapi.responses import RedirectResponse

from shop.services.console.access import Viewer
from shop.services.console.finding import Asked, Entities, Found, entities, look, one
from shop.services.console.layout import Entry, page, viewing
from shop.services.console.reading import Reading
from shop.services.console.times import time_typed

ENTRY = Entry("/find", "Find", "orders, users, and the rest")

_LONGEST = 200
_NEWEST = 2**63 - 1
Text = Annotated[str, Query(max_length=_LONGEST)]
Key = Annotated[int, Query(ge=0, lt=2**63)]
Looks = Annotated[Viewer, Depends(viewing)]


def routes() -> APIRouter:
    router = APIRouter()

    @router.get("/find")
    async def first(request: Request, viewer: Looks) -> Response:
        del viewer
        known = entities(request.app.reading)
        chosen = "orders" if "orders" in known else next(iter(known), "")
        return RedirectResponse(f"/find/{chosen}" if chosen else "/", 303)

    @router.get("/find/{name}")
    async def find(
        request: Request,
        viewer: Looks,
        name: str,
        since: Text = "",
        until: Text = "",
        below: Key = _NEWEST,
        opened: Annotated[int | None, Query(alias="open", ge=0, lt=2**63)] = None,
    ) -> Response:
        reading: Reading = request.app.reading
        of = _known(reading, name)
        given = {
            each.name: text
            for each in of.fields
            if each.kind != "time"
            and (
                text := request.query_params.get(each.name, "").replace("\0", "").strip()[:_LONGEST]
            )
        }
        since_time, wrong_since = time_typed(since)
        until_time, wrong_until = time_typed(until)
        mistakes = [each for each in (wrong_since, wrong_until) if each]
        found = Found([], None, None, mistakes)
        if not mistakes:
            found = await look(reading, of, Asked(given, since_time, until_time, below))
        filters = {
            **given,
            **({"since": since} if since else {}),
            **({"until": until} if until else {}),
        }
        values: dict[str, Any] = {
            "of": of,
            "all": list(entities(reading)),
            "found": found,
            "given": given,
            "since": since,
            "until": until,
            "opened": opened,
            "row": None if opened is None else await one(reading, of, opened),
            "links": _links(reading),
            "related": _related(reading, of),
            "address": lambda **more: f"/find/{name}?{urlencode({**filters, **more})}",
            "below": below,
            "newest": below == _NEWEST,
        }
        return page(request, "find.html", viewer=viewer, **values)

    return router


def _known(reading: Reading, name: str) -> Entities:
    found = entities(reading).get(name)
    if found is None:
        raise HTTPException(404, f"no service keeps {name}")
    return found


def _links(reading: Reading) -> dict[str, str]:
    """The columns that hold the key of something else, and the name of that: `user_id`, `users`."""
    return {f"{each.one}_id": each.name for each in entities(reading).values()}


def _related(reading: Reading, of: Entities) -> list[str]:
    """What else has a column with the key of these."""
    column = f"{of.one}_id"
    return [each.name for each in entities(reading).values() if column in each.columns]
