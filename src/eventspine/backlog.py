"""The events in the outbox that have not been relayed yet, in batches."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import overload

from psycopg.pq.abc import PGresult

from eventspine.database import Connection, execute
from eventspine.event import message
from eventspine.log import Message

MOST_BYTES = 16 * 1024 * 1024
"""Of the data of one batch, as it is stored. Few outboxes come near; one of large events must
not fill the memory of the relay."""

# The first row always, however large it is. Sizes are as stored, so that asking for them costs
# no decompressing.
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


class Batch:
    """Rows of the outbox that follow each other. They remain as the server sent them.

    Made into Python's objects all at once, ten thousand would cost the caches and the garbage
    collector as much as everything else that a relay does with them.
    """

    def __init__(self, rows: PGresult, source: str, *, limit: int) -> None:
        self._rows = rows
        self._source = source
        self._limit = limit

    def __len__(self) -> int:
        return self._rows.ntuples

    @property
    def last_position(self) -> int:
        return int(self._rows.get_value(len(self) - 1, _POSITION) or 0)

    @property
    def is_full(self) -> bool:
        """Whether there are likely more behind it."""
        last = len(self) - 1
        return last >= 0 and (
            last + 1 >= self._limit or int(self._rows.get_value(last, _BYTES) or 0) >= MOST_BYTES
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
    """Each is made when it is asked for."""

    def __init__(self, rows: PGresult, source: str, numbers: Sequence[int]) -> None:
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
        def text(column: int) -> str:
            return (value(number, column) or b"").decode()

        value = self._rows.get_value
        headers = value(number, _HEADERS)
        return message(
            self._source,
            int(text(_POSITION)),
            text(_KEY),
            text(_TYPE),
            int(text(_SCHEMA_VERSION)),
            text(_TIME),
            value(number, _DATA) or b"",
            json.loads(headers) if headers is not None else None,
        )


async def following(connection: Connection, source: str, position: int, limit: int) -> Batch:
    """The next events of the outbox: `limit`, or as many as come to `MOST_BYTES`."""
    found = await execute(
        connection, _NEXT, {"position": position, "limit": limit, "most_bytes": MOST_BYTES}
    )
    assert found.pgresult is not None
    return Batch(found.pgresult, source, limit=limit)
