"""The process that answers the HTTP requests of one service, or shows the pages of one front."""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress
from functools import partial
from importlib.metadata import version
from time import monotonic
from types import FrameType
from typing import TYPE_CHECKING

import structlog
import uvicorn
from fastapi import APIRouter, FastAPI
from starlette.types import ASGIApp

from eventspine.backoff import Backoff
from eventspine.database import Database
from eventspine.interceptors import chained
from shop.platform.auth.rules import NoRule, Row, matrix
from shop.platform.event_log import database_address
from shop.platform.http.app import ServiceApp
from shop.platform.http.cors import Cors
from shop.platform.http.crowd import Crowd
from shop.platform.http.protocol import HttpProtocol
from shop.platform.interceptors import interceptors
from shop.platform.log_ids import noting
from shop.platform.problems import TemporarilyUnavailable
from shop.platform.processes import files, garbage
from shop.platform.processes.listening import bind
from shop.platform.processes.readiness import Readiness
from shop.platform.processes.ready import notify_ready
from shop.platform.processes.several import become_one_of, of_one
from shop.platform.roles import require_least
from shop.platform.service import Bounded, Endpoints, Front, Served, Service
from shop.platform.settings import TRANSACTION_WITHIN, NotConfigured, Settings
from shop.platform.telemetry.process import Telemetry

if TYPE_CHECKING:
    from shop.platform.auth.gate import Gate
    from shop.platform.telemetry.metrics import Metrics

_LOG = structlog.get_logger("shop.api")

_FRONTS_CONNECTIONS = 64
"""The most connections to databases that a front is expected to open."""
_GO_WITHIN = 0.5
"""Seconds for the last steps of a stop, which do not wait for anything."""


def make_app(service: Service, settings: Settings) -> ServiceApp:
    """The service's ASGI application. It connects to the database when it starts.

    It also starts while the database is unavailable. Requests then get a 503.
    """
    telemetry = Telemetry(settings, "api", service.name)
    chain = interceptors(settings.interceptors, "api", service.name, telemetry)
    database = Database(
        database_address(settings, service.name),
        size=1,
        transaction_within=TRANSACTION_WITHIN,
        steps=chained(chain.steps),
        fit=require_least if settings.env == "production" else None,
    )
    endpoints = service.endpoints(settings, database)
    check_rules(service, endpoints.router)
    gate = None
    if settings.auth.required:
        # It loads what verifies tokens: ten megabytes.
        from shop.platform.auth.gate import Gate  # noqa: PLC0415

        gate = Gate(settings.auth, database)
    if gate is not None and "signing_keys" not in service.tables().tables:
        raise NotConfigured(
            f"the service {service.name} has no copies of keys, so it can verify no token: add the four lines"
            " that shop.platform.auth.copies names, or set SHOP_AUTH__REQUIRED=false"
        )
    readiness = Readiness(database, service.source, settings.bounds())
    batchers = (*endpoints.batchers, readiness.checking)
    # One connection for each batch that may run at the same time, so that no batch waits for a connection.
    # With fewer, lists would delay orders and the readiness check.
    connections = sum(batcher.concurrency for batcher in batchers) + (gate is not None)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await database.open()
        await database.resize(connections)
        # If the database is unavailable, log that now, and not only at the first request.
        once = app.why_not_ready() if telemetry.metrics is None else readiness.look(app)
        looking = asyncio.create_task(once)
        async with telemetry.running(), nullcontext() if gate is None else gate.watching():
            yield
        looking.cancel()
        await _finish(batchers, database, by=app.finish_by)

    async def ready() -> Mapping[str, str]:
        if app.stopping:
            raise TemporarilyUnavailable("this process is about to stop")
        said = await readiness.ask()
        if gate is not None:
            gate.check_ready()
        return said

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
        choosers=telemetry.choosers(),
        observers=telemetry.observers(),
        gate=gate,
    )
    app.state.database_connections = connections
    app.state.metrics = telemetry.metrics
    if telemetry.metrics is not None:
        telemetry.metrics.add(readiness.samples)
        _show(telemetry.metrics, app, endpoints, database, gate)
    app.state.telemetry = telemetry
    return app


def _show(
    metrics: "Metrics",
    app: ServiceApp,
    endpoints: Endpoints,
    database: Database,
    gate: "Gate | None",
) -> None:
    from shop.platform.telemetry import parts  # noqa: PLC0415 - only where metrics are on

    metrics.add(partial(parts.of_unrouted, app))
    metrics.add(partial(parts.of_queues, endpoints.batchers))
    metrics.add(partial(parts.of_database, database))
    metrics.add(partial(parts.of_repeated_keys, database))
    metrics.add(partial(parts.of_counts, endpoints.counts))
    if gate is not None:
        metrics.add(partial(parts.of_gate, gate))


