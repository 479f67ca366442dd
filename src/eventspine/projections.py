"""Tables that can be recomputed from the event log, declared once for each table.

* A `Projection` holds the latest version of every key of a topic. Each event carries the whole state of its
  entity. `keep_latest` is the handler.
* An `Aggregate` accumulates values, such as points, stock levels or a balance. Its handler adds the amount of
  each event. Its declaration is a query that computes the same table from all events at once.
* An `Invariant` is a query that must return no row.

`audit` compares the first two with the log, and runs the third.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from eventspine.database import Connection, execute
from eventspine.errors import MissingEvents
from eventspine.event import Event, dump
from eventspine.outbox import Transaction
from eventspine.pruning import Aged
from eventspine.received import Received


class Projection:
    """A table with the latest version of every key of a topic.

    `columns` gives for each column its PostgreSQL type. The column is read from the field of the same name in
    the event's data. `computed` gives an SQL expression for each column that no event has. `key` gives the
    columns that identify a row; the default is the event's `id`. Every table also has a column `version`.
    `not_from_events` names columns that can't be recomputed. As a mapping it gives for each the SQL expression
    that comes closest, over the other columns and `event_time`, for a table that is restored from the log.
    `personal` names the columns that the last event of an erased person leaves empty. `aged` says that the
    worker deletes old rows, so a row that is missing is no difference.
    """

    def __init__(
        self,
        table: str,
        *,
        topic: str,
        columns: Mapping[str, str],
        computed: Mapping[str, str] | None = None,
        key: Mapping[str, str] | None = None,
        not_from_events: Sequence[str] | Mapping[str, str] = (),
        personal: Sequence[str] = (),
        aged: Aged | None = None,
    ) -> None:
        self.table = table
        self.aged = aged
        self.topic = topic
        self.key = dict(key or {"id": "bigint"})
        self.not_from_events = frozenset(not_from_events)
        self.closest = dict(not_from_events) if isinstance(not_from_events, Mapping) else {}
        self.personal = frozenset(personal)
        self.read = dict(columns)
        self.computed = dict(computed or {})

    @property
    def columns(self) -> list[str]:
        """The columns other than the key and the version."""
        return [*self.read, *self.computed]

    @property
    def selected(self) -> str:
        """The SELECT list that gives the table's columns, from a relation with the columns of `record`."""
        computed = [f"{sql} AS {name}" for name, sql in self.computed.items()]
        return ", ".join([*self.key, "version", *self.read, *computed])

    @property
    def record(self) -> str:
        """Column definitions for `jsonb_to_record` and similar functions."""
        columns = {**self.key, "version": "bigint", **self.read}
        return ", ".join(f"{name} {type_}" for name, type_ in columns.items())

    @cached_property
    def keep_latest(self) -> str:
        """SQL that stores the latest versions. It returns one event that skips a version, if there is one.

        The skip is judged by the table's state before the statement. (OFFSET 0 makes PostgreSQL do
        one look-up for each event. Version 1 skips nothing, so it needs none.)
        """
        every = ", ".join([*self.key, "version", *self.columns])
        key = ", ".join(self.key)
        replaced = ", ".join(f"{name} = excluded.{name}" for name in ("version", *self.columns))
        of_key = ", ".join(f"e.{name}" for name in self.key)
        same = " AND ".join(f"t.{name} = e.{name}" for name in self.key)
        return f"""
        WITH e AS MATERIALIZED (
            SELECT {self.selected} FROM json_to_recordset(%(events)s::json) AS r({self.record})
        ), kept AS (
            INSERT INTO {self.table} AS t ({every}) SELECT {every} FROM e ORDER BY {key}
            ON CONFLICT ({key}) DO UPDATE SET {replaced} WHERE t.version < excluded.version
        )
        SELECT concat_ws(', ', {of_key}), coalesce(t.version, 0), e.version
        FROM e LEFT JOIN LATERAL (
            SELECT version FROM {self.table} t WHERE {same} OFFSET 0
        ) AS t ON true
        WHERE e.version > 1 AND e.version > coalesce(t.version, 0) + 1
        LIMIT 1
        """  # noqa: S608 - names from the code, no user input


async def keep_latest(
    tx: Transaction, projection: Projection, received: Sequence[Received[Event]]
) -> None:
    """The handler of a projection: writes the whole state of each event, unless the table has a later one.

    A repeat changes nothing. Raises `MissingEvents` if an event skips a version.
    """
    events = dump([one.event for one in received])
    for key, known, got in await tx.fetch(projection.keep_latest, {"events": events}):
        tx.alarm(MissingEvents(projection.table, key, known=known, got=got))


class Aggregate(NamedTuple):
    """A table that accumulates values of the events of some topics.

    `rows` is a SELECT that computes the table's rows, with the columns `key` and `values`. It reads from a
    relation `events (topic, position, type, key, version, data)` that holds every event once; `data` is a jsonb,
    in the form of the current schema version.
    The columns of `key` must have the table's types.
    """

    table: str
    topics: Sequence[str]
    key: Sequence[str]
    values: Sequence[str]
    rows: str


class Invariant(NamedTuple):
    """A rule that must hold at every commit. `broken` is a SELECT that returns a row for each violation."""

    title: str
    broken: str


class Difference(NamedTuple):
    """A row that differs from the log. `expected` or `found` is None if that side has no such row."""

    key: str
    expected: dict[str, Any] | None
    found: dict[str, Any] | None


class Differences(NamedTuple):
    """The first differences, and how many there are."""

    first: list[Difference]
    total: int
    rows: int
    """The number of rows that the table must have."""


