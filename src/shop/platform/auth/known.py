"""What an API process knows of keys, generations and ended sessions: its database's copies, in memory.

It reads its own database every second, in one statement: all keys, which are few, and of the rest only what was
written since the last look. That is told by transaction numbers and not by a clock: what a look could not see yet
was written by a transaction that is at least as new as the oldest one under way.

A revocation is needed only as long as a token that it refuses could be valid. So what is older than twice that
(in running time, which no wall clock moves) is not loaded at the start, and is dropped from memory later.
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
"""Seconds between two looks."""

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
    """See the module. `changed` is called when there are other keys."""

    def __init__(
        self, database: Database, issuer: Issuer, changed: Callable[[], None] = lambda: None
    ) -> None:
        self.generations: dict[str, float] = {}
        """By subject: tokens with a lower one are refused; infinite while it is locked."""
        self.ended: dict[str, float] = {}
        """Sessions that have ended, and since when this is known."""
        self.loaded = False
        self._database = database
        self._issuer = issuer
        self._changed = changed
        self._since: int | None = None
        self._jwks: Mapping[str, Any] | None = None
        self._learned: dict[str, float] = {}
        self._backoff = Backoff(_LOG, "auth", route="keys and revocations")

    async def watch(self) -> None:
        """Look until it is cancelled. While the database is unavailable, what was known stays."""
        while True:
            try:
                await self.look()
            except SpineError as error:
                self._backoff.pause(error)
            except Exception as error:  # noqa: BLE001 - it must go on, or nothing would be revoked
                self._backoff.pause(error)
            else:
                self._backoff.over()
            await asyncio.sleep(EVERY)

    async def look(self) -> None:
        """Once. Raises what the database raises."""
        sql, given = _NEXT, {"since": self._since}
        if self._since is None:
            sql, given = _FIRST, {"kept_ms": 1000 * _KEPT}
        [(oldest, jwks, generations, ended)] = await self._database.fetch(sql, given)
        if self._since is not None and oldest < self._since:
            # Another server, which has lost the last transactions. What it has is all there is.
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
        """Both are in the order in which they were learned."""
        while self.ended and next(iter(self.ended.values())) < before:
            del self.ended[next(iter(self.ended))]
        while self._learned and next(iter(self._learned.values())) < before:
            subject = next(iter(self._learned))
            del self._learned[subject], self.generations[subject]
