"""The places that a look asks: a service's database, its topic in the log, its API."""

import asyncio
import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import monotonic
from urllib.parse import urlsplit

from eventspine.address import Address
from eventspine.database import Database
from eventspine.dead_letters import held_keys
from eventspine.handlers import Handlers
from eventspine.log import EventLog, LogUnavailable
from eventspine.seeking import committed_at
from shop.platform.flow.model import MOST_COUNTED
from shop.platform.flow.outbox import outbox_now
from shop.platform.service import Service

# Usually nothing is parked, and then nothing more is asked.
_CHECKPOINTS = """
SELECT any_parked, consumer, topic, "partition", next_offset, log
FROM (SELECT EXISTS (SELECT FROM parked) AS any_parked) AS parked LEFT JOIN cursors ON true
"""

_PARKED = f"""
SELECT count(*) FROM (SELECT FROM parked WHERE consumer = %(consumer)s LIMIT {MOST_COUNTED + 1}) AS counted
"""  # noqa: S608 - a constant of ours

_SAME_FOR = 5.0
"""Seconds for which a topic is taken for the same, unless it has become shorter."""

_LONGEST_ANSWER = 4096  # bytes of a readiness answer that are read


@dataclass
class InDatabase:
    """What a service's database says."""

    published: int
    relayed: int
    oldest_seconds: float
    relay_leads: bool
    checkpoints: dict[tuple[str, str, str], dict[int, int]] = field(default_factory=dict)
    """The next offset of each partition, by consumer, topic and the log's identity."""
    held_keys: dict[str, dict[str, int]] = field(default_factory=dict)
    """The number of held keys, by consumer and topic."""
    parked: dict[str, int] = field(default_factory=dict)


class ServiceDatabase:
    """A service's database, with one connection of its own."""

    def __init__(self, address: Address, service: Service, consumers: tuple[Handlers, ...]) -> None:
        self._service = service
        self._consumers = consumers
        self._database = Database(
            address, size=1, timeout=1.0, transaction_within=2.0, application_name="eventshop flow"
        )
        self._opened = False

    async def ask(self) -> InDatabase:
        """Raises `Unavailable`, and psycopg's error if the database is not migrated."""
        if not self._opened:
            await self._database.open()
            self._opened = True
        fetch = self._database.fetch
        now = await outbox_now(fetch, self._service.source)
        found = InDatabase(now.published, now.relayed, now.oldest_seconds, now.led)
        rows = await fetch(_CHECKPOINTS)
        any_parked = rows[0][0]
        for _, consumer, topic, partition, next_offset, log in rows:
            if consumer is not None:
                found.checkpoints.setdefault((consumer, topic, log), {})[partition] = next_offset
        for name in (each.consumer for each in self._consumers):
            if not any_parked:
                found.held_keys[name], found.parked[name] = {}, 0
                continue
            held: dict[str, int] = {}
            for topic, _ in await held_keys(self._database, name):
                held[topic] = held.get(topic, 0) + 1
            found.held_keys[name] = held
            [(found.parked[name],)] = await fetch(_PARKED, {"consumer": name})
        return found

    async def close(self) -> None:
        if self._opened:
            await self._database.close()


@dataclass(frozen=True)
class InLog:
    """What the log says of a topic."""

    identity: str
    ends: dict[int, int]


class Topic:
    """A topic in the log. Its identity is asked seldom: on Kafka that is two requests, and it hardly ever changes."""

    def __init__(self, log: EventLog, topic: str) -> None:
        self._log = log
        self._topic = topic
        self._known: tuple[float, int, str] | None = None
        """When the identity was asked, the number of records at the last look, and the identity."""

    async def ask(self) -> InLog:
        """Raises `LogUnavailable`."""
        known, self._known = self._known, None  # after a failure it may be another log
        ends = await self._log.end_offsets(self._topic)
        if not ends:
            raise LogUnavailable(f"there is no topic {self._topic}; `shop migrate` creates it")
        records, now = sum(ends.values()), monotonic()
        if known is None or records < known[1] or now - known[0] > _SAME_FOR:
            known = now, records, (await self._log.identity(self._topic)).id
        self._known = known[0], records, known[2]
        return InLog(known[2], ends)


async def age_of(log: EventLog, topic: str, partition: int, offset: int) -> float | None:
    """Seconds since the record's event was committed; None if it does not say. Raises `LogUnavailable`."""
    found = await log.read(topic, partition, offset, 1)
    time = committed_at(found[0]) if found else None
    return None if time is None else max(0.0, (datetime.now(UTC) - time).total_seconds())


async def not_ready(url: str) -> str:
    """Why the API at this URL is not ready; empty if it is. Raises `OSError` and `EOFError`."""
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    reader, writer = await asyncio.open_connection(
        parts.hostname,
        parts.port or (443 if secure else 80),
        ssl=ssl.create_default_context() if secure else None,
    )
    try:
        writer.write(
            f"GET {parts.path.rstrip('/')}/health/ready HTTP/1.1\r\nHost: {parts.netloc}\r\n"
            "User-Agent: eventshop-flow\r\nConnection: close\r\n\r\n".encode()
        )
        await writer.drain()
        said = await reader.read(_LONGEST_ANSWER)
    finally:
        writer.close()
    status, _, _ = said.partition(b"\r\n")
    words = status.split()
    if len(words) < 2:  # noqa: PLR2004 - HTTP/1.1 200
        raise EOFError("it closed the connection without an answer")
    return (
        "" if words[1] == b"200" else f"not ready: it answers {words[1].decode(errors='replace')}"
    )
