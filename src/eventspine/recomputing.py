"""SQL that computes tables from staged events: all of them, or those of the last turn.

A table may have several declarations: a `Projection` says its rows, and an `Aggregate` over other topics
what some of their columns are. The projection is written first.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from eventspine.database import Connection, execute
from eventspine.errors import SpineError
from eventspine.projections import Aggregate, Projection, understood
from eventspine.staged_table import STAGED, TIME


class NotComputable(SpineError):
    """A table has a column that no declaration mentions, or the like."""


class Recomputed(NamedTuple):
    """A table and all that is declared of it."""

    name: str
    projections: Sequence[Projection]
    aggregates: Sequence[Aggregate]

    @property
    def topics(self) -> set[str]:
        declared = {projection.topic for projection in self.projections}
        return declared.union(*(aggregate.topics for aggregate in self.aggregates))

    @property
    def key(self) -> list[str]:
        return list(self.projections[0].key if self.projections else self.aggregates[0].key)

    @property
    def may_lack_rows(self) -> bool:
        """The worker deletes old ones."""
        return any(projection.aged for projection in self.projections)

    @property
    def compared(self) -> list[str]:
        """The key, and every column that can be recomputed."""
        columns = dict.fromkeys(self.key)
        for projection in self.projections:
            columns |= dict.fromkeys(["version", *projection.columns])
        for aggregate in self.aggregates:
            columns |= dict.fromkeys(aggregate.values)
        return list(columns)


def tables_of(declared: Sequence[Projection | Aggregate]) -> list[Recomputed]:
    names = dict.fromkeys(each.table for each in declared)
    return [
        Recomputed(
            name,
            [each for each in declared if each.table == name and isinstance(each, Projection)],
            [each for each in declared if each.table == name and isinstance(each, Aggregate)],
        )
        for name in names
    ]


_COLUMNS = """
SELECT a.attname, coalesce(pg_get_expr(d.adbin, d.adrelid), 'NULL'), a.attidentity <> ''
FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attrelid = %(table)s::regclass AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
ORDER BY a.attnum
"""


class Column(NamedTuple):
    name: str
    default: str
    is_identity: bool


async def columns_of(connection: Connection, table: str) -> list[Column]:
    cursor = await execute(connection, _COLUMNS, {"table": table})
    return [Column(*row) for row in await cursor.fetchall()]


async def check(connection: Connection, table: Recomputed) -> None:
    """Raises `NotComputable`."""
    kept = {name for projection in table.projections for name in projection.not_from_events}
    known = {*table.compared, *kept}
    columns = await columns_of(connection, table.name)
    if unknown := [column.name for column in columns if column.name not in known]:
        raise NotComputable(
            f"no declaration of the table {table.name} says what {', '.join(unknown)} must be: name the"
            " column in its projection, or in `not_from_events`"
        )


class Horizon(NamedTuple):
    """A restore into the past: events after it are staged only to know who is erased."""

    positions: Mapping[str, int]
    """Of each topic, the last that counts."""


async def fill(
    connection: Connection,
    table: Recomputed,
    *,
    into: str,
    old: str | None,
    horizon: Horizon | None,
) -> None:
    """Write the rows of an empty table. `old` has what no event carries: the table as it is now."""
    columns = await columns_of(connection, into)
    for projection in table.projections:
        sql, params = _rows(projection, columns, old, None, horizon)
        names = _names(columns)
        await execute(connection, f"INSERT INTO {into} ({names}) {sql}", params)
    for aggregate in table.aggregates:
        await _merge(connection, aggregate, columns, into, old, horizon)


async def bring_forward(
    connection: Connection,
    table: Recomputed,
    topics: Collection[str],
    columns: Sequence[Column],
    *,
    into: str,
    old: str,
    turn: int | None,
) -> None:
    """Write what has a later version among the staged events of these topics; of one turn, if it is given.

    First all rows that change are deleted, then they are written anew: two rows may have exchanged a unique
    value. In a transaction. `columns` are those of `into`.
    """
    for projection in table.projections:
        if projection.topic not in topics:
            continue
        sql, params = _rows(projection, columns, old, turn, None)
        names = _names(columns)
        same = " AND ".join(f"t.{name} = l.{name}" for name in projection.key)
        await execute(
            connection,
            f"CREATE TEMPORARY TABLE later_rows ON COMMIT DROP AS SELECT l.* FROM ({sql}) AS l"  # noqa: S608 - as above
            f" WHERE NOT EXISTS (SELECT FROM {into} t WHERE {same} AND t.version >= l.version)",
            params,
        )
        # Together, because others may wait for every answer of the server.
        then = (
            f"DELETE FROM {into} t USING later_rows l WHERE {same}",  # noqa: S608 - as above
            f"INSERT INTO {into} ({names}) SELECT {names} FROM later_rows",  # noqa: S608 - as above
            "DROP TABLE later_rows",
        )
        await connection.execute("; ".join(then).encode(), prepare=False)
    for aggregate in table.aggregates:
        if not table.topics.isdisjoint(topics):
            await _merge(connection, aggregate, columns, into, old, None)


def _names(columns: Sequence[Column]) -> str:
    return ", ".join(column.name for column in columns)


def _rows(
    projection: Projection,
    columns: Sequence[Column],
    old: str | None,
    turn: int | None,
    horizon: Horizon | None,
) -> tuple[str, dict[str, Any]]:
    """A SELECT of all columns of the table, by their names."""
    params: dict[str, Any] = {"topic": projection.topic, "turn": turn}
    limit = ""
    if horizon is not None and projection.topic in horizon.positions:
        params["upto"] = horizon.positions[projection.topic]
        limit = "AND position <= %(upto)s"
    latest = _latest(projection, limit if turn is None else f"{limit} AND turn = %(turn)s")
    if limit and projection.personal:
        latest = _without_erased(projection, latest)
    declared = {*projection.key, "version", *projection.columns}
    join = ""
    if old is not None:
        same = " AND ".join(f"o.{name} = l.{name}" for name in projection.key)
        join = f"LEFT JOIN {old} AS o ON {same}"
    chosen = []
    for column in columns:
        name = column.name
        if name in declared:
            chosen.append(f"l.{name}")
            continue
        default = "NULL" if column.is_identity else column.default
        closest = projection.closest.get(name, default)
        if old is None:
            chosen.append(f"{closest} AS {name}")
        elif name in projection.closest:
            # The row of the same version knows it exactly.
            chosen.append(
                f"CASE WHEN o.version = l.version THEN o.{name} ELSE {_of_latest(closest, projection)} END AS {name}"
            )
        else:
            chosen.append(f"coalesce(o.{name}, {default}) AS {name}")
    return f"SELECT {', '.join(chosen)} FROM ({latest}) AS l {join}", params  # noqa: S608 - as above


def _of_latest(expression: str, projection: Projection) -> str:
    """The expression with the columns of the latest event, where another table has them too."""
    names = ", ".join(["event_time", "version", *projection.key, *projection.columns])
    values = ", ".join(
        f"l.{name}" for name in ["event_time", "version", *projection.key, *projection.columns]
    )
    return f"(SELECT {expression} FROM (SELECT {values}) AS e({names}))"  # noqa: S608 - as above


def _latest(projection: Projection, where: str) -> str:
    key = ", ".join(f"data->>'{name}'" for name in projection.key)
    return f"""
        SELECT {projection.selected}, {TIME} AS event_time
        FROM (
            SELECT DISTINCT ON ({key}) data, event_time FROM {STAGED}
            WHERE topic = %(topic)s {where} AND {understood(projection.key)}
            ORDER BY {key}, version DESC
        ) AS latest, jsonb_to_record(latest.data) AS r({projection.record})
        """  # noqa: S608 - as above


def _without_erased(projection: Projection, latest: str) -> str:
    """Whoever is erased by now is erased in the past as well."""
    same = " AND ".join(f"now.{name} = past.{name}" for name in projection.key)
    blanked = {
        name: f"CASE WHEN now.{name} IS NULL THEN NULL ELSE past.{name} END AS {name}"
        for name in projection.personal
    }
    plain = [*projection.key, "version", *projection.read, "event_time"]
    chosen = ", ".join(blanked.get(name, f"past.{name}") for name in plain)
    computed = "".join(f", {sql} AS {name}" for name, sql in projection.computed.items())
    everything = _latest(projection, "")
    return f"""
        SELECT *{computed} FROM (
            SELECT {chosen} FROM ({latest}) AS past JOIN ({everything}) AS now ON {same}
        ) AS blanked
        """  # noqa: S608 - as above


async def _merge(
    connection: Connection,
    aggregate: Aggregate,
    columns: Sequence[Column],
    into: str,
    old: str | None,
    horizon: Horizon | None,
) -> None:
    key, values = list(aggregate.key), list(aggregate.values)
    others = [column for column in columns if column.name not in {*key, *values}]
    names = ", ".join(column.name for column in columns if column.name in {*key, *values})
    chosen = ", ".join(f"r.{name}" for name in (*key, *values))
    join, rest = "", ""
    if others and old is not None:
        same = " AND ".join(f"o.{name} = r.{name}" for name in key)
        join = f"LEFT JOIN {old} AS o ON {same}"
        rest = "".join(
            f", coalesce(o.{each.name}, {each.default}) AS {each.name}" for each in others
        )
        names = ", ".join(column.name for column in columns)
    inserted = ", ".join(f"s.{name}" for name in names.split(", "))
    same = " AND ".join(f"t.{name} = s.{name}" for name in key)
    differ = (
        f"({', '.join(f't.{name}' for name in values)}) IS DISTINCT FROM"
        f" ({', '.join(f's.{name}' for name in values)})"
    )
    update = ", ".join(f"{name} = s.{name}" for name in values)
    params: dict[str, Any] = {"topics": list(aggregate.topics)}
    limits = ""
    for n, topic in enumerate(aggregate.topics):
        if horizon is not None and topic in horizon.positions:
            params |= {f"topic_{n}": topic, f"upto_{n}": horizon.positions[topic]}
            limits += f" AND NOT (topic = %(topic_{n})s AND position > %(upto_{n})s)"
    await execute(
        connection,
        f"""
        WITH events AS (
            SELECT topic, position, type, key, version, data FROM {STAGED}
            WHERE topic = ANY(%(topics)s) {limits}
        )
        MERGE INTO {into} AS t
        USING (SELECT {chosen}{rest} FROM ({aggregate.rows}) AS r {join}) AS s ON {same}
        WHEN MATCHED AND {differ} THEN UPDATE SET {update}
        WHEN NOT MATCHED BY TARGET THEN INSERT ({names}) VALUES ({inserted})
        WHEN NOT MATCHED BY SOURCE THEN DELETE
        """,  # noqa: S608 - as above
        params,
    )