def check_rules(service: Service, router: APIRouter) -> list[Row]:
    """The service's matrix. Raises `NotConfigured` if a route has no rule."""
    try:
        return matrix(router.routes)
    except NoRule as error:
        raise NotConfigured(f"service {service.name}: {error}") from None


async def _finish(batchers: Sequence[Bounded], database: Database, *, by: float) -> None:
    """Finish accepted commands. At the time `by`, commands that are still running are cut off."""
    closing = [asyncio.create_task(batcher.close()) for batcher in batchers]
    _, unfinished = await asyncio.wait(closing, timeout=max(_GO_WITHIN, by - monotonic()))
    # From here on there is no connection for another attempt.
    await database.close()
    if unfinished:
        _LOG.error("api.batches_abandoned", batches=len(unfinished))
        database.cut()
        await asyncio.wait(unfinished, timeout=_GO_WITHIN)


def run_api(service: Service, settings: Settings, processes: int = 1) -> None:
    """Serve until SIGTERM or SIGINT, then finish accepted requests. Raises `PortTaken` and `TooFewFiles`.

    With several processes, each has these settings and limits for itself.
    """
    if processes > 1:
        # Nobody else may listen there. Between the processes the port is shared.
        for listener in bind(settings.host, settings.api(service.name).port):
            listener.close()
        settings = of_one(settings, become_one_of(processes))
    app = make_app(service, settings)
    connections = app.state.database_connections
    _run(app, settings, service.name, connections, shared=processes > 1)


def run_front(front: Front, settings: Settings) -> None:
    """As `run_api`, for pages over the other services."""
    _run(front.app(settings), settings, front.name, _FRONTS_CONNECTIONS)


def _run(
    app: Served, settings: Settings, name: str, database_connections: int, *, shared: bool = False
) -> None:
    bound = bind(settings.host, settings.api(name).port, shared=shared)
    held = files.connections(settings.max_connections, database_connections)
    if held < settings.max_connections:
        _LOG.warning(
            "api.connections_limited",
            connections=held,
            asked_for=settings.max_connections,
            files=files.allow(0),
        )
    if not settings.auth.required:
        _LOG.info("api.authentication_disabled", env=settings.env)
    garbage.settle()
    Server(app, settings, held).run(sockets=bound)


class OutOfFiles(Exception):
    """The process can open no more files."""


class Server(uvicorn.Server):
    """The server of an app, here and in tests. It holds at most `most` connections; the default comes from the
    settings.
    """

    def __init__(self, app: Served, settings: Settings, most: int | None = None) -> None:
        self._crowd = Crowd(settings.max_connections if most is None else most)
        served: ASGIApp = app if isinstance(app, ServiceApp) else noting(app)
        if settings.cors_origins:
            served = Cors(served, settings.cors_origins)
        super().__init__(
            uvicorn.Config(
                served,
                loop="uvloop",
                http=partial(HttpProtocol, self._crowd),  # type: ignore[arg-type]
                ws="none",
                lifespan="on",
                log_config=None,
                workers=1,  # otherwise uvicorn reads WEB_CONCURRENCY, and exits if it is not a number
                access_log=settings.access_log,
                server_header=False,
                proxy_headers=settings.access_log,  # only the access log uses them
                timeout_keep_alive=settings.keep_alive_s,
                timeout_graceful_shutdown=settings.finish_within(),
            )
        )
        self._app = app
        metrics: Metrics | None = getattr(getattr(app, "state", None), "metrics", None)
        if metrics is not None:
            from shop.platform.telemetry.parts import of_crowd  # noqa: PLC0415

            metrics.add(partial(of_crowd, self._crowd, self.server_state.connections))
        self._drain = settings.drain_ms / 1000
        self._hurry = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._files = Backoff(_LOG, "api")

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second, until the process is asked to stop."""
        if counter % 10 == 0:
            self._look_for_files()
        return await super().on_tick(counter)

    def _look_for_files(self) -> None:
        """Log when no file can be opened. The event loop then closes each new connection silently."""
        try:
            os.close(os.open(os.devnull, os.O_RDONLY))
        except OSError as error:
            reason = f"new connections are closed, because no file can be opened for them: {error.strerror}"
            self._files.pause(OutOfFiles(reason))
            self._crowd.close_some(self.server_state.connections)  # type: ignore[arg-type]
        else:
            self._files.over()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop: report that it is not ready, answer for a while longer, then finish accepted requests.

        A second signal ends the time in which new requests are still answered.
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
        """Send `Connection: close` with every later answer, so that clients' pools move to another API."""
        said = (b"connection", b"close")
        # Requests in progress hold a copy of the list; later requests get this change.
        self.server_state.default_headers.append(said)
        self.config.encoded_headers.append(said)
        await super().on_tick(0)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        if self.started:
            notify_ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's
        """A stop signal is no failure. uvicorn would raise the signal again after it has stopped."""
        if self.should_exit and self._drain and self._loop is not None:
            self._drain = 0
            self._loop.call_soon_threadsafe(self._hurry.set)
            return
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True
