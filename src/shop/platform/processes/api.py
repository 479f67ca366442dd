"""The process that answers HTTP for one service."""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress
from functools import partial
from importlib.metadata import version
from time import monotonic
from types import FrameType

import structlog
import uvicorn
from fastapi import APIRouter, FastAPI

from eventspine.backoff import Backoff
from eventspine.batching import Batcher
from eventspine.database import Database
from eventspine.interceptors import Steps
from shop.platform.auth.gate import Gate
from shop.platform.auth.rules import NoRule, Row, matrix
from shop.platform.event_log import database_address
from shop.platform.http.app import ServiceApp
from shop.platform.http.cors import Cors
from shop.platform.http.crowd import Crowd
from shop.platform.http.protocol import HttpProtocol
from shop.platform.interceptors import interceptors
from shop.platform.problems import TemporarilyUnavailable
from shop.platform.processes import files, garbage
from shop.platform.processes.listening import bind
from shop.platform.processes.ready import notify_ready
from shop.platform.roles import require_least
from shop.platform.service import Bounded, Service
from shop.platform.settings import TRANSACTION_WITHIN, NotConfigured, Settings

_LOG = structlog.get_logger("shop.api")

_GO_WITHIN = 0.5
"""Seconds that it takes to end what has nothing to wait for."""


def make_app(service: Service, settings: Settings) -> ServiceApp:
    """The service's ASGI application. It connects when it starts, and starts without a database:
    what can't be answered then is a 503, until it can.
    """
    chain = interceptors(settings.interceptors, "api", service.name)
    database = Database(
        database_address(settings, service.name),
        size=1,
        transaction_within=TRANSACTION_WITHIN,
        steps=Steps(chain.steps),
        fit=require_least if settings.env == "production" else None,
    )
    endpoints = service.endpoints(settings, database)
    check_rules(service, endpoints.router)
    gate = Gate(settings.auth, database) if settings.auth.required else None
    if gate is not None and "signing_keys" not in service.tables().tables:
        raise NotConfigured(
            f"the service {service.name} has no copies of keys, so it can verify no token: add the four lines"
            " that shop.platform.auth.copies names, or set SHOP_AUTH__REQUIRED=false"
        )
    # However many ask at once, whether it is ready is one question.
    checking: Batcher[None, None] = Batcher(partial(_answers, database), **settings.bounds())
    batchers = (*endpoints.batchers, checking)
    # A connection for each batch that may be under way, so that none ever waits for another's: were there
    # fewer, lists would keep orders and the readiness check waiting.
    connections = sum(batcher.concurrency for batcher in batchers) + (gate is not None)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await database.open()
        await database.resize(connections)
        # If the database is unavailable, the log says so at once, and not only at the first request.
        looking = asyncio.create_task(app.why_not_ready())
        async with nullcontext() if gate is None else gate.watching():
            yield
        looking.cancel()
        await _finish(batchers, database, by=app.finish_by)

    async def ready() -> None:
        if app.stopping:
            raise TemporarilyUnavailable("this process is about to stop")
        await checking.submit(None)
        if gate is not None:
            gate.check_ready()

    app = ServiceApp(
        title=service.title,
        version=version("eventshop"),
        router=endpoints.router,
        lifespan=lifespan,
        ready=ready,
        port=settings.service(service.name).port,
        docs=settings.serves_docs,
        request_timeout=settings.request_timeout_ms / 1000,
        interceptors=chain.routes,
        gate=gate,
    )
    app.state.database_connections = connections
    return app


def check_rules(service: Service, router: APIRouter) -> list[Row]:
    """The service's matrix. Raises `NotConfigured` if a route has no rule."""
    try:
        return matrix(router.routes)
    except NoRule as error:
        raise NotConfigured(f"service {service.name}: {error}") from None


