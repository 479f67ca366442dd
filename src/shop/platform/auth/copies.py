"""A service's own copies of keys, generations and ended sessions. With them it verifies tokens without asking anybody.

A service gets them by one line in each of four files: `*IDENTITY_PROJECTIONS` in its projections,
`**IDENTITY_HANDLERS` in its handlers, `add_identity_tables(metadata)` in its tables, and `op.execute(IDENTITY)`
in a migration. In the user service these tables are the originals: the actions that publish the events write them. So it has
no handlers for these events.
"""

from collections.abc import Mapping, Sequence

from eventspine.event import Event
from eventspine.handlers import Handler
from eventspine.outbox import Transaction
from eventspine.projections import Projection, keep_latest
from eventspine.pruning import KEY_MARGIN, Aged
from eventspine.received import Received
from shop.contracts.identity import AccessChanged, IdentityEvent, SessionEnded, SigningKeyChanged
from shop.platform.auth.settings import LONGEST_TOKEN_S

_STAMPS = ("changed_in", "changed_ms")
"""A trigger sets these columns. See `tables.py`."""

# Each has a key field that no other event of the topic has.
SIGNING_KEYS = Projection(
    "signing_keys",
    topic=IdentityEvent.topic,
    key={"kid": "text"},
    columns={"state": "text", "public_jwk": "jsonb"},
    not_from_events=_STAMPS,
)

ACCESS = Projection(
    "access",
    topic=IdentityEvent.topic,
    key={"subject": "text"},
    columns={"roles": "text[]", "locked": "boolean", "generation": "bigint", "reason": "text"},
    not_from_events=_STAMPS,
)

ENDED_SESSIONS = Projection(
    "ended_sessions",
    topic=IdentityEvent.topic,
    key={"session_id": "uuid"},
    columns={"user_id": "bigint", "reason": "text"},
    not_from_events=_STAMPS,
    # When no token of the session can be valid, and no API process loads the row any more (`known.py`).
    aged=Aged("ended_sessions", "changed_ms", 2 * LONGEST_TOKEN_S + KEY_MARGIN),
)

IDENTITY_PROJECTIONS = (SIGNING_KEYS, ACCESS, ENDED_SESSIONS)


async def signing_keys_changed(
    tx: Transaction, received: Sequence[Received[SigningKeyChanged]]
) -> None:
    await keep_latest(tx, SIGNING_KEYS, received)


async def access_changed(tx: Transaction, received: Sequence[Received[AccessChanged]]) -> None:
    await keep_latest(tx, ACCESS, received)


async def sessions_ended(tx: Transaction, received: Sequence[Received[SessionEnded]]) -> None:
    await keep_latest(tx, ENDED_SESSIONS, received)


IDENTITY_HANDLERS: Mapping[type[Event], Handler] = {
    SigningKeyChanged: signing_keys_changed,
    AccessChanged: access_changed,
    SessionEnded: sessions_ended,
}
