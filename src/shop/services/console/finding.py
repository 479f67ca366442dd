"""Rows of the services' own tables, found by any of their columns.

What each service keeps of its own is known from its projections, and their columns from its tables. So a new service
is found here without a line about it. A look is bounded: if no index answers it, it goes through `_WINDOW` rows, says so,
and goes on from there when it is asked to. So it is as quick over a million rows as over ten.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any, Literal, NamedTuple

from psycopg.sql import SQL, Composed, Identifier
from psycopg.sql import Literal as Constant
from sqlalchemy import BigInteger, Column, DateTime, Table, Text
from sqlalchemy.sql.functions import Function

from eventspine.projections import Projection
from shop.platform.service import Service
from shop.services.console.reading import Reading

ON_A_PAGE = 50
_WINDOW = 20_000
"""Rows that one look goes through."""
_SLACK = 10_000
"""Ids that may have been given out before a time, and committed after it."""
_LATE = timedelta(hours=1)
"""How much earlier a row may have begun than rows with lower keys."""
_END = 2**63 - 1

Kind = Literal["number", "text", "time"]


class Field(NamedTuple):
    """A column that can be asked for."""

    name: str
    kind: Kind
    indexed: Literal["", "plain", "lower"]
    """Whether an index finds its rows in the order of the key: as they are, or in lower case."""


@dataclass(frozen=True)
class Entities:
    """What a service keeps of its own: its orders, its users."""

    name: str
    """In addresses: the table's name, or, if two services have such a table, the service's and the table's."""
    service: str
    topic: str
    table: str
    key: str
    columns: tuple[str, ...]
    fields: tuple[Field, ...]
    timed: bool
    """Whether an index finds rows by their time."""

    def field(self, name: str) -> Field | None:
        return next((each for each in self.fields if each.name == name), None)

    @property
    def time(self) -> str:
        """The column that says when a row began; empty if none does."""
        return next((each.name for each in self.fields if each.kind == "time"), "")

    @property
    def one(self) -> str:
        """What one of them is called: order, user."""
        return self.table.removesuffix("s")


class Asked(NamedTuple):
    """The rows that are meant: those that match all of these."""

    given: Mapping[str, str]
    """By the column's name, as it was typed."""
    since: datetime | None = None
    before_time: datetime | None = None
    below: int = _END
    """The key that the page before ended with."""


class Found(NamedTuple):
    rows: list[dict[str, Any]]
    further: int | None
    """The key below which the next look goes on; None if nothing is left."""
    looked_at: int | None
    """Rows that this look went through; None if an index found them."""
    mistakes: list[str]


def entities(reading: Reading) -> Mapping[str, Entities]:
    """By name, in the order of the services."""
    return _entities(tuple(reading.services.values()))


@cache
def _entities(services: Sequence[Service]) -> Mapping[str, Entities]:
    found: dict[str, Entities] = {}
    for service in services:
        for each in service.projections:
            if not (isinstance(each, Projection) and service.topic and each.topic == service.topic):
                continue
            table = service.tables().tables[each.table]
            key, *more = each.key
            if more or not isinstance(table.c[key].type, BigInteger):
                continue  # rows with a key of several columns, or of text, have no such order
            name = each.table if each.table not in found else f"{service.name}.{each.table}"
            found[name] = Entities(
                name,
                service.name,
                service.topic,
                each.table,
                key,
                tuple(column.name for column in table.columns),
                fields := tuple(_fields(table, key)),
                any(each.kind == "time" and each.indexed for each in fields[:]),
            )
    return found


def _fields(table: Table, key: str) -> list[Field]:
    found = []
    for column in table.columns:
        kind: Kind
        if isinstance(column.type, BigInteger) and column.name != "version":
            kind = "number"
        elif isinstance(column.type, Text):
            kind = "text"
        elif isinstance(column.type, DateTime):
            kind = "time"
        else:
            continue
        found.append(Field(column.name, kind, _index(table, column, key)))
    return found


def _index(table: Table, column: "Column[Any]", key: str) -> Literal["", "plain", "lower"]:
    if column.name == key:
        return "plain"
    for index in table.indexes:
        first, *more = index.expressions
        in_order = [getattr(each, "name", None) for each in more] == [key]
        if index.dialect_options["postgresql"].get("where") is not None:
            continue
        if isinstance(first, Column) and first.name == column.name and (in_order or index.unique):
            return "plain"
        if (
            isinstance(first, Function)
            and first.name == "lower"
            and index.unique
            and [getattr(each, "name", None) for each in first.clauses] == [column.name]
        ):
            return "lower"
    return ""


