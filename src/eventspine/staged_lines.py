"""How records become lines of the temporary table of events.

A whole log goes through here, so what each record costs counts. Headers as our relay writes them are taken as
bytes, and data is looked at for a page of records at once. All else goes the careful way, through a `Record`, to
the same lines.
"""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from pydantic_core import from_json

from eventspine.event import Event, NotAnEvent, decode, envelope, holds_nul
from eventspine.log import Raw, Record, record_of
from eventspine.upcasting import lifted

_END = 2**63

_IN_A_TIME = b"0123456789-:.TZ+"  # a text of these alone may still be none
_PLAIN_KEY = re.compile(rb"[\w:.@-]+")
_LONGEST_PLAIN = 18  # digits of a position that is below 2**63 in any case
_ZERO = ord("0")
_NO_VALUE = b"\\N"

# JSON that Python's reader accepts, and PostgreSQL's does not.
_NO_JSON = (b"NaN", b"Infinity")

Wanted = Callable[[int, str, int], bool]
"""Told the partition, the source and the position of each event, in the order of a partition's offsets."""


Line = tuple[bytes, int]
"""For `COPY`, and the event's position."""


_Found = tuple[Raw, int, bytes, bytes, bytes, bytes]
"""An event whose data is not looked at yet: position, type, key, time and value, as `COPY` wants them."""


class _Kind(NamedTuple):
    source: str
    event_class: type[Event] | None
    is_old: bool
    """Or perhaps: it has to be lifted."""


class Lines:
    """Of one topic's events. What can't be decoded is left out, since no consumer has applied it;
    `undecodable` is told of it. The service's own events are only parsed: they were in its outbox.
    """

    def __init__(
        self,
        topic: str,
        wanted: Wanted,
        class_of: Callable[[str], type[Event] | None],
        undecodable: Callable[[Record, int], None] | None = None,
        *,
        turn: int = 1,
        own: bool = False,
    ) -> None:
        self._topic = topic
        of_topic = _field(topic).replace(b"%", b"%%")
        self._line = b"%b\t%%d\t%%b\t%%b\t%%d\t%%b\t%%b\t%d\n" % (of_topic, turn)
        self._wanted = wanted
        self._undecodable = undecodable
        self._own = own
        self._class_of = class_of
        self._kind = lru_cache(maxsize=1024)(self._kind_of)

    def of(self, partition: int, page: Sequence[Raw]) -> list[Line]:
        """In the order of the page's offsets, but that events of one class stand together."""
        lines: list[Line] = []
        line = self._line
        for event_class, found in self._by_class(partition, page).items():
            events = found
            versions, values = self._read(event_class, [value for *_, value in events])
            if 0 in versions:
                versions, values, events = self._left_out(partition, versions, values, events)
            lines += [
                (line % (position, type_, key, version, time, value), position)
                for (_, position, type_, key, _, _), version, time, value in zip(
                    events, versions, _times(events), _escaped(values), strict=True
                )
            ]
        return lines

    def _left_out(
        self,
        partition: int,
        versions: Sequence[int],
        values: Sequence[bytes],
        events: Sequence[_Found],
    ) -> tuple[list[int], list[bytes], list[_Found]]:
        """Those that are events."""
        if self._undecodable is not None:
            for (raw, position, *_), version in zip(events, versions, strict=True):
                if not version:
                    self._undecodable(record_of(self._topic, partition, raw), position)
        kept = [n for n, version in enumerate(versions) if version]
        return [versions[n] for n in kept], [values[n] for n in kept], [events[n] for n in kept]

    def _by_class(
        self, partition: int, page: Sequence[Raw]
    ) -> dict[type[Event] | None, list[_Found]]:
        wanted, kind_of = self._wanted, self._kind
        found: dict[type[Event] | None, list[_Found]] = {}
        for raw in page:
            _, key, value, headers = raw
            named = dict(headers)
            id_, time = named.get("ce_id"), named.get("ce_time")
            type_ = named.get("ce_type")
            kind = kind_of(named.get("ce_source"), type_, named.get("ce_dataversion"))
            if (
                kind and type_ and id_ and time and key and value is not None
                and id_.isdigit() and id_[0] != _ZERO and len(id_) <= _LONGEST_PLAIN
                and (key.isalnum() or _PLAIN_KEY.fullmatch(key))
            ):  # fmt: skip
                event: _Found = (raw, int(id_), type_, key, time, value)
            elif careful := self._carefully(partition, raw):
                kind, event = careful
            else:
                continue
            source, event_class, is_old = kind
            if wanted(partition, source, event[1]):
                if is_old:
                    event = self._lifted(partition, event, event_class)
                found.setdefault(event_class, []).append(event)
        return found

    def _kind_of(
        self, source: bytes | None, type_: bytes | None, version: bytes | None
    ) -> _Kind | None:
        """None if they have to be read carefully."""
        if not source or not type_ or not source.isascii() or not type_.isascii():
            return None
        name = type_.decode()
        if _field(name) != type_:
            return None
        event_class = self._class_of(name)
        is_old = event_class is not None and version != b"%d" % event_class.schema_version
        return _Kind(source.decode(), event_class, is_old)

    def _carefully(self, partition: int, raw: Raw) -> tuple[_Kind, _Found] | None:
        """Any writer may have written it."""
        record = record_of(self._topic, partition, raw)
        try:
            found = envelope(record)
        except NotAnEvent:
            return None
        event_class = self._class_of(found.type)
        key = _NO_VALUE if record.key is None else _field(record.key)
        time = record.headers.get("ce_time", "").encode()
        return _Kind(found.source, event_class, event_class is not None), (
            raw, found.position, _field(found.type), key, time, record.value or b"",
        )  # fmt: skip

    def _lifted(self, partition: int, event: _Found, event_class: type[Event] | None) -> _Found:
        """What can't be lifted stays as it is if it is the service's own, and otherwise can't be decoded."""
        assert event_class is not None
        raw, value = event[0], event[5]
        headers = record_of(self._topic, partition, raw).headers
        try:
            value = lifted(event_class, headers, value)
        except NotAnEvent:
            value = value if self._own else b""
        return (*event[:5], value)

    def _read(
        self, event_class: type[Event] | None, values: Sequence[bytes]
    ) -> tuple[list[int], Sequence[bytes]]:
        """The versions, 0 where there is no event, and the data as PostgreSQL can read it."""
        try:
            if self._own or event_class is None:
                return _parsed(values), values
            events = decode(event_class, values)
        except NotAnEvent:
            if len(values) == 1:
                return [0], values
            each = [self._read(event_class, [value]) for value in values]
            return [versions[0] for versions, _ in each], [data[0] for _, data in each]
        if any(word in value for word in _NO_JSON for value in values):
            values = [event.as_json().encode() for event in events]
        return [event.version for event in events], values


