"""The events in the outbox that have not been relayed yet, in batches."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload

from psycopg.pq.abc import PGresult

from eventspine.database import Connection, execute
from eventspine.event import encoded_message
from eventspine.log import Message

MOST_BYTES = 16 * 1024 * 1024
"""The largest size of the data of one batch, as stored. It limits the relay's memory if events are
large; most outboxes never reach it."""

# It always returns the first row, even if that alone exceeds the limit. Sizes are as stored, so that
# measuring them needs no decompression.
_NEXT = """
SELECT position, topic, key, type, schema_version,
    to_char(time AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), data::text, headers::text,
    bytes
FROM (
    SELECT *, sum(pg_column_size(data)) OVER (ORDER BY position ROWS UNBOUNDED PRECEDING) AS bytes
    FROM (
        SELECT * FROM outbox WHERE position > %(position)s ORDER BY position LIMIT %(limit)s
    ) AS following
) AS counted
WHERE bytes - pg_column_size(data) < %(most_bytes)s ORDER BY position
"""

_POSITION, _TOPIC, _KEY, _TYPE, _SCHEMA_VERSION, _TIME, _DATA, _HEADERS, _BYTES = range(9)


# In the text of a jsonb. A quote in a value is escaped there.
_SAMPLED = re.compile(
    rb'"traceparent": "00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f][13579bdf]"'
)


class Batch:
    """Consecutive rows of the outbox, in the form in which the server sent them.

    A row becomes Python objects only when it is needed. Ten thousand rows converted at once would
    cost as much time, in CPU caches and garbage collection, as the rest of the relay's work.
    """

    def __init__(self, rows: PGresult, source: str, *, limit: int) -> None:
        self._rows = rows
        self._source = source.encode()
        self._limit = limit

    def __len__(self) -> int:
        return self._rows.ntuples

    @property
    def last_position(self) -> int:
        return int(self._rows.get_value(len(self) - 1, _POSITION) or 0)

    @property
    def is_full(self) -> bool:
        """Whether more rows probably follow."""
        last = len(self) - 1
        return last >= 0 and (
            last + 1 >= self._limit or int(self._rows.get_value(last, _BYTES) or 0) >= MOST_BYTES
        )

    def sampled(self) -> Iterator[tuple[str, str, Mapping[str, str]]]:
        """The events whose traces are recorded: position, topic, and the headers of the request."""
        value: Any = self._rows.get_value
        for number in range(len(self)):
            headers = value(number, _HEADERS)
            if headers is not None and _SAMPLED.search(headers):
                yield (
                    value(number, _POSITION).decode(),
                    value(number, _TOPIC).decode(),
                    json.loads(headers),
                )

    def by_topic(self) -> Mapping[str, Sequence[Message]]:
        numbers: dict[bytes, list[int]] = {}
        for number in range(len(self)):
            topic = self._rows.get_value(number, _TOPIC) or b""
            numbers.setdefault(topic, []).append(number)
        return {
            topic.decode(): _Messages(self._rows, self._source, of_topic)
            for topic, of_topic in numbers.items()
        }


class _Messages(Sequence[Message]):
    """Creates each message when it is accessed."""

    def __init__(self, rows: PGresult, source: bytes, numbers: Sequence[int]) -> None:
        self._rows = rows
        self._source = source
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> Message: ...

    @overload
    def __getitem__(self, index: slice) -> "Sequence[Message]": ...

    def __getitem__(self, index: int | slice) -> "Message | Sequence[Message]":
        if isinstance(index, slice):
            return _Messages(self._rows, self._source, self._numbers[index])
        return self._message(self._numbers[index])

    def __iter__(self) -> Iterator[Message]:
        return map(self._message, self._numbers)

    def _message(self, number: int) -> Message:
        value: Any = self._rows.get_value  # no column is null but the headers
        headers = value(number, _HEADERS)
        return encoded_message(
            self._source,
            value(number, _POSITION),
            value(number, _KEY),
            value(number, _TYPE),
            value(number, _SCHEMA_VERSION),
            value(number, _TIME),
            value(number, _DATA),
            None if headers is None else json.loads(headers),
        )


async def following(connection: Connection, source: str, position: int, limit: int) -> Batch:
    """The next events of the outbox: at most `limit`, and about `MOST_BYTES` of data."""
    found = await execute(
        connection, _NEXT, {"position": position, "limit": limit, "most_bytes": MOST_BYTES}
    )
    assert found.pgresult is not None
    return Batch(found.pgresult, source, limit=limit)
