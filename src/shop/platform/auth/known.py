"""Keys, generations and ended sessions in the memory of an API process, read from its database's copies.

It reads its own database every second, in one statement: all keys, because they are few, and the other rows that were
written since the last read. Transaction ids decide which rows are new, not a clock. A row that the last read could
not see has an id that is not lower than that of the oldest transaction that was running then.

A revocation is needed only while a token that it refuses could be valid. So a revocation that is older than twice
that time is not loaded at the start, and is dropped from memory later. Its age is in running time, which does not
depend on the wall clock.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from math import inf
from typing import Any

import structlog

from eventspine.backoff import Backoff
from eventspine.database import Database
from eventspine.errors import SpineError
from shop.platform.auth.settings import LONGEST_TOKEN_S
from shop.platform.auth.tokens import BadKey, Issuer, key_of

_LOG = structlog.get_logger("shop.auth")

EVERY = 1.0
"""Seconds between two reads."""

_KEPT = 2 * LONGEST_TOKEN_S

_LOOK = """
SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint,
    (SELECT jsonb_object_agg(kid, public_jwk) FROM signing_keys WHERE state <> 'gone'),
    (SELECT jsonb_object_agg(subject, CASE WHEN locked THEN NULL ELSE generation END) FROM access
        WHERE {which}),
    (SELECT jsonb_agg(session_id) FROM ended_sessions WHERE {which})
"""
_FIRST = _LOOK.format(which="changed_ms >= coalesce(running_ms(), 0) - %(kept_ms)s")
_NEXT = _LOOK.format(which="changed_in >= %(since)s")


class Known:
    """See the module. `changed` is called when the keys have changed."""

    def __init__(
        self, database: Database, issuer: Issuer, changed: Callable[[], None] = lambda: None
    ) -> None:
        self.generations: dict[str, float] = {}
        """The generation of each subject. Tokens with a lower one are refused. It is infinite while the subject is locked."""
        self.ended: dict[str, float] = {}
        """Ended sessions, and when each became known."""
        self.loaded = False
        self._database = database
        self._issuer = issuer
        self._changed = changed
        self._since: int | None = None
        self._jwks: Mapping[str, Any] | None = None
        self._learned: dict[str, float] = {}
        self._backoff = Backoff(_LOG, "auth", route="keys and revocations")

    async def watch(self) -> None:
        """Read every second, until cancelled. While the database is unavailable, everything stays as it is."""
        while True:
            try:
                await self.look()
            except SpineError as error:
                self._backoff.pause(error)
            except Exception as error:  # noqa: BLE001 - without this loop nothing would be revoked
                self._backoff.pause(error)
            else:
                self._backoff.over()
            await asyncio.sleep(EVERY)

    async def look(self) -> None:
        """Read once. Raises what the database raises."""
        sql, given = _NEXT, {"since": self._since}
        if self._since is None:
            sql, given = _FIRST, {"kept_ms": 1000 * _KEPT}
        [(oldest, jwks, generations, ended)] = await self._database.fetch(sql, given)
        if self._since is not None and oldest < self._since:
            # Another server, which has lost the last transactions. So read everything again.
            self._since = None
            await self.look()
            return
        self._since = oldest
        now = time.monotonic()
        for subject, generation in (generations or {}).items():
            self.generations[subject] = inf if generation is None else generation
            self._learned.pop(subject, None)
            self._learned[subject] = now
        self.ended.update(dict.fromkeys(ended or (), now))
        if jwks != self._jwks:
            self._take_keys(jwks or {})
            self._jwks = jwks
        self.loaded = True
        self._forget(now - _KEPT)

    def _take_keys(self, jwks: Mapping[str, Any]) -> None:
        keys = {}
        for kid, jwk in jwks.items():
            try:
                keys[kid] = key_of(jwk)
            except BadKey as error:
                _LOG.error("auth.key_rejected", kid=kid, error=str(error))
        self._issuer.keys = keys
        self._changed()

    def _forget(self, before: float) -> None:
        """Both dicts are in the order in which their entries became known."""
        while self.ended and next(iter(self.ended.values())) < before:
            del self.ended[next(iter(self.ended))]
        while self._learned and next(iter(self._learned.values())) < before:
            subject = next(iter(self._learned))
            del self._learned[subject], self.generations[subject]
