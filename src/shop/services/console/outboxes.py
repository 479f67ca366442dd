"""Events in the outboxes, found without reading a whole outbox.

An outbox has one index, by position: another would cost every request. So a search by key, trace or idempotency key
reads a limited number of positions at a time: first around the time at which it must have been, if that is known,
then from the newest back. It says how far it went, and goes on from there when it is asked to.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from eventspine.database import Database
from shop.services.console.records import trace_of

_AROUND = 2000
"""Positions before and after the expected one."""
_CHUNK = 20_000
"""Positions of one statement: some 30 ms."""
_BUDGET_S = 0.12
"""Seconds for one search, so that the page answers in 300 ms."""

_COLUMNS = "position, topic, key, type, schema_version, version, time, data::text, headers::text"

_BOUNDS = """
SELECT coalesce((SELECT position FROM outbox ORDER BY position LIMIT 1), 0), position FROM outbox_head
"""
_AT = "SELECT position, time FROM outbox WHERE position >= %(at)s ORDER BY position LIMIT 1"

MANY = 200
"""Events of one search, at most."""


class Bounds(NamedTuple):
    first: int
    """The oldest position that is kept; 0 if none is."""
    last: int
    """The newest that was given out."""


@dataclass(frozen=True)
class Published:
    """A row of an outbox."""

    service: str
    position: int
    topic: str
    key: str
    type: str
    schema_version: int
    version: int
    time: datetime
    data: Any
    headers: Mapping[str, str]

    @property
    def trace(self) -> str | None:
        return trace_of(self.headers)

    @property
    def caller(self) -> str:
        """As `user:17`; empty if the request had no authenticated caller."""
        id_ = self.headers.get("ce_authid")
        return f"{self.headers.get('ce_authtype', 'unknown')}:{id_}" if id_ else ""

    @property
    def key_hash(self) -> str:
        return self.headers.get("ce_idempotencykeyhash", "")


class Wanted(NamedTuple):
    """A condition on rows of an outbox, and its parameters."""

    sql: str
    params: Mapping[str, Any]


def of_key(topic: str, key: str) -> Wanted:
    return Wanted("topic = %(topic)s AND key = %(key)s", {"topic": topic, "key": key})


def of_trace(trace: str) -> Wanted:
    return Wanted("substr(headers->>'traceparent', 4, 32) = %(trace)s", {"trace": trace})


def of_key_hash(key_hash: str) -> Wanted:
    return Wanted("headers->>'ce_idempotencykeyhash' = %(hash)s", {"hash": key_hash})


async def bounds(database: Database) -> Bounds:
    """Raises what the database raises."""
    [(first, last)] = await database.fetch(_BOUNDS)
    return Bounds(first, last)


async def position_at(database: Database, within: Bounds, at: datetime) -> int:
    """About the position that was given out at this time. Twenty looks for a million."""
    low, high = within.first, within.last + 1
    while low < high:
        middle = (low + high) // 2
        rows = await database.fetch(_AT, {"at": middle})
        if not rows or rows[0][1] >= at:
            high = middle
        else:
            low = rows[0][0] + 1
    return low


async def around(
    database: Database, service: str, wanted: Wanted, position: int
) -> list[Published]:
    return await _between(database, service, wanted, position - _AROUND, position + _AROUND)


async def back(
    database: Database, service: str, wanted: Wanted, before: int, first: int, enough: int
) -> tuple[list[Published], int]:
    """Searches from `before` back, until `enough` were found, the time is used up, or `first` is reached.

    Returns what was found, and the position that was reached: all from there on was searched.
    """
    until = time.monotonic() + _BUDGET_S
    found: list[Published] = []
    while before > first and len(found) < enough and time.monotonic() < until:
        start = max(first, before - _CHUNK)
        found += await _between(database, service, wanted, start, before - 1)
        before = start
    return found, before


async def _between(
    database: Database, service: str, wanted: Wanted, start: int, end: int
) -> list[Published]:
    rows = await database.fetch(
        f"SELECT {_COLUMNS} FROM outbox WHERE position BETWEEN %(start)s AND %(end)s AND {wanted.sql}"  # noqa: S608 - constants of ours
        f" ORDER BY position DESC LIMIT {MANY}",
        {**wanted.params, "start": start, "end": end},
    )
    return [
        Published(
            service,
            position,
            topic,
            key,
            type_,
            schema_version,
            version,
            at,
            data=json.loads(data),
            headers=json.loads(headers or "{}"),
        )
        for position, topic, key, type_, schema_version, version, at, data, headers in rows
    ]
