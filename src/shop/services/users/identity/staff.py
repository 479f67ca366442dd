"""Commands of operators on accounts: roles, locks, resets, and the first admin."""

from collections.abc import Sequence

from eventspine.context import Request
from eventspine.outbox import Transaction
from shop.services.users import actions
from shop.services.users.identity import access, credentials
from shop.services.users.identity.access import Access, of_user
from shop.services.users.schemas import CreateUser, User
from shop.services.users.tables import LETTERS

_THERE = "SELECT FROM users WHERE id = %(id)s AND erased_at IS NULL FOR SHARE"

_WITH_EMAIL = f"""
SELECT id FROM users
WHERE lower(email) = lower(%(email)s::text COLLATE {LETTERS}) AND erased_at IS NULL FOR SHARE
"""  # noqa: S608 - nobody's input


class StaffRefused(Exception):
    """The message says what to do."""


async def change_roles(
    tx: Transaction, user_id: int, *, add: Sequence[str] = (), remove: Sequence[str] = ()
) -> Access:
    """The user's tokens are refused from now on. A refresh returns one with the new roles."""
    for role in (*add, *remove):
        if role not in access.GIVEN_ROLES:
            raise StaffRefused(
                f"{role} can't be granted or revoked: {', '.join(access.GIVEN_ROLES)} can; every user is a"
                " customer, and a service is a client (`shop clients`)"
            )
    await _there(tx, user_id)
    reason = "role_granted" if add else "role_revoked"
    return await access.change_access(tx, of_user(user_id), reason, add=add, remove=remove)


async def set_lock(tx: Transaction, user_id: int, *, locked: bool) -> Access:
    """A locked user can't log in, and all its tokens are refused."""
    await _there(tx, user_id)
    reason = "locked" if locked else "unlocked"
    return await access.change_access(tx, of_user(user_id), reason, locked=locked)


async def make_admin(tx: Transaction, email: str, name: str, password_hash: str) -> int:
    """Create a user with the role admin, or give an existing user the role and this password. Returns the id."""
    rows = await tx.fetch(_WITH_EMAIL, {"email": email})
    if rows:
        user_id = int(rows[0][0])
    else:
        [made] = await actions.create(tx, [Request(CreateUser(email, name))])
        if not isinstance(made, User):
            raise StaffRefused(f"the user could not be made: {made}")
        user_id = made.id
    await credentials.keep(tx, user_id, password_hash)
    await access.end_all_sessions(tx, user_id, "password_reset")
    await access.change_access(tx, of_user(user_id), "role_granted", add=["admin"])
    return user_id


async def _there(tx: Transaction, user_id: int) -> None:
    if not await tx.fetch(_THERE, {"id": user_id}):
        raise StaffRefused(f"no user has the id {user_id}")
