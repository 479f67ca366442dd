"""What a person types to find a story, and what it may mean."""

import re
from datetime import datetime
from hashlib import sha256
from typing import NamedTuple
from uuid import UUID

from eventspine.projections import Projection
from shop.services.console.reading import Reading

_TRACE = re.compile(r"(?:[0-9a-f]{2}-)?([0-9a-f]{32})(?:-[0-9a-f]{16}-[0-9a-f]{2})?")
_OF_TOPIC = re.compile(r"([A-Za-z_]+)[\s/#:]+(\S+)")
_MOST_BIGINT = 2**63 - 1


class Entity(NamedTuple):
    """What an event is about: `orders` and `17`."""

    topic: str
    key: str


class Present(NamedTuple):
    """The present row of an entity, in the table of the service that publishes about it."""

    version: int
    began: datetime | None
    """A time about its first event, if the table has one: a hint where to look."""


class Meaning(NamedTuple):
    entities: list[Entity]
    """Those that exist."""
    trace: str = ""
    key_hash: str = ""
    """The SHA-256 of the text, in hex, if a service has it as an idempotency key."""
    said: str = ""
    """What the text was taken for."""


async def meaning(reading: Reading, text: str) -> Meaning:
    """Looks up what the text may be: each look is one row by an index. Raises what the databases raise."""
    trace = _TRACE.fullmatch(text.lower())
    if "@" in text:
        return Meaning(await _by_email(reading, text), said="an e-mail address")
    named = _OF_TOPIC.fullmatch(text)
    if named and (topic := _topic(reading, named[1])):
        return Meaning([Entity(topic, named[2])], said=f"the key {named[2]} of {topic}")
    key_hash = sha256(text.encode()).hexdigest()
    if await answered(reading, key_hash):
        return Meaning([], key_hash=key_hash, said="an idempotency key")
    if trace and trace[1] != "0" * 32:
        return Meaning([], trace=trace[1], said="a trace id")
    entities = [
        Entity(topic, text)
        for topic in reading.topics
        if await row_of(reading, Entity(topic, text)) is not None
    ]
    return Meaning(entities, said="an id" if entities else "")


async def row_of(reading: Reading, entity: Entity) -> Present | None:
    """The entity's present row; None if there is none, or no table has it."""
    service = reading.topics[entity.topic]
    for each in service.projections:
        if (
            not isinstance(each, Projection)
            or each.topic != entity.topic
            or each.table != entity.topic
        ):
            continue
        kinds = each.key
        if list(kinds) != ["id"] or not _fits(entity.key, kinds["id"]):
            return None
        began = next((name for name, kind in each.read.items() if kind == "timestamptz"), "NULL")
        rows = await reading.database(service.name).fetch(
            f"SELECT version, {began} FROM {each.table} WHERE id = %(key)s::{kinds['id']}",  # noqa: S608 - names from the code
            {"key": entity.key},
        )
        return Present(*rows[0]) if rows else None
    return None


async def answered(reading: Reading, key_hash: str) -> list[tuple[str, int, datetime]]:
    """Which services have stored an answer under this idempotency key: name, status, and when its work began."""
    found = []
    for name in reading.services:
        rows = await reading.database(name).fetch(
            "SELECT status, created_at FROM idempotency_keys WHERE key_hash = decode(%(hash)s, 'hex')",
            {"hash": key_hash},
        )
        found += [(name, status, created_at) for status, created_at in rows]
    return found


async def _by_email(reading: Reading, text: str) -> list[Entity]:
    """Find an e-mail address in the tables of the services that store it. An index finds it."""
    found = []
    for topic, service in reading.topics.items():
        table = service.tables().tables.get(topic)
        if table is None or "email" not in table.columns:
            continue
        rows = await reading.database(service.name).fetch(
            f"SELECT id::text FROM {topic} WHERE lower(email) = lower(%(email)s)",  # noqa: S608 - names from the code
            {"email": text},
        )
        found += [Entity(topic, key) for (key,) in rows]
    return found


def _topic(reading: Reading, word: str) -> str:
    """`order` and `orders` mean the topic `orders`; empty if none is meant."""
    word = word.lower()
    return next((topic for topic in reading.topics if word in {topic, topic.removesuffix("s")}), "")


def _fits(key: str, kind: str) -> bool:
    """Whether a key could be of this type of PostgreSQL, so that a cast does not fail."""
    if kind in {"bigint", "integer"}:
        return bool(re.fullmatch(r"-?[0-9]{1,19}", key)) and abs(int(key)) <= _MOST_BIGINT
    if kind == "uuid":
        try:
            UUID(key)
        except ValueError:
            return False
    return "\0" not in key