# Only events that can be decoded: the others were never applied, and any writer may have written them. (CASE,
# because PostgreSQL may evaluate the sides of an AND in any order.)
_EVENTS = """
SELECT topic, position, type, key, version, data
FROM (
    SELECT topic, position, type, key, data,
        CASE WHEN pg_input_is_valid(data->>'version', 'bigint')
        THEN (data->>'version')::bigint END AS version
    FROM (
        SELECT topic, position, type, key,
            CASE WHEN pg_input_is_valid(data, 'jsonb') THEN data::jsonb END AS data
        FROM audited_events WHERE topic = ANY(%(topics)s) OFFSET 0
    ) AS parsed
) AS understood
WHERE version IS NOT NULL
"""

# An event may be in both the log and the unrelayed outbox: the relay appends it before it saves its position.
_EACH_ONCE = f"""
SELECT DISTINCT ON (topic, position) * FROM ({_EVENTS}) AS each ORDER BY topic, position
"""  # noqa: S608 - no user input


async def differences(
    connection: Connection, table: Projection | Aggregate, *, most: int = 10
) -> Differences:
    """Compare the table with the events in `audited_events`, row by row, in one statement."""
    if isinstance(table, Projection):
        topics, key = [table.topic], list(table.key)
        columns = [*key, "version", *table.columns]
        events, expected = _EVENTS, _latest(table)
        may_lack_rows = table.aged is not None
    else:
        topics, key = list(table.topics), list(table.key)
        columns = [*key, *table.values]
        events, expected = _EACH_ONCE, table.rows
        may_lack_rows = False
    every = ", ".join(columns)
    # Column by column, because whole rows can't be compared if a column has a collation.
    e, f = (", ".join(f"{side}.{name}" for name in columns) for side in "ef")
    e_or_f = ", ".join(f"coalesce(e.{name}, f.{name})" for name in key)
    rows = await _all(
        connection,
        f"""
        WITH events AS ({events}),
        expected AS MATERIALIZED (SELECT {every} FROM ({expected}) AS rows),
        found AS (SELECT {every} FROM {table.table})
        SELECT concat_ws(', ', {e_or_f}), to_jsonb(e), to_jsonb(f), count(*) OVER (),
            (SELECT count(*) FROM expected)
        FROM expected e {"RIGHT" if may_lack_rows else "FULL"} JOIN found f ON {" AND ".join(f"f.{name} = e.{name}" for name in key)}
        WHERE ({e}) IS DISTINCT FROM ({f})
        ORDER BY {e_or_f} LIMIT %(most)s
        """,  # noqa: S608 - names from the code, no user input
        {"topics": topics, "most": most},
    )
    first = [Difference(key, expected, found) for key, expected, found, _, _ in rows]
    if rows:
        return Differences(first, rows[0][3], rows[0][4])
    [(total,)] = await _all(connection, f"SELECT count(*) FROM {table.table}", {})  # noqa: S608 - as above
    return Differences([], 0, total)


def _latest(table: Projection) -> str:
    key = ", ".join(table.key)
    return f"""
        SELECT {table.selected}
        FROM (
            SELECT DISTINCT ON ({", ".join(f"data->>'{name}'" for name in table.key)}) data
            FROM events WHERE {understood(table.key)}
            ORDER BY {", ".join(f"data->>'{name}'" for name in table.key)}, version DESC
        ) AS latest, jsonb_to_record(latest.data) AS r({table.record})
        ORDER BY {key}
        """  # noqa: S608 - as above


async def skipped_versions(
    connection: Connection, topic: str, key: Mapping[str, str], *, most: int = 10
) -> tuple[list[tuple[str, int, int]], int]:
    """Keys whose versions do not rise by one in the log's order: (key, version, the one before).

    `key` is the key of a projection of the topic.
    """
    columns = ", ".join(f"(data->>'{name}')::{type_}" for name, type_ in key.items())
    rows = await _all(
        connection,
        f"""
        SELECT concat_ws(', ', {_numbered(key)}), version, previous,
            count(*) OVER ()
        FROM (
            SELECT *, coalesce(lag(version) OVER (PARTITION BY {_numbered(key)} ORDER BY position), 0)
                AS previous
            FROM (
                SELECT DISTINCT position, version, {columns}
                FROM (SELECT * FROM ({_EVENTS}) AS each WHERE {understood(key)} OFFSET 0) AS understood
            ) AS events (position, version, {_numbered(key)})
        ) AS versions
        WHERE version <> previous + 1
        ORDER BY {_numbered(key)}, version LIMIT %(most)s
        """,  # noqa: S608 - names from the code, no user input
        {"topics": [topic], "most": most},
    )
    return [(key, version, previous) for key, version, previous, _ in rows], (
        rows[0][3] if rows else 0
    )


def _numbered(key: Mapping[str, str]) -> str:
    return ", ".join(f"k{n}" for n in range(len(key)))


def understood(key: Mapping[str, str]) -> str:
    """A condition: the event's data has this key, so it is about a row of the table."""
    return " AND ".join(
        f"pg_input_is_valid(data->>'{name}', '{type_}')" for name, type_ in key.items()
    )


async def breaches(
    connection: Connection, invariant: Invariant, *, most: int = 10
) -> tuple[list[dict[str, Any]], int]:
    """The first rows that violate an invariant, and how many there are."""
    rows = await _all(
        connection,
        f"SELECT to_jsonb(broken), count(*) OVER () FROM ({invariant.broken}) AS broken"  # noqa: S608 - as above
        " LIMIT %(most)s",
        {"most": most},
    )
    return [row for row, _ in rows], (rows[0][1] if rows else 0)


async def _all(connection: Connection, sql: str, params: Mapping[str, Any]) -> Sequence[Any]:
    return await (await execute(connection, sql, params)).fetchall()
