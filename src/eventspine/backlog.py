"""The events in the outbox that have not been relayed yet, in batches."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import repeat
from typing import Any, overload

from psycopg.adapt import Transformer
from psycopg.pq import Format
from psycopg.pq.abc import PGresult

from eventspine.database import Connection, execute, read_whole
from eventspine.event import encoded_message, message_of, source_header
from eventspine.log import Encoded, Message

MOST_BYTES = 16 * 1024 * 1024
"""The largest size of the data of one batch, as stored. It limits the relay's memory if events are
large; most outboxes never reach it."""

# It always returns the first row, even if that alone exceeds the limit. Sizes are as stored, so that
# measuring them needs no decompression.
_NEXT = b"""
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
_NEXT_OF_MANY = _NEXT % {b"position": b"$1", b"limit": b"$2", b"most_bytes": b"$3"}

_POSITION, _TOPIC, _HEADERS, _BYTES = 0, 1, 7, 8

_ROWS_AT_ONCE = 200
_BYTEA = 17  # the type's number


# In the text of a jsonb. A quote in a value is escaped there.
_SAMPLED = re.compile(
    rb'"traceparent": "00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f][13579bdf]"'
)


class Batch:
    """Consecutive rows of the outbox, in the form in which the server sent them.

    Few rows at a time become Python objects. Ten thousand rows converted at once would cost as much time, in
    CPU caches and garbage collection, as the rest of the relay's work.
    """

    def __init__(self, rows: PGresult, source: str, *, limit: int) -> None:
        self._rows = rows
        self._source = source_header(source)
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
        topics = Counter(map(self._rows.get_value, range(len(self)), repeat(_TOPIC)))
        return {
            topic.decode(): _Messages(self, topic, count, self._source)
            for topic, count in topics.items()
            if topic is not None
        }

    def pages(self) -> Iterator[list[tuple[Any, ...]]]:
        """The columns of some rows at a time, as bytes; null is None."""
        # psycopg copies each column in C. The loader of a bytea changes nothing.
        loader = Transformer()
        loader.set_pgresult(self._rows, set_loaders=False)
        loader.set_loader_types([_BYTEA] * self._rows.nfields, Format.BINARY)
        for first in range(0, len(self), _ROWS_AT_ONCE):
            yield loader.load_rows(first, min(first + _ROWS_AT_ONCE, len(self)), tuple)


class _Messages(Sequence[Message]):
    """The messages of a batch to one topic. Each is made when its turn comes."""

    def __init__(self, batch: Batch, topic: bytes, count: int, source: tuple[str, bytes]) -> None:
        self._batch = batch
        self._topic = topic
        self._count = count
        self._source = source

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Message]:
        return map(message_of, self.encoded())

    @overload
    def __getitem__(self, index: int) -> Message: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Message]: ...

    def __getitem__(self, index: int | slice) -> Message | Sequence[Message]:
        return [*self][index]

    def encoded(self) -> Iterator[Encoded]:
        topic, source = self._topic, self._source
        for page in self._batch.pages():
            for position, of, key, type_, version, time, data, headers, _ in page:
                if of == topic:
                    yield encoded_message(
                        source, position, key, type_, version, time, data, headers
                    )


async def following(
    connection: Connection, source: str, position: int, limit: int, *, many: bool = False
) -> Batch:
    """The next events of the outbox: at most `limit`, and about `MOST_BYTES` of data.

    `many` says that a full batch is expected. A thread then reads it, and the statement is not prepared: less
    time for ten thousand events, and more for one.
    """
    if many:
        values = [b"%d" % value for value in (position, limit, MOST_BYTES)]
        rows = await read_whole(connection, _NEXT_OF_MANY, values)
    else:
        params = {"position": position, "limit": limit, "most_bytes": MOST_BYTES}
        found = (await execute(connection, _NEXT, params)).pgresult
        assert found is not None
        rows = found
    return Batch(rows, source, limit=limit)