async def look(reading: Reading, of: Entities, asked: Asked) -> Found:
    """A page of rows, the newest first. Raises `Unavailable`."""
    conditions: list[Composed] = []
    values: dict[str, Any] = {"below": asked.below}
    mistakes = []
    direct = False
    for name, text in asked.given.items():
        field = of.field(name)
        if field is None or field.kind == "time":
            continue
        if field.kind == "number":
            if not (text.isascii() and text.isdecimal() and int(text) < _END):
                mistakes.append(f"{name}: {text!r} is not a number")
                continue
            values[name] = int(text)
            conditions.append(SQL("{0} = {1}").format(Identifier(name), _value(name)))
        else:
            values[name] = text
            conditions.append(SQL("lower({0}) = lower({1})").format(Identifier(name), _value(name)))
        direct = direct or field.indexed == ("lower" if field.kind == "text" else "plain")
    if mistakes:
        return Found([], None, None, mistakes)
    if of.time:
        for bound, sign, name in ((asked.since, ">=", "since"), (asked.before_time, "<", "until")):
            if bound is not None:
                values[name] = bound
                conditions.append(
                    SQL("{0} " + sign + " {1}").format(Identifier(of.time), _value(name))
                )
    if direct or not conditions:
        rows = await _rows(reading, of, conditions, values, within=None)
        further = rows[ON_A_PAGE - 1][of.key] if len(rows) > ON_A_PAGE else None
        return Found(rows[:ON_A_PAGE], further, None, [])
    return await _in_window(reading, of, asked, conditions, values)


async def one(reading: Reading, of: Entities, key: int) -> dict[str, Any] | None:
    """The row with this key. Raises `Unavailable`."""
    condition = SQL("{0} = %(key)s").format(Identifier(of.key))
    found = await _rows(reading, of, [condition], {"below": _END, "key": key}, within=None)
    return found[0] if found else None


async def _in_window(
    reading: Reading,
    of: Entities,
    asked: Asked,
    conditions: Sequence[Composed],
    values: dict[str, Any],
) -> Found:
    if asked.before_time is not None and asked.below == _END and of.timed:
        values["below"] = await _below(reading, of, asked.before_time)
    rows = await _rows(reading, of, conditions, values, within=_WINDOW)
    [(count, lowest, began)] = await reading.database(of.service).fetch(
        _bytes(
            SQL(
                "WITH looked AS (SELECT * FROM {table} WHERE {key} < %(below)s ORDER BY {key} DESC LIMIT {most})"
                " SELECT count(*), min({key}), (SELECT {time} FROM looked ORDER BY {key} LIMIT 1) FROM looked"
            ).format(
                table=Identifier(of.table),
                key=Identifier(of.key),
                most=Constant(_WINDOW),
                time=Identifier(of.time) if of.time else SQL("NULL::timestamptz"),
            )
        ),
        values,
    )
    further = None
    if len(rows) > ON_A_PAGE:
        further = rows[ON_A_PAGE - 1][of.key]
    elif count == _WINDOW and not (asked.since and began and began < asked.since - _LATE):
        further = lowest
    return Found(rows[:ON_A_PAGE], further, count, [])


async def _below(reading: Reading, of: Entities, time: datetime) -> int:
    """A key that nearly all rows from before the time are below."""
    found = await reading.database(of.service).fetch(
        _bytes(
            SQL(
                "SELECT {key} FROM {table} WHERE {time} < %(until)s ORDER BY {time} DESC, {key} DESC LIMIT 1"
            ).format(table=Identifier(of.table), key=Identifier(of.key), time=Identifier(of.time))
        ),
        {"until": time},
    )
    return min(_END - 1, found[0][0] + _SLACK) if found else 0


async def _rows(
    reading: Reading,
    of: Entities,
    conditions: Sequence[Composed],
    values: Mapping[str, Any],
    *,
    within: int | None,
) -> list[dict[str, Any]]:
    """One more than a page. `within` so many of the newest rows, or all."""
    key, table = Identifier(of.key), Identifier(of.table)
    if within is None:
        source: Composed = SQL("{0}").format(table)
    else:
        source = SQL(
            "(SELECT * FROM {0} WHERE {1} < %(below)s ORDER BY {1} DESC LIMIT {2}) AS looked"
        ).format(table, key, Constant(within))
    statement = SQL(
        "SELECT {columns} FROM {source} WHERE {key} < %(below)s AND {conditions} ORDER BY {key} DESC LIMIT {limit}"
    ).format(
        columns=SQL(", ").join(map(Identifier, of.columns)),
        source=source,
        key=key,
        conditions=SQL(" AND ").join([*conditions, SQL("true")]),
        limit=Constant(ON_A_PAGE + 1),
    )
    found = await reading.database(of.service).fetch(_bytes(statement), values)
    return [dict(zip(of.columns, row, strict=True)) for row in found]


def _value(name: str) -> SQL:
    return SQL("%(" + name + ")s")


def _bytes(statement: Composed) -> bytes:
    return statement.as_bytes(None)
