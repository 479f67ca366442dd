"""The ASGI app of a service: fast routes, with FastAPI behind them for documents and other requests.

Fast routes are looked up here, before FastAPI's middleware and routing, which would cost a third of a small
request. All other requests, such as unknown paths, other methods and `/docs`, go through FastAPI.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, NoReturn

from fastapi import APIRouter, FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope, Send

from eventspine.answers import Answer
from eventspine.errors import SpineError
from shop.platform.auth.rules import rule_of
from shop.platform.http.context import HEADERS, headers_of
from shop.platform.http.docs import add_docs
from shop.platform.http.interceptors import (
    Choose,
    Exchange,
    Observe,
    Proceed,
    RouteInterceptor,
)
from shop.platform.http.openapi import DESCRIPTION, complete, operation_id, rules, servers
from shop.platform.http.route import FastRoute, backoff_at, not_done, send_answer, send_problem
from shop.platform.log_ids import note_request
from shop.platform.problems import (
    MEDIA_TYPE,
    InternalError,
    MethodNotAllowed,
    NotFound,
    OtherHttpError,
    Problem,
    TemporarilyUnavailable,
    UnknownOutcome,
)

if TYPE_CHECKING:
    from shop.platform.auth.gate import Gate

Ready = Callable[[], Awaitable[Mapping[str, str] | None]]
"""Raises if the service can't work now: a `Problem`, or the database's error. Returns what else is to be said."""

_METHODS = "DELETE, GET, HEAD, OPTIONS, PATCH, POST"
"""All methods that any path supports."""


class ServiceApp(FastAPI):
    """A service's app, as the module describes it."""

    def __init__(
        self,
        *,
        title: str,
        version: str,
        router: APIRouter,
        lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]],
        ready: Ready,
        port: int,
        request_timeout: float = inf,
        interceptors: Sequence[RouteInterceptor] = (),
        choosers: Sequence[Choose] = (),
        observers: Sequence[Observe] = (),
        docs: bool = True,
        gate: "Gate | None" = None,
    ) -> None:
        """`gate` enforces the rules of the routes; without it, no token is required. `docs` switches the
        documentation on: `/docs`, `/redoc` and `/openapi.json`. Only they use `port`.
        """
        super().__init__(
            title=title,
            version=version,
            description=DESCRIPTION,
            openapi_url="/openapi.json" if docs else None,
            docs_url=None,
            redoc_url=None,
            lifespan=lifespan,
            servers=servers(port),
            generate_unique_id_function=operation_id,
            exception_handlers={HTTPException: _http_exception, Exception: _exception},
            # Each resource has one address, so /users/ does not redirect to /users.
            redirect_slashes=False,
        )
        self.stopping = False
        """Whether the process has been asked to stop. Then it is not ready any more."""
        self.unrouted: dict[int, int] = {}
        """How many requests no fast route answered, by status."""
        self.finish_by = inf
        """The deadline of accepted requests after a stop, by `time.monotonic()`."""
        self.include_router(router)
        self._rules = {} if gate is None else rules(router)
        self._choosers = choosers
        self._ready = ready
        self._said: Mapping[str, str] = {}
        self._backoff = backoff_at("GET /health/ready")
        self.include_router(_health(self))
        if docs:
            add_docs(self)
        self._fast: dict[tuple[str, str, int], list[FastRoute]] = {}
        for route in router.routes:
            if isinstance(route, FastRoute):
                route.request_timeout = request_timeout
                route.interceptors = interceptors
                route.choosers = choosers
                route.observers = observers
                rule = rule_of(route)
                if gate is not None and rule is not None:
                    route.guard = gate.guard(rule)
                for method in route.answers_to:
                    key = _key(method, route.path_format)
                    self._fast.setdefault(key, []).append(route)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if scope["type"] == "http":
                note_request(scope)
                path = scope["path"]
                for route in self._fast.get(_key(scope["method"], path), ()):
                    match = route.path_regex.fullmatch(path)
                    if match is not None:
                        await route.answer(scope, receive, send, match.groupdict())
                        return
            await self._answer_other(scope, receive, send)
        except asyncio.CancelledError:
            # Only a server that stops, and whose deadline is over, cancels a request.
            if scope["type"] != "http":
                raise
            await send_problem(send, _given_up(scope["method"]))

    def add_middleware(self, *_: object, **__: object) -> NoReturn:
        """Raises `TypeError`, because fast routes are answered before any middleware runs."""
        raise TypeError("a middleware would not see fast routes: add a route interceptor instead")

    async def _answer_other(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer what no fast route answers."""
        if scope["type"] == "http":
            path = scope["path"]
            if path == "*" and scope["method"] == "OPTIONS":
                await send_answer(self._counting(send), Answer(204, (("allow", _METHODS),), b""))
                return
            if path.endswith("\n"):
                # Starlette's patterns end with `$`, which also matches before a final line feed.
                await send_problem(self._counting(send), NotFound())
                return
            send = self._counting(send)
            scope[HEADERS] = headers_of(scope["headers"])
            chosen = [one for choose in self._choosers if (one := choose(scope)) is not None]
            if chosen:
                await self._intercepted(chosen, scope, receive, send)
                return
        await super().__call__(scope, receive, send)

    async def _intercepted(
        self, interceptors: list[RouteInterceptor], scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Answer a request that no fast route answers."""
        exchange = Exchange(scope, "")
        status = 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        async def answer() -> Answer:
            try:
                await super(ServiceApp, self).__call__(scope, receive, watched)
            finally:
                exchange.route = getattr(scope.get("route"), "path_format", "")
            return Answer(status, (), b"")

        proceed: Proceed = answer
        for interceptor in reversed(interceptors):
            proceed = partial(interceptor, exchange, proceed)
        await proceed()

    def _counting(self, send: Send) -> Send:
        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start":
                status = message["status"]
                self.unrouted[status] = self.unrouted.get(status, 0) + 1
            await send(message)

        return counting

    @property
    def says(self) -> Mapping[str, str]:
        """What the last readiness check had to say besides."""
        return self._said

    async def why_not_ready(self) -> Problem | None:
        """The problem for clients if the service can't work now. The log gets more details."""
        try:
            self._said = await self._ready() or {}
        except Problem as problem:
            return problem
        except SpineError as error:
            return not_done(error, self._backoff)
        self._backoff.over()
        return None

    def methods(self, request: Request) -> list[str]:
        """The methods of the fast routes of this path."""
        path = request.scope["path"]
        return sorted(
            method
            for (method, *_), routes in self._fast.items()
            for route in routes
            if route.path_regex.fullmatch(path)
        )

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            complete(super().openapi(), self._rules)
        return super().openapi()


def _given_up(method: str) -> Problem:
    if method in {"GET", "HEAD"}:
        return TemporarilyUnavailable("this process is about to stop")
    # The work has already started, and may still be committed.
    return UnknownOutcome("this process had to stop. Check before you send it again.")


def _key(method: str, path: str) -> tuple[str, str, int]:
    """The key of the route table: method, first segment and depth. Few routes share one. The path's
    pattern then decides.
    """
    return (method, path[1:].partition("/")[0], path.count("/"))


def _health(app: ServiceApp) -> APIRouter:
    router = APIRouter(prefix="/health", include_in_schema=False)

    @router.api_route("/live", methods=["GET", "HEAD"])
    async def live() -> dict[str, str]:
        """The process answers."""
        return {"status": "alive"}

    @router.api_route("/ready", methods=["GET", "HEAD"])
    async def is_ready() -> Response:
        """The process can work, so it can be sent requests."""
        if problem := await app.why_not_ready():
            return _rendered(problem)
        body = json.dumps({"status": "ready", **app.says}, separators=(",", ":"))
        return Response(body, media_type="application/json")

    return router


async def _http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    problem: Problem
    match error.status_code:
        case 404:
            problem = NotFound()
        case 405:
            problem = MethodNotAllowed()
        case status:
            problem = OtherHttpError(status, str(error.detail))
    response = _rendered(problem)
    response.headers.update(error.headers or {})
    if isinstance(problem, MethodNotAllowed):
        # Starlette names the methods of one route only, in any order. A path may have several routes.
        of_one = sorted(response.headers["allow"].split(", "))
        allowed = ", ".join(request.app.methods(request) or of_one)
        if request.method == "OPTIONS":
            return Response(status_code=204, headers={"allow": allowed})
        response.headers["allow"] = allowed
    return response


async def _exception(_: Request, __: Exception) -> Response:
    return _rendered(InternalError())


def _rendered(problem: Problem) -> Response:
    headers = {name.decode(): value.decode() for name, value in problem.headers()}
    return Response(problem.body(), problem.status, headers, MEDIA_TYPE)
