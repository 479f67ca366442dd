"""The console as an ASGI application: its pages, its files, its health, and what guards every request."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from math import inf
from urllib.parse import urlsplit

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse, RedirectResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope, Send

from eventspine.errors import SpineError
from eventspine.log import LogUnavailable
from shop.platform.problems import Problem
from shop.platform.settings import Settings
from shop.platform.telemetry.process import Telemetry
from shop.services.console.access import Access, NotAllowed, NotLoggedIn
from shop.services.console.checks import Checks
from shop.services.console.deeds import Deeds
from shop.services.console.layout import files, page
from shop.services.console.reading import Reading
from shop.services.console.settings import ConsoleSettings
from shop.services.console.tailing import Tail
from shop.services.console.watching import Watch

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})

_HEADERS = {
    # Everything comes from here, and nothing is inline, so a stored text that looks like HTML can do nothing.
    "content-security-policy": "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self';"
    " frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}


class Site(FastAPI):
    """The pages. `routers` are those of the pages; each asks `access` who looks."""

    def __init__(
        self,
        settings: Settings,
        reading: Reading,
        access: Access,
        watch: Watch,
        routers: Sequence[APIRouter],
    ) -> None:
        super().__init__(
            title="Console",
            openapi_url=None,
            docs_url=None,
            redoc_url=None,
            lifespan=self._life,
            redirect_slashes=False,
            exception_handlers={
                NotLoggedIn: _to_login,
                NotAllowed: _not_allowed,
                Problem: _problem,
                SpineError: _away,
                LogUnavailable: _away,
                RequestValidationError: _bad_request,
                HTTPException: _http,
            },
        )
        self.stopping = False
        self.finish_by = inf
        self.reading = reading
        self.access = access
        self.watch = watch
        self.deeds = Deeds(reading)
        self.checks = Checks()
        self.tail = Tail(reading.log, list(reading.topics))
        self._shown = Telemetry(settings, "api", "console")
        reading.tracing = self._shown.traces
        self._hosts = {
            each.strip().lower() for each in settings.section(ConsoleSettings).hosts.split(",")
        }
        self.include_router(_health(self))
        self.include_router(files())
        for router in routers:
            self.include_router(router)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("cache-control", "no-store")
            await send(message)

        refused = self._refusal(scope)
        if refused is not None:
            await refused(scope, receive, with_headers)
            return
        try:
            await super().__call__(scope, receive, with_headers)
        except asyncio.CancelledError:
            # Only a server that stops cancels a request: a stream that is still open ends with it.
            if not self.stopping:
                raise

    def _refusal(self, scope: Scope) -> Response | None:
        """Of a request that another site has a browser send.

        A name of another site may lead to this address (DNS rebinding), so the Host must be one of ours. What is
        not safe must come from our own pages: browsers say so in `Sec-Fetch-Site`, and older ones in `Origin`.
        """
        headers = Headers(scope=scope)
        if scope["path"].startswith("/health/"):
            return None  # probes know addresses, not names, and learn nothing here
        host = headers.get("host", "").lower()
        name = urlsplit(f"//{host}").netloc.rpartition(":")[0] if _has_port(host) else host
        if name not in self._hosts:
            return PlainTextResponse(
                f"This console is not reached as {name!r}: SHOP_CONSOLE__HOSTS lists its names.\n",
                421,
            )
        if scope["method"] in SAFE:
            return None
        site = headers.get("sec-fetch-site")
        origin = headers.get("origin", "")
        same = site == "same-origin" if site else urlsplit(origin).netloc.lower() == host != ""
        if not same:
            return PlainTextResponse(
                "This request does not come from a page of the console: open the page, and try again there.\n",
                403,
            )
        return None

    @asynccontextmanager
    async def _life(self, _: FastAPI) -> AsyncIterator[None]:
        await self.reading.open()
        async with self._shown.running(), self.access.watching(), self.watch.watching():
            async with self.deeds.working(), self.checks.working():
                yield
        await self.tail.close()
        await self.reading.close()


def _has_port(host: str) -> bool:
    return host.rpartition(":")[2].isdecimal() and not host.endswith("]")


def _health(site: Site) -> APIRouter:
    router = APIRouter(prefix="/health")

    @router.api_route("/live", methods=["GET", "HEAD"])
    async def live() -> dict[str, str]:
        """The process answers."""
        return {"status": "alive"}

    @router.api_route("/ready", methods=["GET", "HEAD"])
    async def ready() -> Response:
        """It is ready even if a database is away, because showing that is its task; not if all are."""
        if site.stopping:
            return PlainTextResponse("this process is about to stop", 503)
        try:
            await site.reading.check()
        except SpineError as error:
            return PlainTextResponse(str(error), 503)
        return PlainTextResponse("ready")

    return router


async def _to_login(request: Request, _: Exception) -> Response:
    if request.headers.get("hx-request"):
        # A redirect would put the login page into a part of the page.
        return Response(status_code=401, headers={"hx-redirect": "/login"})
    return RedirectResponse("/login", 303)


async def _not_allowed(request: Request, error: Exception) -> Response:
    return page(request, "said.html", status=403, title="Not allowed", said=str(error))


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return page(request, "said.html", status=error.status, title=error.title(), said=str(error))


async def _away(request: Request, error: Exception) -> Response:
    said = " ".join(str(error).split())
    return page(request, "said.html", status=503, title="Something is away", said=said)


async def _bad_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"][1:])
    said = f"{where}: {first['msg']}"
    return page(request, "said.html", status=422, title="That can't be read", said=said)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    title = "There is no such page" if error.status_code == 404 else "That did not work"  # noqa: PLR2004
    said = str(error.detail)
    return page(request, "said.html", status=error.status_code, title=title, said=said)
