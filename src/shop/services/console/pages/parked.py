"""Parked: what is stuck, why, and what waits behind it; retry or discard one, some, or all that match."""

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response
from fastapi.responses import RedirectResponse

from shop.services.console.access import Viewer
from shop.services.console.deeds import Deed, Deeds, Kind
from shop.services.console.layout import Entry, acting, form, page, rendered, viewing
from shop.services.console.reading import Reading
from shop.services.console.streams import message, stream
from shop.services.console.stuck import (
    MOST_BEHIND,
    ON_A_PAGE,
    Filter,
    Key,
    Stuck,
    consumer_of,
    find,
    key_of,
    records_of,
)

ENTRY = Entry("/parked", "Parked", "what is stuck, and why")

Text = Annotated[str, Query(max_length=200)]
Number = Annotated[int, Query(ge=0, le=10_000)]
Looks = Annotated[Viewer, Depends(viewing)]
Acts = Annotated[Viewer, Depends(acting)]

_MOST_BYTES = 1024 * 1024
"""Of a form: some thousand keys, each named."""


def chosen(service: Text = "", cause: Text = "", key: Text = "", text: Text = "") -> Filter:
    return Filter(service, cause, key.strip(), text.strip())


def routes() -> APIRouter:
    router = APIRouter()

    @router.get("/parked")
    async def parked(
        request: Request,
        viewer: Looks,
        wanted: Annotated[Filter, Depends(chosen)],
        page_: Annotated[int, Query(alias="page", ge=0, le=10_000)] = 0,
    ) -> Response:
        reading: Reading = request.app.reading
        deeds: Deeds = request.app.deeds
        found = await find(reading, wanted)
        first = page_ * ON_A_PAGE
        values: dict[str, Any] = {
            "chosen": wanted,
            "found": found,
            "shown": found.stuck[first : first + ON_A_PAGE],
            "total": len(found.stuck),
            "waiting": sum(each.behind for each in found.stuck),
            "first": first,
            "before": f"/parked?{wanted.query(page=page_ - 1)}" if page_ else "",
            "after": f"/parked?{wanted.query(page=page_ + 1)}"
            if first + ON_A_PAGE < len(found.stuck)
            else "",
            "services": list(reading.services),
            "most": MOST_BEHIND,
            "latest": deeds.latest()[:5],
        }
        return page(request, "parked.html", viewer=viewer, **values)

    @router.get("/parked/key/{text}")
    async def one(
        request: Request,
        viewer: Looks,
        text: str,
        page_: Annotated[int, Query(alias="page", ge=0, le=100_000)] = 0,
    ) -> Response:
        reading: Reading = request.app.reading
        of = _known(reading, text)
        records = await records_of(reading, of, skip=page_ * ON_A_PAGE, limit=ON_A_PAGE + 1)
        return page(
            request,
            "parked_key.html",
            viewer=viewer,
            of=of,
            records=records[:ON_A_PAGE],
            number=page_ * ON_A_PAGE,
            before=f"/parked/key/{text}?page={page_ - 1}" if page_ else "",
            after=f"/parked/key/{text}?page={page_ + 1}" if len(records) > ON_A_PAGE else "",
        )

    @router.post("/parked/confirm")
    async def confirm(request: Request, viewer: Acts) -> Response:
        given = await form(request, _MOST_BYTES)
        return await _ask(request, viewer, given)

    @router.post("/parked/do")
    async def do(request: Request, viewer: Acts) -> Response:
        given = await form(request, _MOST_BYTES)
        stuck, wanted, everything = await _meant(request.app.reading, given)
        confirmed = _one(given, "count")
        if not stuck or (everything and confirmed != str(len(stuck))):
            # Between the question and the answer, other keys came or went: nobody has agreed to those.
            return await _ask(request, viewer, given, changed=confirmed)
        deeds: Deeds = request.app.deeds
        deed = deeds.begin(
            _kind(given),
            [each.of for each in stuck],
            by=viewer.name,
            back=f"/parked?{wanted.query()}",
            accept_gaps=_one(given, "accept_gaps") == "on",
            only_first=_one(given, "only_first") == "on",
        )
        return RedirectResponse(f"/parked/deeds/{deed.id}", 303)

    @router.get("/parked/deeds/{id_}")
    async def deed(request: Request, viewer: Looks, id_: str) -> Response:
        return page(request, "deed.html", viewer=viewer, deed=_deed(request, id_))

    @router.get("/parked/deeds/{id_}/stream")
    async def live(request: Request, viewer: Looks, id_: str) -> Response:
        return stream(request, _messages(request.app.deeds, _deed(request, id_), viewer))

    @router.post("/parked/deeds/{id_}/stop")
    async def stop(request: Request, viewer: Acts, id_: str) -> Response:
        del viewer
        _deed(request, id_).asked_to_stop = True
        return RedirectResponse(f"/parked/deeds/{id_}", 303)

    @router.post("/parked/deeds/{id_}/undo")
    async def undo(request: Request, viewer: Acts, id_: str) -> Response:
        del viewer
        await request.app.deeds.undo(_deed(request, id_))
        return RedirectResponse(f"/parked/deeds/{id_}", 303)

    return router


async def _ask(
    request: Request, viewer: Viewer, given: dict[str, list[str]], *, changed: str = ""
) -> Response:
    """The question before a deed: how many keys and records it is about."""
    stuck, wanted, everything = await _meant(request.app.reading, given)
    return page(
        request,
        "parked_confirm.html",
        viewer=viewer,
        kind=_kind(given),
        stuck=stuck,
        everything=everything,
        chosen=wanted,
        records=sum(each.records for each in stuck),
        more=any(each.records > MOST_BEHIND for each in stuck),
        changed=changed,
        back=f"/parked?{wanted.query()}",
    )


async def _meant(reading: Reading, given: dict[str, list[str]]) -> tuple[list[Stuck], Filter, bool]:
    """The keys that a form is about: those that were ticked, or all that match its filter."""
    wanted = Filter(*(_one(given, name) for name in Filter._fields))
    if _one(given, "act").endswith("-all"):
        return (await find(reading, wanted)).stuck, wanted, True
    ticked = {key for text in given.get("id", []) if (key := key_of(text)) is not None}
    found = await find(reading, Filter())
    return [each for each in found.stuck if each.of in ticked], wanted, False


async def _messages(deeds: Deeds, deed: Deed, viewer: Viewer) -> AsyncIterator[str]:
    async for each in deeds.looks(deed):
        yield message(rendered("deed_part.html", deed=each, viewer=viewer))


def _deed(request: Request, id_: str) -> Deed:
    found: Deed | None = request.app.deeds.get(id_)
    if found is None:
        raise HTTPException(404, "the console keeps the last deeds only, until it is restarted")
    return found


def _known(reading: Reading, text: str) -> Key:
    found = key_of(text)
    if found is None or consumer_of(reading, found) is None:
        raise HTTPException(404, "there is no such key")
    return found


def _kind(given: dict[str, list[str]]) -> Kind:
    return "discard" if _one(given, "act").startswith("discard") else "retry"


def _one(given: dict[str, list[str]], name: str) -> str:
    return given.get(name, [""])[0]
