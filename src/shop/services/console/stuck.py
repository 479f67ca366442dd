"""What is parked, a row for each key: what failed first, and how much waits behind it.

A look is bounded: it shows at most `MOST_KEYS` keys of a consumer, and counts at most `MOST_BEHIND` records behind
each. How many keys can be blocked is limited by `SHOP_MOST_PARKED`, so usually that is all of them.
"""

import asyncio
import base64
import binascii
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import urlencode

from eventspine.dead_letters import HELD_KEYS, Parked
from eventspine.errors import Unavailable
from eventspine.handlers import Handlers
from shop.services.console.reading import Reading

MOST_KEYS = 5000
MOST_BEHIND = 1000
ON_A_PAGE = 50
"""Keys of a page, and records of a key's page."""

_RECORD = """first.topic, first."partition", first."offset", nullif(first.position, 0), first.key,
    first.holds_key, first.cause, first.error, first.attempts, first.parked_at, first.headers, first.value"""

_OF_KEY = """parked.consumer = %(consumer)s AND parked.topic = of.topic
    AND parked.key IS NOT DISTINCT FROM of.key
    AND coalesce(hashtextextended(parked.key, 0), 0) = coalesce(hashtextextended(of.key, 0), 0)"""

# One index look-up for each key, as in `eventspine.dead_letters`.
_BLOCKED = f"""
{HELD_KEYS}
SELECT {_RECORD}, (
    SELECT count(*) FROM (SELECT FROM parked WHERE {_OF_KEY} AND holds_key LIMIT {MOST_BEHIND + 2}) AS counted
)
FROM (SELECT topic, key FROM held LIMIT {MOST_KEYS}) AS of, LATERAL (
    SELECT parked.* FROM parked WHERE {_OF_KEY} AND holds_key
    ORDER BY position, "partition", "offset" LIMIT 1
) AS first
"""  # noqa: S608 - constants of ours

_FOREIGN = f"""
SELECT {_RECORD}, 1 FROM (
    SELECT * FROM parked WHERE consumer = %(consumer)s AND NOT holds_key
    ORDER BY running_ms DESC LIMIT {MOST_KEYS}
) AS first
"""  # noqa: S608 - constants of ours

_WHOLE = f"""
SELECT {_RECORD} FROM (
    SELECT parked.* FROM (SELECT %(topic)s::text AS topic, %(key)s::text AS key) AS of, parked WHERE {_OF_KEY}
    ORDER BY position, "partition", "offset" OFFSET %(skip)s LIMIT %(limit)s
) AS first
"""  # noqa: S608 - constants of ours


class Key(NamedTuple):
    """A key of a consumer's topic. It is in addresses and forms as `text`."""

    service: str
    consumer: str
    topic: str
    key: str | None

    @property
    def text(self) -> str:
        return base64.urlsafe_b64encode(json.dumps(self).encode()).decode().rstrip("=")


def key_of(text: str) -> Key | None:
    """The key that `Key.text` gave; None if it is no such text."""
    try:
        found = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (ValueError, binascii.Error):
        return None
    if not (isinstance(found, list) and len(found) == 4):  # noqa: PLR2004 - its parts
        return None
    service, consumer, topic, key = found
    if not all(isinstance(each, str) for each in (service, consumer, topic)):
        return None
    return Key(service, consumer, topic, key) if key is None or isinstance(key, str) else None


@dataclass(frozen=True)
class Stuck:
    """A key, and what stopped it."""

    of: Key
    first: Parked
    """The record that failed, or, if that was discarded, the first that waits."""
    records: int
    """All parked records of the key, at most `MOST_BEHIND` + 2."""

    @property
    def behind(self) -> int:
        return self.records - 1

    @property
    def type(self) -> str:
        return self.first.headers.get("ce_type", "")


class Filter(NamedTuple):
    """Which keys are meant: those that match all of these. Empty matches everything."""

    service: str = ""
    cause: str = ""
    key: str = ""
    text: str = ""
    """In the error, the headers or the data of what failed, without regard to case."""

    def __call__(self, stuck: Stuck) -> bool:
        first = stuck.first
        if self.cause and first.cause != self.cause:
            return False
        if self.key and (first.key or "") != self.key:
            return False
        if not self.text:
            return True
        said = (
            f"{first.error} {first.cause} {' '.join(first.headers.values())} {text_of(first.value)}"
        )
        return re.search(re.escape(self.text), said, re.IGNORECASE) is not None

    @property
    def any(self) -> bool:
        """Whether it matches everything."""
        return not any(self)

    def query(self, **more: Any) -> str:
        """For an address."""
        given = {**self._asdict(), **more}
        return urlencode({name: value for name, value in given.items() if value})


class Found(NamedTuple):
    stuck: list[Stuck]
    """The oldest first."""
    causes: list[str]
    """All causes that there are, whatever the filter."""
    away: dict[str, str]
    """The services whose database can't be read, and why."""


def text_of(value: bytes | None) -> str:
    return "" if value is None else value.decode(errors="backslashreplace")


async def find(reading: Reading, chosen: Filter) -> Found:
    """All that is parked and matches. A database that is away is said; the others are read."""
    names = [chosen.service] if chosen.service in reading.services else list(reading.services)
    answers = await asyncio.gather(
        *(_in_service(reading, name) for name in names), return_exceptions=True
    )
    stuck: list[Stuck] = []
    away: dict[str, str] = {}
    for name, answer in zip(names, answers, strict=True):
        if isinstance(answer, Unavailable):
            away[name] = " ".join(str(answer).split())
        elif isinstance(answer, BaseException):
            raise answer
        else:
            stuck += answer
    causes = sorted({each.first.cause for each in stuck})
    matching = [each for each in stuck if chosen(each)]
    matching.sort(key=lambda each: each.first.parked_at)
    return Found(matching, causes, away)


async def records_of(reading: Reading, of: Key, *, skip: int, limit: int) -> list[Parked]:
    """The parked records of a key, in their order. Raises `Unavailable` and `KeyError`."""
    given = {**_of(of), "skip": skip, "limit": limit}
    return [Parked(*row) for row in await reading.database(of.service).fetch(_WHOLE, given)]


def consumer_of(reading: Reading, of: Key) -> Handlers | None:
    """The handlers of the key's consumer; None if there is no such consumer."""
    service = reading.services.get(of.service)
    if service is None:
        return None
    consumers = service.consumers(reading.settings)
    return next((each for each in consumers if each.consumer == of.consumer), None)


def grouped(keys: Iterable[Key]) -> Mapping[str, Sequence[Key]]:
    """The keys of each service."""
    found: dict[str, list[Key]] = {}
    for each in keys:
        found.setdefault(each.service, []).append(each)
    return found


async def _in_service(reading: Reading, name: str) -> list[Stuck]:
    service, database = reading.services[name], reading.database(name)
    found: dict[Key, Stuck] = {}
    for consumer in (each.consumer for each in service.consumers(reading.settings)):
        for query in (_BLOCKED, _FOREIGN):
            for *record, count in await database.fetch(query, {"consumer": consumer}):
                first = Parked(*record)
                of = Key(name, consumer, first.topic, first.key)
                known = found.get(of)
                if known is None:
                    found[of] = Stuck(of, first, count)
                else:
                    found[of] = Stuck(of, known.first, known.records + count)
    return list(found.values())


def _of(key: Key) -> dict[str, Any]:
    return {"consumer": key.consumer, "topic": key.topic, "key": key.key}