def _parsed(values: Sequence[bytes]) -> list[int]:
    """The versions, by the data as it is. Raises `NotAnEvent` if no table could hold one of them."""
    array = b"[" + b",".join(values) + b"]"
    try:
        parsed = from_json(array, allow_inf_nan=False, cache_strings="keys")
    except ValueError as error:
        raise NotAnEvent(str(error)) from None
    # The values were joined into one array. A value `1,2` would be two items in it and shift the others.
    if len(parsed) != len(values) or holds_nul(array):
        raise NotAnEvent("it is not one value")
    return [_version(data) for data in parsed]


def _version(data: Any) -> int:
    version = data.get("version") if isinstance(data, dict) else None
    if not isinstance(version, int) or isinstance(version, bool):
        return 0
    return version if 0 < version < _END else 0


def _times(events: Sequence[_Found]) -> Sequence[bytes]:
    """For `COPY`."""
    times = [time for *_, time, _ in events]
    if b"".join(times).translate(None, _IN_A_TIME):
        return [
            _NO_VALUE if time.translate(None, _IN_A_TIME) else time or _NO_VALUE for time in times
        ]
    return times


def _escaped(values: Sequence[bytes]) -> Sequence[bytes]:
    """For `COPY`. In JSON a line break can only stand between its parts, where a space means the same."""
    together = b"".join(values)
    if b"\\" in together:
        values = [value.replace(b"\\", b"\\\\") for value in values]
    for space in (b"\n", b"\t", b"\r"):
        if space in together:
            values = [value.replace(space, b" ") for value in values]
    return values


@lru_cache(maxsize=1024)
def _field(text: str) -> bytes:
    """Of a text that any writer may have written."""
    text = text.replace("\x00", "").encode(errors="replace").decode()
    for what, escaped in (("\\", "\\\\"), ("\t", "\\t"), ("\n", "\\n"), ("\r", "\\r")):
        text = text.replace(what, escaped)
    return text.encode()
