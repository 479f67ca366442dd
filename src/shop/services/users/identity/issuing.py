"""Puts the parts of the issuing side together."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple
from uuid import UUID

from fastapi import APIRouter

from eventspine.batching import Batcher, in_transaction
from eventspine.context import Request
from eventspine.database import Database
from eventspine.outbox import Transaction
from shop.platform.service import Bounded
from shop.platform.settings import Settings
from shop.services.users.errors import UserNotFound
from shop.services.users.identity import clients, credentials, sessions, well_known
from shop.services.users.identity.api import session_routes, token_routes, well_known_routes
from shop.services.users.identity.limits import Limits
from shop.services.users.identity.logins import Logins
from shop.services.users.identity.passwords import Passwords
from shop.services.users.identity.schemas import (
    ChangePassword,
    ClientToken,
    Command,
    Credential,
    EndSession,
    EndSessions,
    FindCredential,
    ListSessions,
    MakeReset,
    OpenSession,
    Refresh,
    Session,
    Sessions,
)
from shop.services.users.identity.sessions import Lives
from shop.services.users.identity.signing import Signer
from shop.services.users.settings import UsersSettings

_SESSIONS = """
SELECT u.id, s.id, s.device, s.created_at, s.refreshed_at
FROM users u LEFT JOIN sessions s ON s.user_id = u.id
    AND running_ms() - s.running_ms <= %(idle_ms)s AND running_ms() - s.begun_ms <= %(longest_ms)s
WHERE u.id = %(user_id)s AND u.erased_at IS NULL
    AND (%(owner)s::bigint IS NULL OR u.id = %(owner)s)
ORDER BY s.refreshed_at DESC LIMIT 100
"""


class Issuing(NamedTuple):
    routers: tuple[APIRouter, ...]
    batchers: tuple[Bounded, ...]
    passwords: Passwords
    counts: Mapping[str, Mapping[str, int]]


def issuing(settings: Settings, database: Database) -> Issuing:
    """The issuing side has its own batchers, so that requests for users and orders never wait for it."""
    own, bounds = settings.section(UsersSettings), settings.bounds()
    passwords = Passwords(
        threads=own.password_threads,
        max_waiting=own.max_waiting_passwords,
        timeout=bounds["timeout"],
    )
    signer = Signer(settings.auth)
    lives = Lives(own.session_idle_s, own.session_longest_s, own.refresh_grace_s)
    do = _doing(signer, lives)

    async def one(tx: Transaction, requests: Sequence[Request[Command]]) -> list[Any]:
        return [await do[type(request.command)](tx, request) for request in requests]

    # Each command has its own transaction. One that must end a session has to commit, even if another one fails.
    working: Batcher[Request[Command], Any] = Batcher(
        in_transaction(database, one), **bounds, max_batch=1, concurrency=2, name="tokens"
    )
    finding: Batcher[FindCredential, Credential | None] = Batcher(
        partial(credentials.find, database), **bounds, name="credentials"
    )
    listing: Batcher[ListSessions, Sessions] = Batcher(
        partial(_list, database, lives), **bounds, max_batch=1, name="sessions"
    )
    key_sets: Batcher[None, dict[str, Any]] = Batcher(
        partial(well_known.key_sets, database), **bounds, name="key_sets"
    )
    counts = {"succeeded": 0, "refused": 0, "limited": 0}
    logins = Logins(finding, passwords, working, Limits(), own.trusted_proxies, counts)
    routers = (
        session_routes(logins, working, listing),
        token_routes(working),
        well_known_routes(settings.auth, key_sets),
    )
    return Issuing(
        routers, (working, finding, listing, key_sets, passwords), passwords, {"login": counts}
    )


def _doing(
    signer: Signer, lives: Lives
) -> dict[type, Callable[[Transaction, Request[Any]], Awaitable[Any]]]:
    return {
        OpenSession: partial(sessions.open_session, signer=signer),
        Refresh: partial(sessions.refresh, signer=signer, lives=lives),
        ClientToken: partial(clients.issue, signer=signer),
        EndSession: sessions.end,
        EndSessions: sessions.end_all,
        ChangePassword: credentials.change,
        MakeReset: credentials.make_reset,
    }


async def _list(
    database: Database, lives: Lives, asked: Sequence[ListSessions]
) -> list[Sessions | UserNotFound]:
    return [await _sessions(database, lives, one) for one in asked]


async def _sessions(database: Database, lives: Lives, one: ListSessions) -> Sessions | UserNotFound:
    rows = await database.fetch(_SESSIONS, {**one._asdict(), **lives.ms()})
    if not rows:
        return UserNotFound(f"No user has the id {one.user_id}")
    items = [
        Session(id=UUID(str(id_)), device=device, created_at=created, refreshed_at=refreshed)
        for _, id_, device, created, refreshed in rows
        if id_ is not None
    ]
    return Sessions(items=items)
