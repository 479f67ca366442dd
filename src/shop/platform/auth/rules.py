"""The rule of a route: who may use it. It stands at the route, the gate applies it, and `shop routes` prints it.

    @router.get("/notes/{note_id}", …)
    @allowed("notes:read", rows=OWN)
    @admitted_by(getting.admit)
    async def get_note(note_id: PathId, caller: WhoAsks = None) -> Reply:
        return _shown(await getting.submit(GetNote(note_id, reads(caller))))

A scope limits a client: a token without it gets a 403. A role belongs to a person or a service. With `OWN`, the
endpoint passes the owner to its query. The query then does not find the rows of others.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

from shop.platform.auth.caller import ROLES, Role
from shop.platform.problems import GUARDED, documented

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])

Rows = Literal["own", "all"]
OWN: Rows = "own"
"""A customer gets only its own rows."""
ALL: Rows = "all"
"""Every caller that may use the route gets any row."""


class Rule(NamedTuple):
    scope: str | None
    """None for a public route, which reads no token."""
    roles: frozenset[str]
    rows: Rows

    @property
    def public(self) -> bool:
        return self.scope is None


PUBLIC = Rule(None, ROLES, ALL)


def allowed(
    what: Rule | str, *, roles: Sequence[Role] = (), rows: Rows = ALL
) -> Callable[[Endpoint], Endpoint]:
    """Declare that an endpoint needs a token with this scope and one of these roles (any role, if none is named), or
    that it is `PUBLIC`. An API with a route without a rule does not start.
    """
    rule = what if isinstance(what, Rule) else Rule(what, frozenset(roles) or ROLES, rows)

    def mark(endpoint: Endpoint) -> Endpoint:
        endpoint.rule = rule  # type: ignore[attr-defined]
        return endpoint

    return mark


def rule_of(route: "BaseRoute") -> Rule | None:
    return getattr(getattr(route, "endpoint", None), "rule", None)


class NoRule(Exception):
    """A route has no rule. The message names the route."""


class Row(NamedTuple):
    """A line of the output of `shop routes`."""

    method: str
    path: str
    scope: str
    roles: str
    rows: str


def matrix(routes: Iterable["BaseRoute"]) -> list[Row]:
    """All routes and their rules. Raises `NoRule`."""
    lines = []
    for route in routes:
        path = getattr(route, "path_format", getattr(route, "path", ""))
        methods = sorted(getattr(route, "methods", None) or ())
        rule = rule_of(route)
        if rule is None:
            raise NoRule(
                f"{'|'.join(methods)} {path} has no rule: declare one with @allowed(…), or @allowed(PUBLIC)"
            )
        roles = "any" if rule.roles == ROLES else ", ".join(sorted(rule.roles))
        for method in methods:
            if rule.public:
                lines.append(Row(method, path, "public", "", ""))
            else:
                lines.append(Row(method, path, rule.scope or "", roles, _owners(rule)))
    return lines


def _owners(rule: Rule) -> str:
    if rule.rows == ALL:
        return "all"
    if (rule.scope or "").endswith(":read"):
        return "customer: own; others: all"
    return "customer, support: own; others: all"


def documentation(rule: Rule) -> dict[str, Any]:
    """The rule, for the OpenAPI document."""
    if rule.public:
        return {"security": []}
    problems = documented(*GUARDED)
    responses = {str(status): response for status, response in problems.items()}
    responses["401"]["headers"] = {"WWW-Authenticate": _header("what is wrong with the token")}
    responses["429"]["headers"] = {"Retry-After": _header("seconds to wait", "integer")}
    return {"security": [{"bearer": [rule.scope]}], "responses": responses}


SCHEMES = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "an access token (RFC 9068, RFC 6750)",
    }
}


def _header(description: str, type_: str = "string") -> dict[str, Any]:
    return {"description": description, "schema": {"type": type_}}
