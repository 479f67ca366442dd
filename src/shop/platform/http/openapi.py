"""The OpenAPI document of a service: what FastAPI writes, completed and corrected."""

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter
from fastapi.routing import APIRoute

from shop.platform.auth.rules import SCHEMES, Rule, documentation, rule_of
from shop.platform.http.fields import MAX_BIGINT
from shop.platform.http.route import FastRoute
from shop.platform.problems import (
    HeadTooLarge,
    InternalError,
    MalformedRequest,
    MethodNotAllowed,
    NotFound,
    OtherHttpError,
    ProblemDocument,
)

DESCRIPTION = """
Errors are RFC 9457 problem details (`application/problem+json`), with a stable `type`.
Unknown fields are refused. An `ETag` is the version; send it back in `If-Match`.

In addition to the problems of each operation, any request may be answered with:

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


def complete(document: dict[str, Any], rules: Mapping[tuple[str, str], Rule]) -> None:
    """Add problems and what the rules say, and correct the rest."""
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    problem = ProblemDocument.model_json_schema(
        ref_template="#/components/schemas/{model}", mode="serialization"
    )
    schemas.update(problem.pop("$defs", {}))
    schemas["Problem"] = problem
    # FastAPI's own error format, which no route here uses.
    schemas.pop("HTTPValidationError", None)
    schemas.pop("ValidationError", None)
    if rules:
        _say_who_may(document, rules)
    _make_exact(document)


def servers(port: int) -> list[dict[str, Any]]:
    """The OpenAPI servers. The documentation page sends its requests to the first one."""
    return [
        {"url": "/", "description": "the server that this document was read from"},
        {
            "url": "http://localhost:{port}",
            "description": "a shop on this machine",
            "variables": {"port": {"default": str(port)}},
        },
    ]


def rules(router: APIRouter) -> dict[tuple[str, str], Rule]:
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


def operation_id(route: APIRoute) -> str:
    """The endpoint's name. Generated clients name their functions after it, so renaming it breaks them."""
    return route.name


def _make_exact(document: Any) -> None:
    """Correct FastAPI's document.

    FastAPI writes limits as floats, and rounds the largest bigint up by one. It also allows null for
    parameters, which a URL can't express.
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
