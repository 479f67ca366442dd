"""Clients are other services. They get tokens with their own secret (`client_credentials`).

A client has at most two secrets, so one can be replaced while the other works.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from eventspine.context import Request
from eventspine.outbox import Transaction
from shop.services.users.identity.access import access, change_access, of_client
from shop.services.users.identity.errors import OAuthRefused, invalid_client
from shop.services.users.identity.refresh_tokens import opaque, opaque_hash
from shop.services.users.identity.schemas import ClientToken, Tokens
from shop.services.users.identity.signing import Signer, Subject

_MOST_SECRETS = 2

_LOCK = "SELECT scope FROM clients WHERE id = %(id)s FOR UPDATE"

_NEW = "INSERT INTO clients (id, scope) VALUES (%(id)s, %(scope)s)"

_ONE_MORE = """
INSERT INTO client_secrets (secret_hash, client_id) VALUES (%(secret_hash)s, %(id)s)
"""

_SECRETS = """
SELECT created_at FROM client_secrets WHERE client_id = %(id)s ORDER BY created_at
"""

_ONE_LESS = """
DELETE FROM client_secrets WHERE secret_hash = (
    SELECT secret_hash FROM client_secrets WHERE client_id = %(id)s ORDER BY created_at LIMIT 1
)
"""

_LIST = """
SELECT c.id, c.scope, c.created_at, count(s.secret_hash)
FROM clients c LEFT JOIN client_secrets s ON s.client_id = c.id GROUP BY c.id ORDER BY c.id
"""

_RETIRE = "DELETE FROM clients WHERE id = %(id)s"

_SCOPE = """
SELECT c.scope FROM clients c JOIN client_secrets s ON s.client_id = c.id
WHERE c.id = %(client_id)s AND s.secret_hash = %(secret_hash)s
"""


class ClientRefused(Exception):
    """The message says what to do."""


class Client(NamedTuple):
    id: str
    scope: list[str]
    created_at: datetime
    secrets: int


async def new(tx: Transaction, client_id: str, scope: Sequence[str]) -> str:
    """Create a client, or add a secret to an existing one. Returns the secret, which is not stored.

    Raises `ClientRefused`.
    """
    rows = await tx.fetch(_LOCK, {"id": client_id})
    if rows:
        if scope and sorted(scope) != sorted(rows[0][0]):
            raise ClientRefused(
                f"the client {client_id} is there, with the scopes {' '.join(rows[0][0])}; leave --scope out"
                " for another secret, or retire the client first"
            )
        if len(await tx.fetch(_SECRETS, {"id": client_id})) >= _MOST_SECRETS:
            raise ClientRefused(
                f"the client {client_id} has {_MOST_SECRETS} secrets; drop the older one with"
                f" `shop clients retire {client_id} --oldest-secret`"
            )
    else:
        if not scope:
            raise ClientRefused(f"there is no client {client_id}; say with --scope what it may do")
        await tx.execute(_NEW, {"id": client_id, "scope": sorted(set(scope))})
        if (await access(tx, of_client(client_id))).locked:
            await change_access(tx, of_client(client_id), "client_made", locked=False)
    secret = opaque("secret")
    await tx.execute(_ONE_MORE, {"id": client_id, "secret_hash": opaque_hash(secret)})
    return secret


async def retire(tx: Transaction, client_id: str, *, oldest_secret: bool = False) -> None:
    """Remove the client and refuse all its tokens, or remove only the older of its two secrets."""
    if not await tx.fetch(_LOCK, {"id": client_id}):
        raise ClientRefused(f"there is no client {client_id}; `shop clients list` shows them")
    if oldest_secret:
        if len(await tx.fetch(_SECRETS, {"id": client_id})) < _MOST_SECRETS:
            raise ClientRefused(
                f"the client {client_id} has one secret; make another first: `shop clients new {client_id}`"
            )
        await tx.execute(_ONE_LESS, {"id": client_id})
        return
    await tx.execute(_RETIRE, {"id": client_id})
    await change_access(tx, of_client(client_id), "client_retired", locked=True)


async def clients(tx: Transaction) -> list[Client]:
    return [Client(*row) for row in await tx.fetch(_LIST)]


async def issue(
    tx: Transaction, request: Request[ClientToken], signer: Signer
) -> Tokens | OAuthRefused:
    """A token for the client itself. It gets no refresh token, because it has its secret."""
    command = request.command
    rows = await tx.fetch(_SCOPE, command._asdict())
    if not rows:
        return invalid_client(by_header=command.by_header)
    [(allowed,)] = rows
    wanted = allowed if command.scope is None else command.scope.split(" ")
    if not set(wanted) <= set(allowed):
        return OAuthRefused("invalid_scope", f"This client may ask for: {' '.join(allowed)}")
    subject = of_client(command.client_id)
    granted = await access(tx, subject)
    if granted.locked:
        return invalid_client(by_header=command.by_header)
    scope = " ".join(wanted)
    token = await signer.sign(tx, Subject(subject, command.client_id, scope, granted, None))
    return Tokens(access_token=token, expires_in=signer.expires_in, scope=scope)
