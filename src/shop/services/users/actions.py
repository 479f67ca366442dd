"""What the user service does. Each action takes a batch of requests and answers one result each.

A batch does what its commands would have done one after the other. A refusal is a value among the
results, so that it fails no neighbour.
"""

import json
from collections.abc import Sequence

from psycopg.errors import UniqueViolation

from eventspine.context import Context, Request
from eventspine.idempotency import forget
from eventspine.outbox import Transaction
from shop.contracts.users import UserCreated, UserErased, UserUpdated
from shop.platform.auth.caller import visible
from shop.platform.problems import PreconditionFailed
from shop.services.users.errors import EmailTaken, UserGone, UserNotFound
from shop.services.users.identity import credentials
from shop.services.users.identity.access import change_access, of_user
from shop.services.users.queries import LOCK, user
from shop.services.users.schemas import CreateUser, EraseUser, UpdateUser, User

# The unique index decides who has an address; the look-up before it only keeps refused commands
# from using up ids (OFFSET 0 makes it one look-up for each address). Rows go in by address, so that two batches can't wait for each other. An address
# has the collation of the table's column from the beginning: `lower` and the order go by it.
_CREATE = """
WITH wanted AS (
    SELECT DISTINCT ON (lower(c.email)) c.n, c.email, c.name
    FROM jsonb_to_recordset(%(commands)s::jsonb) AS c(
        n integer, email text COLLATE pg_c_utf8, name text)
    WHERE NOT EXISTS (SELECT FROM users u WHERE lower(u.email) = lower(c.email) OFFSET 0)
    ORDER BY lower(c.email), c.n
), numbered AS MATERIALIZED (
    SELECT w.email, w.name, nextval('users_id_seq') AS id
    FROM (SELECT * FROM wanted ORDER BY n) AS w
)
INSERT INTO users (id, email, name)
SELECT id, email, name FROM numbered ORDER BY lower(email)
ON CONFLICT (lower(email)) DO NOTHING
RETURNING id, email, name, version, created_at
"""

_UPDATE = """
UPDATE users SET email = %(email)s, name = %(name)s, version = %(version)s WHERE id = %(id)s
"""

_ERASE = """
UPDATE users SET email = NULL, name = NULL, version = version + 1, erased_at = now()
WHERE id = ANY(%(ids)s)
"""


# Not the address: it is the other user's, and the answer may be stored beyond their erasure.
_ONE_EACH = "Addresses that differ in upper and lower case are the same"


async def create(
    tx: Transaction, requests: Sequence[Request[CreateUser]]
) -> list[User | EmailTaken]:
    wanted = [
        {"n": n, "email": command.email, "name": command.name}
        for n, (command, _, _) in enumerate(requests)
    ]
    results: list[User | EmailTaken | None] = [None] * len(requests)
    rows = await tx.fetch(_CREATE, {"commands": json.dumps(wanted)})
    # Of those with one address the first has it. In the order of ids, which is theirs.
    first: dict[str, int] = {}
    for n, (command, _, _) in enumerate(requests):
        first.setdefault(command.email, n)
    for id_, email, name, version, created_at in sorted(rows):
        n = first[email]
        fields = {"id": id_, "email": email, "name": name}
        fields |= {"version": version, "created_at": created_at}
        results[n] = User(**fields)
        tx.publish(UserCreated(**fields), requests[n].context)
        if (password := requests[n].command.password) is not None:
            await credentials.keep(tx, id_, password.hash.get_secret_value())
    return [result or EmailTaken(_ONE_EACH) for result in results]


async def update(
    tx: Transaction, requests: Sequence[Request[UpdateUser]]
) -> list[User | UserNotFound | EmailTaken | PreconditionFailed]:
    """A change that changes nothing is no new version, and publishes nothing."""
    known = await _lock(tx, [visible(to.user_id, to.owner) for to, _, _ in requests])
    return [await _update(tx, known, request) for request in requests]


async def _update(
    tx: Transaction, known: dict[int, User], request: Request[UpdateUser]
) -> User | UserNotFound | EmailTaken | PreconditionFailed:
    command = request.command
    was = _expected(known, command)
    if isinstance(was, Exception):
        return was
    email = was.email if command.email is None else command.email
    name = was.name if command.name is None else command.name
    now = was
    if (email, name) != (was.email, was.name):
        changed = {"email": email, "name": name, "version": was.version + 1}
        now = was.model_copy(update=changed)
        try:
            async with tx.savepoint():
                await tx.execute(_UPDATE, dict(now))
        except UniqueViolation:
            return EmailTaken(_ONE_EACH)
        known[command.user_id] = now
        tx.publish(UserUpdated(**dict(now)), request.context)
    return now


async def erase(
    tx: Transaction, requests: Sequence[Request[EraseUser]]
) -> list[UserNotFound | PreconditionFailed | None]:
    """The person's name, e-mail and password go, and its sessions end; the id and its version stay."""
    known = await _lock(tx, [visible(to.user_id, to.owner) for to, _, _ in requests])
    results: list[UserNotFound | PreconditionFailed | None] = []
    erased: list[tuple[User, Context]] = []
    for command, context, _ in requests:
        was = _expected(known, command)
        if isinstance(was, Exception):
            results.append(was)
            continue
        del known[command.user_id]
        erased.append((was, context))
        results.append(None)
    ids = [was.id for was, _ in erased]
    await tx.execute(_ERASE, {"ids": ids})
    with_tokens = await credentials.forget(tx, ids)
    for was, context in erased:
        event = UserErased(id=was.id, version=was.version + 1, created_at=was.created_at)
        tx.publish(event, context)
        if was.id in with_tokens:
            await change_access(tx, of_user(was.id), "erased", locked=True, context=context)
    # A transaction that stores one with this data holds the user's row, as this one does: there is no other.
    await forget(tx, map(str, ids), UserGone().answer())
    return results


async def _lock(tx: Transaction, ids: Sequence[int]) -> dict[int, User]:
    """Those of them that are there, and then, as the batch has left them so far."""
    return {was.id: was for was in map(user, await tx.fetch(LOCK, {"ids": list(ids)}))}


def _expected(
    known: dict[int, User], command: UpdateUser | EraseUser
) -> User | UserNotFound | PreconditionFailed:
    was = known.get(visible(command.user_id, command.owner))
    if was is None:
        return UserNotFound(f"No user has the id {command.user_id}")
    if command.versions is not None and was.version not in command.versions:
        return PreconditionFailed(f'The user is at version {was.version}: ETag "{was.version}"')
    return was
