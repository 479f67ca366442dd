"""A user's password: find it, change it, let staff reset it, and delete it with the user."""

from collections.abc import Sequence

from eventspine.context import Request
from eventspine.database import Database
from eventspine.outbox import Transaction
from shop.services.users.errors import UserNotFound, WrongCredentials
from shop.services.users.identity.access import end_all_sessions, of_user
from shop.services.users.identity.ages import RESET_WITHIN_S
from shop.services.users.identity.refresh_tokens import opaque, opaque_hash
from shop.services.users.identity.schemas import (
    ChangePassword,
    Credential,
    FindCredential,
    MakeReset,
    PasswordReset,
)
from shop.services.users.tables import LETTERS

_FIND = """
SELECT u.id, c.password_hash, c.changed_at, EXISTS (
    SELECT FROM devices d WHERE d.user_id = u.id AND d.token_hash = %(device)s
)
FROM users u LEFT JOIN credentials c ON c.user_id = u.id
WHERE u.erased_at IS NULL AND
"""

_BY_EMAIL = f"{_FIND} lower(u.email) = lower(%(email)s::text COLLATE {LETTERS})"
_BY_ID = f"{_FIND} u.id = %(user_id)s"

_THERE = "SELECT FROM users WHERE id = %(user_id)s AND erased_at IS NULL FOR SHARE"

_KEEP = """
INSERT INTO credentials (user_id, password_hash) VALUES (%(user_id)s, %(hash)s)
ON CONFLICT (user_id) DO UPDATE SET password_hash = excluded.password_hash, changed_at = now()
"""

_REPLACE = """
UPDATE credentials SET password_hash = %(hash)s, changed_at = now()
WHERE user_id = %(user_id)s AND changed_at = %(of)s
"""

_MAKE_RESET = """
INSERT INTO password_resets (user_id, token_hash) VALUES (%(user_id)s, %(token_hash)s)
ON CONFLICT (user_id) DO UPDATE SET token_hash = excluded.token_hash, running_ms = running_ms()
"""

_USE_RESET = """
DELETE FROM password_resets
WHERE user_id = %(user_id)s AND token_hash = %(token_hash)s
    AND running_ms() - running_ms <= %(within_ms)s
"""

_KNOWN = """
SELECT user_id FROM credentials WHERE user_id = ANY(%(ids)s)
UNION
SELECT substr(subject, 6)::bigint FROM access WHERE subject = ANY(%(subjects)s)
"""

_FORGET = "DELETE FROM {table} WHERE user_id = ANY(%(ids)s)"


async def find(database: Database, asked: Sequence[FindCredential]) -> list[Credential | None]:
    """None if there is no such user."""
    found: list[Credential | None] = []
    for one in asked:
        by = _BY_ID if one.email is None else _BY_EMAIL
        rows = await database.fetch(by, one._asdict())
        found.append(Credential(*rows[0]) if rows else None)
    return found


async def keep(tx: Transaction, user_id: int, password_hash: str) -> None:
    """Store the first password of a user, or replace it."""
    await tx.execute(_KEEP, {"user_id": user_id, "hash": password_hash})


async def change(
    tx: Transaction, request: Request[ChangePassword]
) -> WrongCredentials | UserNotFound | None:
    """Change the password, end all sessions, and forget all known devices."""
    command = request.command
    user_id = command.user_id
    if not await tx.fetch(_THERE, {"user_id": user_id}):
        return WrongCredentials()
    given = {"user_id": user_id, "of": command.password_of, "hash": command.new_hash}
    if command.reset_hash is None:
        if not (await tx.execute(_REPLACE, given)).rowcount:
            return WrongCredentials()
    else:
        proof = {"token_hash": command.reset_hash, "within_ms": 1000 * RESET_WITHIN_S}
        used = await tx.execute(_USE_RESET, {**given, **proof})
        if not used.rowcount:
            return WrongCredentials("The reset token is wrong, was used, or has expired")
        await keep(tx, user_id, command.new_hash)
    await _forget(tx, [user_id], "password_resets", "devices")
    reason = "password_changed" if command.reset_hash is None else "password_reset"
    await end_all_sessions(tx, user_id, reason, request.context)
    return None


async def make_reset(tx: Transaction, request: Request[MakeReset]) -> PasswordReset | UserNotFound:
    """Create a reset token. An earlier one stops working."""
    user_id = request.command.user_id
    if not await tx.fetch(_THERE, {"user_id": user_id}):
        return UserNotFound(f"No user has the id {user_id}")
    token = opaque("reset")
    await tx.execute(_MAKE_RESET, {"user_id": user_id, "token_hash": opaque_hash(token)})
    return PasswordReset(reset_token=token, expires_in=RESET_WITHIN_S)


async def forget(tx: Transaction, ids: Sequence[int]) -> set[int]:
    """Delete everything about erased users from these tables. Returns those that may have tokens.

    A user that never had a password has no tokens.
    """
    subjects = [of_user(user_id) for user_id in ids]
    known = await tx.fetch(_KNOWN, {"ids": list(ids), "subjects": subjects})
    await _forget(tx, ids, "credentials", "password_resets", "devices", "sessions")
    return {user_id for (user_id,) in known}


async def _forget(tx: Transaction, ids: Sequence[int], *tables: str) -> None:
    for table in tables:
        await tx.execute(_FORGET.format(table=table), {"ids": list(ids)})
