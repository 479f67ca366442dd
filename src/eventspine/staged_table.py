"""The temporary table of events that tables are computed from, and how records become its lines."""

import asyncio
from array import array
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from typing import Any

from pydantic_core import from_json

from eventspine.event import Envelope, Event, NotAnEvent, envelope, holds_nul
from eventspine.log import EventLog, LogUnavailable, Record
from eventspine.upcasting import lifted, read_events

_PAGE = 5000  # records read from the log at a time

_AHEAD = 4  # partitions of which a page is being read
_END = 2**63

STAGED = "staged_events"
"""Columns as in `projections._EVENTS`, and in which turn each event came."""

CREATE = """
CREATE TEMPORARY TABLE staged_events (
    topic text NOT NULL, position bigint NOT NULL, type text NOT NULL, key text,
    version bigint NOT NULL, event_time timestamptz, data jsonb NOT NULL, turn integer NOT NULL
)
"""

COPY = "COPY staged_events (topic, position, type, key, version, event_time, data, turn) FROM STDIN"


async def pages(
    log: EventLog, topic: str, starts: Mapping[int, int], ends: Mapping[int, int]
) -> AsyncIterator[list[Record]]:
    """The records of each partition, from one offset to another. Read ahead are the next page, and the first
    ones of the next partitions: on Kafka each partition begins with a wait.

    Raises `LogUnavailable` if the log ends earlier.
    """
    waiting = deque((at, starts[at], end) for at, end in sorted(ends.items()) if starts[at] < end)
    reading: deque[tuple[int, int, int, asyncio.Future[list[Record]]]] = deque()

    def read(partition: int, offset: int) -> asyncio.Future[list[Record]]:
        return asyncio.ensure_future(log.read(topic, partition, offset, _PAGE))

    try:
        while waiting or reading:
            while waiting and len(reading) < _AHEAD:
                partition, offset, end = waiting.popleft()
                reading.append((partition, offset, end, read(partition, offset)))
            partition, offset, end, page = reading[0]
            records = await page
            if not records:
                raise LogUnavailable(f"{topic}/{partition} ends at {offset}, and not at {end}")
            offset = records[-1].offset + 1
            if offset < end:
                reading[0] = (partition, offset, end, read(partition, offset))
            else:
                reading.popleft()
                records = [record for record in records if record.offset < end]
            yield records
    finally:
        for *_, page in reading:
            page.cancel()


def lines_of(
    records: Sequence[Record],
    wanted: Callable[[Record, Envelope], bool],
    class_of: Callable[[str], type[Event] | None],
    turn: int,
    undecodable: Callable[[Record, Envelope], None] | None = None,
    *,
    own: bool = False,
) -> list[tuple[bytes, int]]:
    """For `COPY`: each event's line and its position. What can't be decoded is left out, since no
    consumer has applied it; `undecodable` is told of it. The service's own events are only parsed, which
    takes a fifth of the time: they were in its outbox.
    """
    chosen: list[tuple[Record, Envelope]] = []
    classes: dict[type[Event] | None, list[int]] = {}
    for record in records:
        try:
            found = envelope(record)
        except NotAnEvent:
            continue
        if wanted(record, found):
            classes.setdefault(class_of(found.type), []).append(len(chosen))
            chosen.append((record, found))
    versions = array("q", bytes(8 * len(chosen)))  # 0 for what is not understood
    for event_class, places in classes.items():
        of_class = [chosen[place][0] for place in places]
        found_versions = _parsed(of_class) if own else _versions(event_class, of_class)
        for place, version in zip(places, found_versions, strict=True):
            versions[place] = version
    if undecodable is not None:
        for (record, found), version in zip(chosen, versions, strict=True):
            if not version:
                undecodable(record, found)
    return [
        (_line(record, found, class_of(found.type), version, turn), found.position)
        for (record, found), version in zip(chosen, versions, strict=True)
        if version
    ]


def _versions(event_class: type[Event] | None, records: Sequence[Record]) -> list[int]:
    if event_class is not None:
        try:
            return [event.version for event in read_events(event_class, records)]
        except NotAnEvent:
            if len(records) > 1:
                return [_versions(event_class, [record])[0] for record in records]
            return [0]
    return _parsed(records)


def _parsed(records: Sequence[Record]) -> list[int]:
    """The versions, by the data as it is: 0 where no table could hold it."""
    values = [record.value or b"" for record in records]
    array_of_all = b"[" + b",".join(values) + b"]"
    try:
        parsed = from_json(array_of_all, allow_inf_nan=False, cache_strings="keys")
    except ValueError:
        parsed = []
    if len(parsed) == len(values) and not holds_nul(array_of_all):
        return [_version(data) for data in parsed]
    if len(values) == 1:
        return [0]
    return [_parsed([record])[0] for record in records]


def _version(data: Any) -> int:
    version = data.get("version") if isinstance(data, dict) else None
    if not isinstance(version, int) or isinstance(version, bool):
        return 0
    return version if 0 < version < _END else 0


def _line(
    record: Record, found: Envelope, event_class: type[Event] | None, version: int, turn: int
) -> bytes:
    key = record.key
    if key is None or not key.isalnum():
        key = "\\N" if key is None else _field(key)
    time = record.headers.get("ce_time", "")
    try:
        datetime.fromisoformat(time)
    except ValueError:
        time = "\\N"
    start = f"{record.topic}\t{found.position}\t{_field(found.type)}\t{key}\t{version}\t{time}\t"
    data = record.value or b""
    if event_class is not None:
        # What is not decoded and can't be lifted either stays as it is.
        with suppress(NotAnEvent):
            data = lifted(event_class, record.headers, data)
    data = data.replace(b"\\", b"\\\\")
    if b"\n" in data or b"\t" in data or b"\r" in data:
        data = data.replace(b"\n", b" ").replace(b"\t", b" ").replace(b"\r", b" ")
    return start.encode() + data + f"\t{turn}\n".encode()


@lru_cache(maxsize=1024)  # types are few
def _field(text: str) -> str:
    """Of a text that any writer may have written."""
    text = text.replace("\x00", "").encode(errors="replace").decode()
    for what, escaped in (("\\", "\\\\"), ("\t", "\\t"), ("\n", "\\n"), ("\r", "\\r")):
        text = text.replace(what, escaped)
    return text
