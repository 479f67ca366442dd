"""The caller of a request, from its token, and the rows that it may read and change."""

from dataclasses import dataclass
from math import inf
from typing import Annotated, Literal, get_args

from fastapi import Depends

Role = Literal["customer", "support", "admin", "service"]
ROLES: frozenset[str] = frozenset(get_args(Role))

NOBODY = 0
"""No user has this id. A caller that is not a user owns no rows."""

_READS_ALL = frozenset({"support", "admin", "service"})
_WRITES_ALL = frozenset({"admin", "service"})


@dataclass(frozen=True, slots=True)
class Caller:
    subject: str
    """As `Context.caller`: `user:17`, `service_account:billing`."""
    user_id: int | None
    """None if the caller is not a user of the shop: a service, or a subject of another issuer."""
    roles: frozenset[str]
    scopes: frozenset[str]
    reads: int | None
    """It may read this user's rows; None: all rows."""
    writes: int | None
    """It may change this user's rows; None: all rows."""
    client_id: str = ""
    session: str = ""
    """The `sid` of a user's token."""
    generation: float = inf


def caller(subject: str, user_id: int | None, roles: frozenset[str], **more: object) -> Caller:
    """Its roles decide which rows it may read and change."""
    own = NOBODY if user_id is None else user_id
    return Caller(
        subject=subject,
        user_id=user_id,
        roles=roles,
        reads=None if roles & _READS_ALL else own,
        writes=None if roles & _WRITES_ALL else own,
        **more,  # type: ignore[arg-type]
    )


def reads(caller: Caller | None) -> int | None:
    """The user whose rows may be read; None: all rows. Without authentication, all rows may be read."""
    return None if caller is None else caller.reads


def writes(caller: Caller | None) -> int | None:
    """The user whose rows may be changed; None: all rows."""
    return None if caller is None else caller.writes


def visible(id_: int, owner: int | None) -> int:
    """The user id for a query. If the owner is another user, it is an id that no row has."""
    return id_ if owner is None or owner == id_ else NOBODY


def who_asks() -> Caller | None:
    """Nothing, for the OpenAPI document. `FastRoute` finds the parameter without it."""


WhoAsks = Annotated[Caller | None, Depends(who_asks)]
"""An endpoint with such a parameter gets the caller. It is None if no tokens are required."""
