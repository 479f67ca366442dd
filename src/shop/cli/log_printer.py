"""`shop events`: prints the log, for a person or for a program."""

import asyncio
import json
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from rich.text import Text

from eventspine.log import EventLog, LogUnavailable, Record
from eventspine.seeking import committed_at, offsets_at
from shop.cli.console import Console
from shop.platform.terminal import plain

_LAST = 10
_AT_ONCE = 500
_LOOK_EVERY = 0.25  # seconds


class Shown(NamedTuple):
    """Which records are printed."""

    since: datetime | None = None
    pattern: re.Pattern[str] | None = None

    def __call__(self, record: Record) -> bool:
        if self.since is not None:
            time = committed_at(record)
            if time is not None and time < self.since:
                return False
        return self.pattern is None or self.pattern.search(_as_text(record)) is not None


async def follow_log(
    log: EventLog,
    topics: Sequence[str],
    *,
    start: int | None,
    shown: Shown,
    as_json: bool,
    follow: bool,
) -> None:
    """Print records as they arrive, until it is cancelled. Without `follow`, it stops at the end of the log.

    Raises `LogUnavailable`, also if a topic does not exist.
    """
    console = Console(highlight=False, soft_wrap=True)
    next_offsets: dict[tuple[str, int], int] = {}
    try:
        while True:
            seen = False
            for topic in topics:
                for partition, end in (await _ends(log, topic)).items():
                    at = (topic, partition)
                    offset = next_offsets.get(at)
                    if offset is None:
                        offset = await _begin(log, at, end, start, shown.since)
                    while offset < end:
                        records = await log.read(topic, partition, offset, _AT_ONCE)
                        if not records:
                            break
                        wanted = [each for each in records if shown(each)]
                        _print(wanted, None if as_json else console)
                        offset = records[-1].offset + 1
                        seen = True
                    next_offsets[at] = offset
            if not seen:
                if not follow:
                    return
                await asyncio.sleep(_LOOK_EVERY)
    finally:
        await log.close()


def _print(records: Sequence[Record], console: Console | None) -> None:
    """For a program if there is no console."""
    for record in records:
        if console is None:
            print(json.dumps(_as_dict(record)), flush=True)  # noqa: T201
        else:
            console.print(_as_line(record))


async def _begin(
    log: EventLog, at: tuple[str, int], end: int, start: int | None, since: datetime | None
) -> int:
    if since is not None:
        return (await offsets_at(log, {at: end}, since))[at]
    return max(0, end - _LAST) if start is None else start


async def _ends(log: EventLog, topic: str) -> dict[int, int]:
    ends = await log.end_offsets(topic)
    if not ends:
        raise LogUnavailable(f"there is no topic {topic}; `shop migrate` creates it")
    return ends


def _as_dict(record: Record) -> dict[str, Any]:
    return {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "key": record.key,
        "headers": dict(record.headers),
        "data": _data(record.value),
    }


def _data(value: bytes | None) -> Any:
    """The value as JSON, or its text if it is not JSON."""
    if value is None:
        return None
    try:
        return json.loads(value)
    except ValueError:
        return value.decode(errors="backslashreplace")


def _as_text(record: Record) -> str:
    """All of a record that `--grep` looks at: its key, headers and data."""
    headers = " ".join(f"{name}={value}" for name, value in record.headers.items())
    value = "" if record.value is None else record.value.decode(errors="backslashreplace")
    return f"{record.topic} {record.key} {headers} {value}"


def _as_line(record: Record) -> Text:
    headers = record.headers
    data = _data(record.value)
    shown = (
        " ".join(f"{name}={value}" for name, value in data.items())
        if isinstance(data, dict)
        else str(data)
    )
    return Text.assemble(
        (plain(headers.get("ce_time", "")[11:23]), "dim"),
        f" {record.topic}/{record.partition}@{record.offset} ",
        (plain(headers.get("ce_type", "not an event")), "bold"),
        (f" #{plain(headers.get('ce_id', '?'))} ", "cyan"),
        (plain(shown), ""),
    )
