"""Who may use a route: said where the route stands, kept by the gate, printed by `shop routes`.

    @router.get("/notes/{note_id}", …)
    @allowed("notes:read", rows=OWN)
    @admitted_by(getting.admit)
    async def get_note(note_id: PathId, caller: WhoAsks = None) -> Reply:
        return _shown(await getting.submit(GetNote(note_id, reads(caller))))

A scope is for clients: a token without it gets a 403. A role is for people and services. Rows are data: with `OWN`
the endpoint passes the owner into its query, where another's row is one that is not there.
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
"""A customer is given its own rows alone."""
ALL: Rows = "all"
"""Whoever may use the route is given any row."""


class Rule(NamedTuple):
    scope: str | None
    """None for a public route: no token is looked at."""
    roles: frozenset[str]
    rows: Rows

    @property
    def public(self) -> bool:
        return self.scope is None


PUBLIC = Rule(None, ROLES, ALL)


def allowed(
    what: Rule | str, *, roles: Sequence[Role] = (), rows: Rows = ALL
) -> Callable[[Endpoint], Endpoint]:
    """An endpoint that needs a token with this scope, of one of these roles (any, if none is named); or
    `PUBLIC`. A rule is a part of a route: an API with a route that has none does not start.
    """
    rule = what if isinstance(what, Rule) else Rule(what, frozenset(roles) or ROLES, rows)

    def mark(endpoint: Endpoint) -> Endpoint:
        endpoint.rule = rule  # type: ignore[attr-defined]
        return endpoint

    return mark


def rule_of(route: "BaseRoute") -> Rule | None:
    return getattr(getattr(route, "endpoint", None), "rule", None)


class NoRule(Exception):
    """A route has no rule; the message names it."""


class Row(NamedTuple):
    """A line of the matrix."""

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
    """What an operation's document says of its rule."""
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
