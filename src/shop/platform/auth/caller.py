"""Who asks, as the token says it, and whose rows it may see."""

from dataclasses import dataclass
from math import inf
from typing import Annotated, Literal, get_args

from fastapi import Depends

Role = Literal["customer", "support", "admin", "service"]
ROLES: frozenset[str] = frozenset(get_args(Role))

NOBODY = 0
"""The id of no user: such a caller's own rows are none."""

_READS_ALL = frozenset({"support", "admin", "service"})
_WRITES_ALL = frozenset({"admin", "service"})


@dataclass(frozen=True, slots=True)
class Caller:
    subject: str
    """As `Context.caller`: `user:17`, `service_account:billing`."""
    user_id: int | None
    """None for a caller that is no user of the shop: a service, or somebody of another issuer."""
    roles: frozenset[str]
    scopes: frozenset[str]
    reads: int | None
    """The user whose rows it may read; None for everybody's."""
    writes: int | None
    """The user whose rows it may change; None for everybody's."""
    client_id: str = ""
    session: str = ""
    """The `sid` of a user's token."""
    generation: float = inf


def caller(subject: str, user_id: int | None, roles: frozenset[str], **more: object) -> Caller:
    """Whose rows it may see follows from its roles."""
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
    """The user whose rows may be read; None for everybody's. Without authentication that is everybody's."""
    return None if caller is None else caller.reads


def writes(caller: Caller | None) -> int | None:
    """The user whose rows may be changed; None for everybody's."""
    return None if caller is None else caller.writes


def visible(id_: int, owner: int | None) -> int:
    """For a query by a user's id: the id, or that of no row if the owner is another."""
    return id_ if owner is None or owner == id_ else NOBODY


def who_asks() -> Caller | None:
    """What the document says of it: nothing. `FastRoute` finds it without this."""


WhoAsks = Annotated[Caller | None, Depends(who_asks)]
"""An endpoint with such a parameter is given who asks; None where no tokens are asked for."""
