"""The roles and the lock of each subject, and the generation below which its tokens are refused.

Each change is one row of `access` and one event, in the caller's transaction. A subject without a row is a
customer, is not locked, and is at generation 0.
"""

from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

from eventspine.context import NOBODY, Context
from eventspine.outbox import Transaction
from shop.contracts.identity import AccessChanged, SessionEnded

CUSTOMER, SERVICE = "customer", "service"
GIVEN_ROLES = ("support", "admin")
"""The roles that a user can be granted. Every user is a customer. A service has a client instead."""

_CHANGE = """
INSERT INTO access AS a (subject, roles, locked, generation, reason, version)
VALUES (%(subject)s, %(basic)s || %(add)s::text[], coalesce(%(locked)s, false), 1, %(reason)s, 1)
ON CONFLICT (subject) DO UPDATE SET
    roles = ARRAY(
        SELECT role FROM (SELECT DISTINCT unnest(a.roles || %(add)s::text[]) AS role) AS roles
        WHERE role <> ALL(%(remove)s::text[]) ORDER BY role
    ),
    locked = coalesce(%(locked)s, a.locked),
    generation = a.generation + 1,
    reason = excluded.reason,
    version = a.version + 1
RETURNING roles, locked, generation, version
"""

_ACCESS = "SELECT roles, locked, generation FROM access WHERE subject = %(subject)s"

_END = "DELETE FROM sessions WHERE {which} RETURNING id, user_id"

_ENDED = """
INSERT INTO ended_sessions (session_id, user_id, reason, version)
VALUES (%(session_id)s, %(user_id)s, %(reason)s, 1)
ON CONFLICT DO NOTHING
"""


class Access(NamedTuple):
    roles: list[str]
    locked: bool
    generation: int


def of_user(user_id: int) -> str:
    """As in the tokens' `sub`."""
    return f"user:{user_id}"


def of_client(client_id: str) -> str:
    return f"service_account:{client_id}"


async def access(tx: Transaction, subject: str) -> Access:
    rows = await tx.fetch(_ACCESS, {"subject": subject})
    return Access(*rows[0]) if rows else Access([_basic(subject)], locked=False, generation=0)


async def change_access(
    tx: Transaction,
    subject: str,
    reason: str,
    *,
    add: Sequence[str] = (),
    remove: Sequence[str] = (),
    locked: bool | None = None,
    context: Context = NOBODY,
) -> Access:
    """Raise the generation: every token issued until now is refused. Change roles and the lock, where given."""
    basic = _basic(subject)
    [(roles, is_locked, generation, version)] = await tx.fetch(
        _CHANGE,
        {
            "subject": subject,
            "basic": [basic],
            "add": list(add),
            "remove": list(remove),
            "locked": locked,
            "reason": reason,
        },
    )
    kind, _, name = subject.partition(":")
    tx.publish(
        AccessChanged(
            id=f"access:{name}" if kind == "user" else f"access:client:{name}",
            version=version,
            subject=subject,
            roles=roles,
            locked=is_locked,
            generation=generation,
            reason=reason,
        ),
        context,
    )
    return Access(roles, is_locked, generation)


async def end_session(
    tx: Transaction,
    session_id: UUID,
    reason: str,
    context: Context = NOBODY,
    owner: int | None = None,
) -> bool:
    """End a session; its tokens are refused from now on. With `owner`, only a session of that user.

    Returns whether there was one.
    """
    which = "id = %(id)s" if owner is None else "id = %(id)s AND user_id = %(owner)s"
    rows = await tx.fetch(_END.format(which=which), {"id": session_id, "owner": owner})
    for id_, user_id in rows:
        await tx.execute(_ENDED, {"session_id": id_, "user_id": user_id, "reason": reason})
        event = SessionEnded(
            id=f"session:{id_}", version=1, session_id=id_, user_id=user_id, reason=reason
        )
        tx.publish(event, context)
    return bool(rows)


async def end_all_sessions(
    tx: Transaction, user_id: int, reason: str, context: Context = NOBODY
) -> None:
    """End all sessions of a user, and refuse every access token. One event is published, not one for each session."""
    await tx.execute(_END.format(which="user_id = %(user_id)s"), {"user_id": user_id})
    await change_access(tx, of_user(user_id), reason, context=context)


def _basic(subject: str) -> str:
    return CUSTOMER if subject.startswith("user:") else SERVICE
