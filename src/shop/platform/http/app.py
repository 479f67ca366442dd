"""The app a service is: FastAPI for the documents and the odd request, the fast routes in front.

Fast routes are looked up here, before FastAPI's middleware and routing: that alone is a third of
what a small request costs. Whatever is not a fast route, an unknown path, another method, `/docs`,
goes the ordinary way.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from math import inf
from typing import Any, NoReturn

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from eventspine.errors import SpineError
from eventspine.idempotency import Answer
from shop.platform.auth.gate import Gate
from shop.platform.auth.rules import SCHEMES, Rule, documentation, rule_of
from shop.platform.http.docs import add_docs
from shop.platform.http.fields import MAX_BIGINT
from shop.platform.http.interceptors import RouteInterceptor
from shop.platform.http.route import FastRoute, backoff_at, not_done, send_answer, send_problem
from shop.platform.problems import (
    MEDIA_TYPE,
    HeadTooLarge,
    InternalError,
    MalformedRequest,
    MethodNotAllowed,
    NotFound,
    OtherHttpError,
    Problem,
    ProblemDocument,
    TemporarilyUnavailable,
    UnknownOutcome,
)

Ready = Callable[[], Awaitable[None]]
"""Raises when the service can't do its work now: a `Problem`, or what the database says."""

_METHODS = "DELETE, GET, HEAD, OPTIONS, PATCH, POST"
"""What one path or another answers to."""

_DESCRIPTION = """
Errors are RFC 9457 problem details (`application/problem+json`), with a stable `type`.
Unknown fields are refused. An `ETag` is the version; send it back in `If-Match`.

Beside the problems listed with each operation, any request may be answered with:

""" + "\n".join(
    f"* {problem.status} `{problem.type_uri()}`: {problem.title()}"
    for problem in (
        MalformedRequest,
        NotFound,
        MethodNotAllowed,
        HeadTooLarge,
        InternalError,
        OtherHttpError,
    )
)


class ServiceApp(FastAPI):
    """See the module."""

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
        docs: bool = True,
        gate: Gate | None = None,
    ) -> None:
        """`gate` keeps the rules of the routes; without one nobody is asked for a token. `docs` is whether people and programs are told about it: `/docs`, `/openapi.json` and the like.
        `port` is only said there.
        """
        super().__init__(
            title=title,
            version=version,
            description=_DESCRIPTION,
            openapi_url="/openapi.json" if docs else None,
            docs_url=None,
            redoc_url=None,
            lifespan=lifespan,
            servers=_servers(port),
            generate_unique_id_function=_operation_id,
            exception_handlers={HTTPException: _http_exception, Exception: _exception},
            # One address for one thing: no redirect from /users/ to /users.
            redirect_slashes=False,
        )
        self.stopping = False
        """Set when the process has been asked to stop: from then on it is not ready."""
        self.finish_by = inf
        """By `time.monotonic()`: when what it accepted has to be over, as the process has to end."""
        self.include_router(router)
        self._rules = {} if gate is None else _rules(router)
        self._ready = ready
        self._backoff = backoff_at("GET /health/ready")
        self.include_router(_health(self))
        if docs:
            add_docs(self)
        self._fast: dict[tuple[str, str, int], list[FastRoute]] = {}
        for route in router.routes:
            if isinstance(route, FastRoute):
                route.request_timeout = request_timeout
                route.interceptors = interceptors
                rule = rule_of(route)
                if gate is not None and rule is not None:
                    route.guard = gate.guard(rule)
                for method in route.answers_to:
                    key = _key(method, route.path_format)
                    self._fast.setdefault(key, []).append(route)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._answer(scope, receive, send)
        except asyncio.CancelledError:
            # Only a server that must end, and can't wait any longer, cancels a request.
            if scope["type"] != "http":
                raise
            await send_problem(send, _given_up(scope["method"]))

    def add_middleware(self, *_: object, **__: object) -> NoReturn:
        """Raises `TypeError`: fast routes are answered in front of all middleware."""
        raise TypeError("a middleware would not see fast routes: add a route interceptor instead")

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = scope["path"]
            for route in self._fast.get(_key(scope["method"], path), ()):
                match = route.path_regex.fullmatch(path)
                if match is not None:
                    await route.answer(scope, receive, send, match.groupdict())
                    return
            if path == "*" and scope["method"] == "OPTIONS":
                await send_answer(send, Answer(204, (("allow", _METHODS),), b""))
                return
            if path.endswith("\n"):
                # Starlette's patterns end with `$`, which a line feed may follow.
                await send_problem(send, NotFound())
                return
        await super().__call__(scope, receive, send)

    async def why_not_ready(self) -> Problem | None:
        """What clients are told if it can't do its work now. The log is told more."""
        try:
            await self._ready()
        except Problem as problem:
            return problem
        except SpineError as error:
            return not_done(error, self._backoff)
        self._backoff.over()
        return None

    def methods(self, request: Request) -> list[str]:
        """What the fast routes of this path answer to."""
        path = request.scope["path"]
        return sorted(
            method
            for (method, *_), routes in self._fast.items()
            for route in routes
            if route.path_regex.fullmatch(path)
        )

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            document = super().openapi()
            schemas = document.setdefault("components", {}).setdefault("schemas", {})
            problem = ProblemDocument.model_json_schema(
                ref_template="#/components/schemas/{model}", mode="serialization"
            )
            schemas.update(problem.pop("$defs", {}))
            schemas["Problem"] = problem
            # FastAPI's own error format, which no route of ours answers with.
            schemas.pop("HTTPValidationError", None)
            schemas.pop("ValidationError", None)
            if self._rules:
                _say_who_may(document, self._rules)
            _make_exact(document)
        return super().openapi()


