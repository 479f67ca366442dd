"""Checks: audits, rebuilds and restores that change nothing. Start one, watch it, read its verdict."""

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Request, Response
from fastapi.responses import RedirectResponse

from eventspine.recomputing import tables_of
from shop.services.console.access import Viewer
from shop.services.console.checks import Check, Checks, Kind, NotNow
from shop.services.console.layout import Entry, acting, form, page, rendered, viewing
from shop.services.console.reading import Reading
from shop.services.console.streams import BEAT, message, stream

ENTRY = Entry("/checks", "Checks", "audit, rebuild, restore")

Looks = Annotated[Viewer, Depends(viewing)]
Acts = Annotated[Viewer, Depends(acting)]

_DATABASE = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_POSITION = re.compile(r"[1-9][0-9]{0,17}")


def routes() -> APIRouter:
    router = APIRouter()

    @router.get("/checks")
    async def checks(request: Request, viewer: Looks) -> Response:
        return _overview(request, viewer)

    @router.post("/checks")
    async def start(request: Request, viewer: Acts) -> Response:
        given = {name: values[0] for name, values in (await form(request)).items()}
        checks: Checks = request.app.checks
        try:
            kind, about, words = _command(request.app.reading, given)
            check = checks.start(kind, about, words, viewer.name)
        except NotNow as error:
            return _overview(request, viewer, str(error))
        return RedirectResponse(f"/checks/{check.id}", 303)

    @router.get("/checks/{id_}")
    async def one(request: Request, viewer: Looks, id_: str) -> Response:
        return page(request, "check.html", viewer=viewer, check=_check(request, id_))

    @router.get("/checks/{id_}/stream")
    async def live(request: Request, viewer: Looks, id_: str) -> Response:
        return stream(request, _messages(request.app.checks, _check(request, id_), viewer))

    @router.post("/checks/{id_}/stop")
    async def stop(request: Request, viewer: Acts, id_: str) -> Response:
        del viewer
        request.app.checks.stop(_check(request, id_).id)
        return RedirectResponse(f"/checks/{id_}", 303)

    return router


def _overview(request: Request, viewer: Viewer, mistake: str = "") -> Response:
    checks: Checks = request.app.checks
    reading: Reading = request.app.reading
    return page(
        request,
        "checks.html",
        status=409 if mistake else 200,
        viewer=viewer,
        latest=checks.latest(),
        kept=checks.kept,
        services=list(reading.services),
        tables={
            name: [each.name for each in tables_of(service.projections)]
            for name, service in reading.services.items()
        },
        mistake=mistake,
    )


def _command(reading: Reading, given: dict[str, str]) -> tuple[Kind, str, list[str]]:
    """The words of the command. Each is from a list of ours or has a plain form. Raises `NotNow`."""
    kind, service = given.get("kind", ""), given.get("service", "")
    if kind == "audit":
        if service and service not in reading.services:
            raise NotNow(f"There is no service {service}.")
        return (
            "audit",
            service or "all services",
            ["audit", *([service] if service else []), "--json"],
        )
    if kind not in {"rebuild", "restore"}:
        raise NotNow("There is no such check.")
    if service not in reading.services:
        raise NotNow("Choose a service.")
    if kind == "rebuild":
        table = given.get("table", "")
        known = [each.name for each in tables_of(reading.services[service].projections)]
        if table and table not in known:
            raise NotNow(f"{service} has no table {table} that could be made anew.")
        words = ["rebuild", service, *([table] if table else []), "--dry-run"]
        return "rebuild", f"{service} {table}".strip(), words
    into, until = given.get("into", "").strip(), given.get("until", "").strip()
    if not _DATABASE.fullmatch(into):
        raise NotNow("Name an empty database for it: small letters, digits and underscores.")
    if into == service:
        raise NotNow(f"{into} is the service's own database: name another.")
    words = ["restore", service, "--into", into]
    if until:
        words += ["--until", _moment(until)]
    return "restore", f"{service} into {into}", words


def _moment(until: str) -> str:
    if _POSITION.fullmatch(until):
        return until
    try:
        time = datetime.fromisoformat(until.removesuffix(" UTC"))
    except ValueError:
        raise NotNow(f"{until} is neither a position nor a time like 2026-01-31 13:45.") from None
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).isoformat()


async def _messages(checks: Checks, check: Check, viewer: Viewer) -> AsyncIterator[str]:
    async for news in checks.looks(check):
        if news:
            yield message(rendered("check_part.html", check=check, viewer=viewer))
        else:
            yield BEAT


def _check(request: Request, id_: str) -> Check:
    found: Check | None = request.app.checks.get(id_)
    if found is None:
        raise HTTPException(404, "there is no such check; the console keeps the last ones only")
    return found
