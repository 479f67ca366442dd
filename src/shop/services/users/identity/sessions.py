"""Opens, refreshes and ends sessions. Each action executes one command, in one transaction.

Locks are always taken in this order: the user, the password, the session, the access.
"""

import hmac
from typing import NamedTuple
from uuid import uuid4

import structlog

from eventspine.context import Request
from eventspine.outbox import Transaction
from shop.services.users.errors import (
    AccountLocked,
    SessionNotFound,
    UserNotFound,
    WrongCredentials,
)
from shop.services.users.identity import access, refresh_tokens
from shop.services.users.identity.access import Access, of_user
from shop.services.users.identity.errors import OAuthRefused, invalid_grant
from shop.services.users.identity.refresh_tokens import RefreshToken, opaque, opaque_hash
from shop.services.users.identity.schemas import (
    FIRST_PARTY,
    USER_SCOPES,
    EndSession,
    EndSessions,
    OpenedSession,
    OpenSession,
    Refresh,
    UserTokens,
)
from shop.services.users.identity.signing import Signer, Subject

_LOG = structlog.get_logger("shop.sessions")

_MOST_DEVICES = 20
"""The most devices that are remembered for a user."""

_MOST_IN_GRACE = 10
"""The most refreshes of a session within the time in which each can be repeated."""

_CURRENT = "SELECT changed_at FROM credentials WHERE user_id = %(user_id)s FOR UPDATE"

_BETTER_HASH = "UPDATE credentials SET password_hash = %(hash)s WHERE user_id = %(user_id)s"

# One statement, because each costs the API and the server as much as the rows do. Its parts do not see each other's
# rows: so the oldest of the other devices are forgotten.
_OPEN = """
WITH opened AS (
    INSERT INTO sessions (id, user_id, family_hash, token_hash, device)
    VALUES (%(id)s, %(user_id)s, %(family_hash)s, %(token_hash)s, %(device)s)
), remembered AS (
    INSERT INTO devices (token_hash, user_id) VALUES (%(device_hash)s, %(user_id)s)
    ON CONFLICT (token_hash) DO UPDATE SET running_ms = running_ms()
)
DELETE FROM devices WHERE token_hash IN (
    SELECT token_hash FROM devices WHERE user_id = %(user_id)s AND token_hash <> %(device_hash)s
    ORDER BY running_ms DESC OFFSET %(most_others)s
)
"""

_SESSION = """
SELECT user_id, family_hash, token_hash FROM sessions
WHERE id = %(id)s
    AND running_ms() - running_ms <= %(idle_ms)s AND running_ms() - begun_ms <= %(longest_ms)s
FOR UPDATE
"""

_ROTATE = """
UPDATE sessions SET token_hash = %(token_hash)s, generation = generation + 1,
    refreshed_at = clock_timestamp(), running_ms = running_ms()
WHERE id = %(id)s
"""

# By the wall clock at this moment, not at the start of the transaction: an earlier one may get the session's lock
# later. A clock that was set back gives a negative age; then the running time decides.
_IN_GRACE = """(
    clock_timestamp() - answered_at BETWEEN interval '0' AND %(grace_s)s * interval '1 second'
    OR clock_timestamp() < answered_at AND running_ms() - running_ms <= 1000 * %(grace_s)s
)"""

_ANSWERED = f"""
SELECT answer FROM refresh_answers
WHERE token_hash = %(token_hash)s AND session_id = %(id)s AND {_IN_GRACE}
"""  # noqa: S608 - nobody's input

_FORGET_ANSWERS = f"""
DELETE FROM refresh_answers WHERE session_id = %(id)s AND NOT {_IN_GRACE}
"""  # noqa: S608 - as above

_COUNT_ANSWERS = "SELECT count(*) FROM refresh_answers WHERE session_id = %(id)s"

_KEEP_ANSWER = """
INSERT INTO refresh_answers (token_hash, session_id, answer, answered_at)
VALUES (%(token_hash)s, %(id)s, %(answer)s, clock_timestamp())
"""

_THERE = """
SELECT id FROM users WHERE id = %(user_id)s AND erased_at IS NULL
    AND (%(owner)s::bigint IS NULL OR id = %(owner)s)
FOR SHARE
"""


class Lives(NamedTuple):
    """Seconds."""

    idle_s: int
    """A session that is not refreshed for so long ends."""
    longest_s: int
    """A session ends after so long, even if it is used."""
    grace_s: int
    """For so long after its use, a refresh token gets the same answer again."""

    def ms(self) -> dict[str, int]:
        return {"idle_ms": 1000 * self.idle_s, "longest_ms": 1000 * self.longest_s}