async def _finish(batchers: Sequence[Bounded], database: Database, *, by: float) -> None:
    """Whatever was accepted; by then, what is still under way is given up."""
    closing = [asyncio.create_task(batcher.close()) for batcher in batchers]
    _, unfinished = await asyncio.wait(closing, timeout=max(_GO_WITHIN, by - monotonic()))
    # From here on no connection is to be had, for a second try.
    await database.close()
    if unfinished:
        _LOG.error("api.batches_abandoned", batches=len(unfinished))
        database.cut()
        await asyncio.wait(unfinished, timeout=_GO_WITHIN)


async def _answers(database: Database, asked: Sequence[None]) -> Sequence[None]:
    await database.fetch("SELECT 1")
    return asked


def run_api(service: Service, settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; then finish what was accepted. Raises `PortTaken`, `TooFewFiles`."""
    app = make_app(service, settings)
    bound = bind(settings.host, settings.service(service.name).port)
    held = files.connections(settings.max_connections, app.state.database_connections)
    if held < settings.max_connections:
        _LOG.warning(
            "api.connections_limited",
            connections=held,
            asked_for=settings.max_connections,
            files=files.allow(0),
        )
    garbage.settle()
    Server(app, settings, held).run(sockets=bound)


class OutOfFiles(Exception):
    """The system lets us open no more."""


class Server(uvicorn.Server):
    """How an app is served, here and in tests. It holds `most` connections, or as many as are set."""

    def __init__(self, app: ServiceApp, settings: Settings, most: int | None = None) -> None:
        self._crowd = Crowd(settings.max_connections if most is None else most)
        super().__init__(
            uvicorn.Config(
                Cors(app, settings.cors_origins) if settings.cors_origins else app,
                loop="uvloop",
                http=partial(HttpProtocol, self._crowd),  # type: ignore[arg-type]
                ws="none",
                lifespan="on",
                log_config=None,
                workers=1,  # or uvicorn reads WEB_CONCURRENCY, and ends if that is no number
                access_log=settings.access_log,
                server_header=False,
                proxy_headers=settings.access_log,  # nothing else looks at them
                timeout_keep_alive=settings.keep_alive_s,
                timeout_graceful_shutdown=settings.finish_within(),
            )
        )
        self._app = app
        self._drain = settings.drain_ms / 1000
        self._hurry = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._files = Backoff(_LOG, "api")

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second, until it is asked to stop."""
        if counter % 10 == 0:
            self._look_for_files()
        return await super().on_tick(counter)

    def _look_for_files(self) -> None:
        """Where none is left, the event loop closes each new connection without a word in the log."""
        try:
            os.close(os.open(os.devnull, os.O_RDONLY))
        except OSError as error:
            reason = f"clients are cut off, since no file can be opened for them: {error.strerror}"
            self._files.pause(OutOfFiles(reason))
            self._crowd.close_some(self.server_state.connections)  # type: ignore[arg-type]
        else:
            self._files.over()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Asked to stop: not ready any more, still answering; then finish what was accepted.

        Asked again, it answers no longer than it takes to finish that.
        """
        self._app.stopping = True
        await self._say_that_connections_close()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._drain):
                await self._hurry.wait()
        self._drain = 0
        self._app.finish_by = monotonic() + (self.config.timeout_graceful_shutdown or 0)
        await super().shutdown(sockets)

    async def _say_that_connections_close(self) -> None:
        """With every answer from now on, so that pools send their next request to another API."""
        said = (b"connection", b"close")
        # What is being answered holds the list as it was; what is asked next gets a new one.
        self.server_state.default_headers.append(said)
        self.config.encoded_headers.append(said)
        await super().on_tick(0)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        if self.started:
            notify_ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's
        """To be asked to stop is no failure: uvicorn would end as if killed, after it has stopped."""
        if self.should_exit and self._drain and self._loop is not None:
            self._drain = 0
            self._loop.call_soon_threadsafe(self._hurry.set)
            return
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True