def _servers(port: int) -> list[dict[str, Any]]:
    """The first is what the documentation page sends its requests to."""
    return [
        {"url": "/", "description": "the server that this document was read from"},
        {
            "url": "http://localhost:{port}",
            "description": "a shop on this machine",
            "variables": {"port": {"default": str(port)}},
        },
    ]


def _rules(router: APIRouter) -> dict[tuple[str, str], Rule]:
    """By path and method. Raises `TypeError` for a route that the gate would not guard."""
    found: dict[tuple[str, str], Rule] = {}
    for route in router.routes:
        rule = rule_of(route)
        if isinstance(route, APIRoute) and rule is not None:
            if not (rule.public or isinstance(route, FastRoute)):
                raise TypeError(f"{route.path} is guarded only as a FastRoute, or is public")
            found |= {(route.path_format, method.lower()): rule for method in route.methods or ()}
    return found


def _say_who_may(document: dict[str, Any], rules: Mapping[tuple[str, str], Rule]) -> None:
    document["components"]["securitySchemes"] = SCHEMES
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if rule := rules.get((path, method)):
                said = documentation(rule)
                operation.setdefault("responses", {}).update(said.pop("responses", {}))
                operation.update(said)


def _operation_id(route: APIRoute) -> str:
    """The function's name. Generated clients call their functions so: to rename one breaks them."""
    return route.name


def _make_exact(document: Any) -> None:
    """Say what FastAPI's document can't: it holds every limit as a float, which for the largest
    bigint is one too many, and it lets parameters be null, which has no spelling in a URL.
    """
    if isinstance(document, list):
        for part in document:
            _make_exact(part)
    elif isinstance(document, dict):
        for limit in {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"} & set(document):
            document[limit] = min(int(document[limit]), MAX_BIGINT)
        if "in" in document and "schema" in document:
            schema = document["schema"]
            match schema.get("anyOf"):
                case [value, {"type": "null"}]:
                    del schema["anyOf"]
                    schema.update(value)
        for part in document.values():
            _make_exact(part)


def _given_up(method: str) -> Problem:
    if method in {"GET", "HEAD"}:
        return TemporarilyUnavailable("this process is about to stop")
    # What had been begun goes on, and may yet be committed.
    return UnknownOutcome("this process had to stop. Look before you send it again.")


def _key(method: str, path: str) -> tuple[str, str, int]:
    """Few routes share a method, a first segment and a depth; the path's pattern decides."""
    return (method, path[1:].partition("/")[0], path.count("/"))


def _health(app: ServiceApp) -> APIRouter:
    router = APIRouter(prefix="/health", include_in_schema=False)

    @router.api_route("/live", methods=["GET", "HEAD"])
    async def live() -> dict[str, str]:
        """The process answers."""
        return {"status": "alive"}

    @router.api_route("/ready", methods=["GET", "HEAD"])
    async def is_ready() -> Response:
        """The process can do its work: send it requests."""
        if problem := await app.why_not_ready():
            return _rendered(problem)
        return Response(b'{"status":"ready"}', media_type="application/json")

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
        # Starlette names those of one route, in any order; a path may have several.
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