async def open_session(
    tx: Transaction, request: Request[OpenSession], signer: Signer
) -> OpenedSession | WrongCredentials | AccountLocked:
    command = request.command
    user_id = command.user_id
    if await tx.fetch(_CURRENT, {"user_id": user_id}) != [(command.password_of,)]:
        return WrongCredentials()
    granted = await access.access(tx, of_user(user_id))
    if granted.locked:
        return AccountLocked()
    if command.better_hash is not None:
        await tx.execute(_BETTER_HASH, {"user_id": user_id, "hash": command.better_hash})
    token = refresh_tokens.first(uuid4())
    device_token = command.device_token or opaque("device")
    await tx.execute(
        _OPEN,
        {
            "id": token.session_id,
            "user_id": user_id,
            "family_hash": token.family_hash(),
            "token_hash": token.hash(),
            "device": command.device,
            "device_hash": opaque_hash(device_token),
            "most_others": _MOST_DEVICES - 1,
        },
    )
    tokens = await _tokens(tx, signer, user_id, token, granted, None)
    return OpenedSession(
        **dict(tokens),
        session_id=token.session_id,
        user_id=user_id,
        device_token=device_token,
    )


async def refresh(
    tx: Transaction, request: Request[Refresh], signer: Signer, lives: Lives
) -> bytes | OAuthRefused:
    """The answer, as JSON. A repeat of a token that was used just now gets the same answer."""
    token, scope = request.command
    given = {"id": token.session_id, "token_hash": token.hash(), "grace_s": lives.grace_s}
    rows = await tx.fetch(_SESSION, {**given, **lives.ms()})
    if not rows or not hmac.compare_digest(rows[0][1], token.family_hash()):
        return invalid_grant("The refresh token is unknown, or its session has ended")
    [(user_id, _, newest)] = rows
    if not hmac.compare_digest(newest, token.hash()):
        answered = await tx.fetch(_ANSWERED, given)
        return token.open(answered[0][0]) if answered else await _stolen(tx, request, user_id)
    granted = await access.access(tx, of_user(user_id))
    if granted.locked:
        return invalid_grant("The account is locked")
    await tx.execute(_FORGET_ANSWERS, given)
    [(many,)] = await tx.fetch(_COUNT_ANSWERS, given)
    if many >= _MOST_IN_GRACE:
        wait = [(b"retry-after", b"%d" % lives.grace_s)]
        return OAuthRefused("slow_down", "This session is refreshed too often", 429, wait)
    following = token.next()
    tokens = await _tokens(tx, signer, user_id, following, granted, scope)
    answer = tokens.model_dump_json().encode()
    await tx.execute(_KEEP_ANSWER, {**given, "answer": token.seal(answer)})
    await tx.execute(_ROTATE, {"id": token.session_id, "token_hash": following.hash()})
    return answer


async def _stolen(tx: Transaction, request: Request[Refresh], user_id: int) -> OAuthRefused:
    """An old token of the family was used: two clients have it, and it is unknown which of them is the user's."""
    session_id, reason = request.command.token.session_id, "refresh_token_reused"
    await access.end_session(tx, session_id, reason, request.context)
    await access.change_access(tx, of_user(user_id), reason, context=request.context)
    _LOG.warning("sessions.refresh_token_reused", session_id=str(session_id), user_id=user_id)
    return invalid_grant("The refresh token was used before; its session has been ended")


async def end(tx: Transaction, request: Request[EndSession]) -> SessionNotFound | None:
    session_id, owner = request.command
    if await access.end_session(tx, session_id, "signed_out", request.context, owner):
        return None
    return SessionNotFound("No session has this id, or it has ended")


async def end_all(tx: Transaction, request: Request[EndSessions]) -> UserNotFound | None:
    user_id, owner = request.command
    if not await tx.fetch(_THERE, {"user_id": user_id, "owner": owner}):
        return UserNotFound(f"No user has the id {user_id}")
    await access.end_all_sessions(tx, user_id, "signed_out_everywhere", request.context)
    return None


async def _tokens(
    tx: Transaction,
    signer: Signer,
    user_id: int,
    token: RefreshToken,
    granted: Access,
    scope: str | None,
) -> UserTokens:
    subject = Subject(
        of_user(user_id),
        FIRST_PARTY,
        " ".join(USER_SCOPES) if scope is None else scope,
        granted,
        token.session_id,
    )
    return UserTokens(
        access_token=await signer.sign(tx, subject),
        expires_in=signer.expires_in,
        scope=subject.scope,
        refresh_token=token.text(),
    )
