"""A table as what it must be: the fold of the log.

Each event carries the whole state of what it is about, so a table that events make is, row by row,
the newest version of every key. Written down once for each table, that sentence can be checked
against a live database (`audit`), and run to make the table again.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from eventspine.database import Connection, execute


class Fold(NamedTuple):
    """A table that holds the newest version of every key of a topic.

    `columns` says for each column, besides `id` and `version`, how it follows from an event's
    data: an SQL expression over `data`, a jsonb.
    """

    table: str
    topic: str
    columns: Mapping[str, str]


class Difference(NamedTuple):
    """A row that is not what the log says. `expected` and `found` are None where there is none."""

    id: int
    expected: dict[str, Any] | None
    found: dict[str, Any] | None


# Filled from the log, outside any schema: gone with the transaction.
CREATE_EVENTS = """
CREATE TEMPORARY TABLE audited_events (
    topic text NOT NULL, position bigint NOT NULL, data text NOT NULL
) ON COMMIT DROP
"""

COPY_EVENTS = "COPY audited_events (topic, position, data) FROM STDIN"

# What can't be understood was never applied: anybody may have written it. (CASE, because the sides
# of an AND are evaluated in any order.)
_EVENTS = """
SELECT position, id, version, data
FROM (
    SELECT position, data, CASE WHEN pg_input_is_valid(data->>'id', 'bigint')
        THEN (data->>'id')::bigint END AS id,
        CASE WHEN pg_input_is_valid(data->>'version', 'bigint')
        THEN (data->>'version')::bigint END AS version
    FROM (
        SELECT position, CASE WHEN pg_input_is_valid(data, 'jsonb') THEN data::jsonb END AS data
        FROM audited_events WHERE topic = %(topic)s OFFSET 0
    ) AS parsed
) AS understood
WHERE id IS NOT NULL AND version IS NOT NULL
"""

_NEWEST = f"""
SELECT DISTINCT ON (id) id, version, data FROM ({_EVENTS}) AS events ORDER BY id, version DESC
"""  # noqa: S608 - nobody's input

_SKIPPED = f"""
SELECT id, version, previous, count(*) OVER ()
FROM (
    SELECT id, version, coalesce(lag(version) OVER (PARTITION BY id ORDER BY position), 0) AS previous
    FROM (
        SELECT DISTINCT position, id, version FROM ({_EVENTS}) AS each
    ) AS events
) AS versions
WHERE version <> previous + 1
ORDER BY id, version LIMIT %(most)s
"""  # noqa: S608 - nobody's input


class Differences(NamedTuple):
    """The first few, and how many there are."""

    first: list[Difference]
    total: int
    rows: int
    """How many rows the table must have."""


async def differences(connection: Connection, fold: Fold, *, most: int = 10) -> Differences:
    """Compare the table with the events in `audited_events`, row by row, in one statement."""
    expected = ", ".join(f"({sql}) AS {column}" for column, sql in fold.columns.items())
    columns = ", ".join(fold.columns)
    # Column by column: two whole rows can't be compared where a column of the table has a collation.
    e, f = (
        ", ".join(f"{side}.{name}" for name in ("id", "version", *fold.columns)) for side in "ef"
    )
    cursor = await execute(
        connection,
        f"""
        WITH newest AS ({_NEWEST}),
        expected AS MATERIALIZED (SELECT id, version, {expected} FROM newest),
        found AS (SELECT id, version, {columns} FROM {fold.table})
        SELECT coalesce(e.id, f.id), to_jsonb(e), to_jsonb(f), count(*) OVER (),
            (SELECT count(*) FROM expected)
        FROM expected e FULL JOIN found f ON f.id = e.id
        WHERE ({e}) IS DISTINCT FROM ({f})
        ORDER BY 1 LIMIT %(most)s
        """,  # noqa: S608 - names from the code, not from anybody's input
        {"topic": fold.topic, "most": most},
    )
    rows = await cursor.fetchall()
    first = [Difference(id_, expected, found) for id_, expected, found, _, _ in rows]
    if rows:
        return Differences(first, rows[0][3], rows[0][4])
    [(total,)] = await _all(connection, f"SELECT count(*) FROM {fold.table}", {})  # noqa: S608 - as above
    return Differences([], 0, total)


async def skipped_versions(
    connection: Connection, topic: str, *, most: int = 10
) -> tuple[list[tuple[int, int, int]], int]:
    """Keys whose versions do not rise by one in the log's order: (id, version, the one before)."""
    rows = await _all(connection, _SKIPPED, {"topic": topic, "most": most})
    return [(id_, version, previous) for id_, version, previous, _ in rows], (
        rows[0][3] if rows else 0
    )


async def _all(connection: Connection, sql: str, params: Mapping[str, Any]) -> Sequence[Any]:
    return await (await execute(connection, sql, params)).fetchall()
