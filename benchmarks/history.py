"""Compares the speed of a shop with five million events and one with fifty thousand."""

import dataclasses
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from statistics import median
from typing import Any, NamedTuple

import psycopg
from psycopg.rows import TupleRow

from benchmarks.load import CUSTOMERS, post_orders, require_wrk
from benchmarks.plot import Line, Panel, Point, svg
from benchmarks.report import Row, Section, spread
from benchmarks.shop_data import add_customers, add_orders
from benchmarks.stage import Shop, Stage, create_topics, wait_for

Connection = psycopg.Connection[TupleRow]

TITLE = "From 50,000 events to 5,000,000"
HOW = """\
Two shops use the same PostgreSQL, with four processes each; the log is a table. Both are measured at 50,000 events. Then
one of them is aged, and the other is left alone. Orders and their events are inserted as the order service's
transaction would have written them, 50,000 at a time, every tenth with an idempotency key. The relay, the log and the
user service's consumer then carry all of them to the user service's tables. Events stay in the outbox for 5 seconds
and keys for 60 (the smallest possible settings), so that pruning has to keep up.

At each point all events are applied, the outbox is pruned, and the tables are vacuumed and written out. So the
remaining work of a history that was made fast is not part of the measurement. Then **both shops are measured in
turns**: orders a second over 64 connections with everything running, so that events flow and the outbox is pruned
meanwhile; then the latency of a single order over one connection. A ratio is the old shop's figure divided by the
young one's of the same round, seconds apart, because the speed of this machine changes from minute to minute. At the
first point both have the same age. It shows the precision of such a ratio. The measurements age the young shop too, to
some hundred thousand events.

At the end every order of the old shop is looked for in the user service's copy. The positions, the checkpoint and the
log are compared. Nothing in the outbox or among the keys may be older than its retention, the pause between two
rounds of pruning, and ten seconds.
"""

PICTURE = "benchmarks-history.svg"

_POINTS = [50_000, *range(1_000_000, 5_000_001, 1_000_000)]
_CHUNK = 50_000
_MOST_AHEAD = 200_000
"""How many events the history generator may be ahead of the consumer."""

_OUTBOX_S, _KEYS_S = 5, 60
_PRUNED_EVERY_S = 1
_GRACE_S = 10

_BOUNDED = ("outbox", "idempotency_keys")
"""Tables that must not grow with history."""


class Measured(NamedTuple):
    """The measurements at one point, with one value for each round."""

    events: int
    per_second: list[float]
    p50: list[float]
    """Milliseconds."""
    p99: list[float]
    behind: list[float]
    """Seconds from the end of the load until the last order had reached the other service."""
    megabytes: dict[str, float]
    """Size on disk, with indexes, after the history was generated and before the load."""


class At(NamedTuple):
    """One point of the history."""

    young: Measured
    old: Measured


def run(stage: Stage) -> Section:
    require_wrk()
    scale = 1.0 if stage.effort == 1.0 else 0.01
    points = [round(point * scale) for point in _POINTS]
    measured: list[At] = []
    inserted, took = 0, 0.0
    with ExitStack() as held:
        young, old = (held.enter_context(_running(stage)) for _ in range(2))
        _grow(young, points[0], round(_CHUNK * scale))
        for point in points:
            began = time.monotonic()
            inserted += _grow(old, point, round(_CHUNK * scale))
            took += time.monotonic() - began
            measured.append(_measure(stage, young, old))
            stage.say(f"{_told(measured[-1])}; history took {took:.0f} s so far")
        _check(old)
    return _section(measured, pace=inserted / took)


@contextmanager
def _running(stage: Stage) -> Iterator["_Watch"]:
    """A separate shop, with all processes running and warmed up."""
    retention = {"SHOP_OUTBOX_RETENTION_S": _OUTBOX_S, "SHOP_IDEMPOTENCY_RETENTION_S": _KEYS_S}
    shop = stage.shop()
    env = {**shop.env, **{name: str(seconds) for name, seconds in retention.items()}}
    shop = dataclasses.replace(shop, env=env)
    add_customers(shop.orders, CUSTOMERS)
    create_topics(shop)
    with ExitStack() as held:
        for part in ("api", "worker"):
            for service in ("orders", "users"):
                held.enter_context(stage.shop_process(shop, part, service))
        watch = held.enter_context(_watching(shop))
        for connections in (64, 1):
            post_orders(shop.orders_url, connections=connections, seconds=stage.seconds(2))
        yield watch


class _Watch(NamedTuple):
    """A shop, and separate connections to its databases."""

    shop: Shop
    orders: Connection
    users: Connection
    log: Connection

    def head(self) -> int:
        return int(_one(self.orders, "SELECT position FROM outbox_head"))

    def behind(self) -> int:
        """Events that the user service has not applied yet."""
        applied = _one(self.users, "SELECT coalesce(max(last_position), 0) FROM cursors")
        return self.head() - int(applied)

    def caught_up(self, *, but_for: int = 0, timeout: float = 300) -> None:
        wait_for(lambda: self.behind() <= but_for, timeout=timeout, pause=0.02)

    def oldest(self, table: str, time: str, order: str) -> float:
        """The age of the oldest row in seconds; 0 if the table is empty."""
        row = self.orders.execute(
            f"SELECT extract(epoch FROM clock_timestamp() - {time}) FROM {table} "
            f"ORDER BY {order} LIMIT 1"
        ).fetchone()
        return float(row[0]) if row else 0.0

    def is_pruned(self) -> bool:
        return self.oldest("outbox", "time", "position") <= _OUTBOX_S + 2 * _PRUNED_EVERY_S

    def megabytes(self, table: str) -> float:
        return float(_one(self.orders, f"SELECT pg_total_relation_size('{table}')")) / 1e6


@contextmanager
def _watching(shop: Shop) -> Iterator[_Watch]:
    # In autocommit mode, because an open transaction would prevent vacuum from removing dead rows.
    with ExitStack() as held:
        urls = (shop.orders, shop.users, shop.log)
        yield _Watch(
            shop, *(held.enter_context(psycopg.connect(url, autocommit=True)) for url in urls)
        )


def _one(connection: Connection, sql: str) -> Any:
    row = connection.execute(sql.encode()).fetchone()
    assert row is not None
    return row[0]


def _grow(watch: _Watch, events: int, chunk: int) -> int:
    """Generate history up to so many events, apply all of them, and prune the outbox. Returns how many."""
    before = watch.head()
    while (missing := events - watch.head()) > 0:
        watch.caught_up(but_for=_MOST_AHEAD)
        add_orders(watch.shop.orders, min(chunk, missing), customers=CUSTOMERS)
    watch.caught_up()
    made = watch.head() - before
    wait_for(watch.is_pruned, timeout=120, pause=0.2)
    return made


def _measure(stage: Stage, young: _Watch, old: _Watch) -> At:
    at = At(_tidied(young), _tidied(old))
    for number in range(stage.rounds):
        # The order alternates too.
        turns = list(zip((young, old), at, strict=True))
        for watch, now in turns if number % 2 else reversed(turns):
            stage.settle()
            load = post_orders(watch.shop.orders_url, connections=64, seconds=stage.seconds(4))
            ended = time.monotonic()
            watch.caught_up()
            now.behind.append(time.monotonic() - ended)
            now.per_second.append(load.per_second)
            alone = post_orders(watch.shop.orders_url, connections=1, seconds=stage.seconds(3))
            now.p50.append(alone.p50)
            now.p99.append(alone.p99)
    return at


def _tidied(watch: _Watch) -> Measured:
    megabytes = {table: watch.megabytes(table) for table in _BOUNDED}
    # Otherwise autovacuum would do this work during the measurement.
    for connection, tables in (
        (watch.orders, "orders, outbox, idempotency_keys"),
        (watch.users, "orders"),
        (watch.log, "log_records"),
    ):
        connection.execute(f"VACUUM (ANALYZE) {tables}")
    return Measured(watch.head(), [], [], [], [], megabytes)


_SUMS = """
SELECT count(*) || ' orders, ids ' || sum(id) || ', prices ' || sum(total_price) FROM orders
"""


def _check(watch: _Watch) -> None:
    """Raises if an event was lost or applied twice, or if a row was kept for too long."""
    told = ""

    def is_whole() -> bool:
        nonlocal told
        head = watch.head()
        placed, copied = _one(watch.orders, _SUMS), _one(watch.users, _SUMS)
        in_log = _one(watch.log, "SELECT sum(next_offset) FROM log_heads WHERE topic = 'orders'")
        told = f"{head} published, {in_log} in the log, placed: {placed}; copied: {copied}"
        return bool(placed == copied and placed.startswith(f"{head} ") and in_log >= head)

    try:
        # An order for which wrk did not wait may still be in progress.
        wait_for(is_whole, timeout=60, pause=0.5)
    except TimeoutError:
        raise RuntimeError(f"events were lost or applied twice: {told}") from None
    for table, kept, (column, order) in (
        ("outbox", _OUTBOX_S, ("time", "position")),
        ("idempotency_keys", _KEYS_S, ("created_at", "created_at")),
    ):
        age = watch.oldest(table, column, order)
        if age > kept + _PRUNED_EVERY_S + _GRACE_S:
            raise RuntimeError(f"a row of {age:.0f} s is in {table}, where rows are kept {kept} s")


def _section(measured: Sequence[At], pace: float) -> Section:
    first, last = measured[0], measured[-1]
    half = len(measured) // 2
    return Section(
        TITLE,
        HOW,
        [
            Row(
                "two shops of the same age, orders a second", _ratios(first, "per_second"),
                "×", measured=_both(first, "per_second", "/s"),
            ),
            Row(
                "orders a second after five million events, against a young shop",
                _ratios(last, "per_second"), "×", at_least=0.9, want=1.0,
                measured=_both(last, "per_second", "/s"),
            ),
            Row(
                "two shops of the same age, p50 of a single order", _ratios(first, "p50"),
                "×", less_is_better=True, measured=_both(first, "p50", "ms"),
            ),
            Row(
                "p50 of a single order after five million events, against a young shop",
                _ratios(last, "p50"), "×", at_least=1.1, want=1.0, less_is_better=True,
                measured=_both(last, "p50", "ms"),
            ),
            Row(
                "p99 of a single order after five million events, against a young shop",
                _ratios(last, "p99"), "×", less_is_better=True, measured=_both(last, "p99", "ms"),
            ),
        ]
        + [_bounded(table, measured[:half], measured[half:]) for table in _BOUNDED],
        more=_table(measured, pace),
        pictures={PICTURE: _picture(measured)},
    )  # fmt: skip


def _bounded(table: str, younger: Sequence[At], older: Sequence[At]) -> Row:
    """Compares the largest size in both halves of the history. The table must not grow with the history."""
    before, after = (max(point.old.megabytes[table] for point in half) for half in (younger, older))
    return Row(
        f"largest `{table}` on disk, second half of history against first", [after / before],
        "×", at_least=2.0, less_is_better=True, measured=f"{after:.0f} MB against {before:.0f} MB",
    )  # fmt: skip


def _ratios(at: At, what: str) -> list[float]:
    """The ratios, round by round."""
    young, old = (getattr(shop, what) for shop in at)
    return [b / a for a, b in zip(young, old, strict=True)]


def _both(at: At, what: str, unit: str) -> str:
    return f"{spread(getattr(at.old, what), unit)} against {spread(getattr(at.young, what), unit)}"


def _told(at: At) -> str:
    sizes = ", ".join(f"{table} {size:.0f} MB" for table, size in at.old.megabytes.items())
    return (
        f"{at.old.events:,} events: {_both(at, 'per_second', '/s')}, p50 {_both(at, 'p50', 'ms')}, "
        f"p99 {_both(at, 'p99', 'ms')}; {sizes}"
    )


_LEGEND = """\
Each figure of the old shop, and after the bar the young one's of the same minutes.
*Behind*: how long after a load its last order had reached the other service, at most. *outbox*,
*idempotency_keys*: on disk with indexes, when history had been made. It was made at {pace:,.0f} events
a second, from the first inserted to the last applied and pruned."""


def _table(measured: Sequence[At], pace: float) -> str:
    lines = [
        f"![orders a second and latency, by events published so far]({PICTURE})",
        "",
        "The line is the median of the rounds, the band their lowest and highest.",
        "",
        "| events | orders a second | p50 | p99 | behind | outbox | idempotency_keys |",
        "| --: | --: | --: | --: | --: | --: | --: |",
        *(
            f"| {at.old.events:,} | {_beside(at, 'per_second', '/s')} | {_beside(at, 'p50', 'ms')} "
            f"| {_beside(at, 'p99', 'ms')} | {max(at.old.behind):.1f} s "
            f"| {at.old.megabytes['outbox']:.0f} MB | {at.old.megabytes['idempotency_keys']:.0f} MB |"
            for at in measured
        ),
        "",
        _LEGEND.format(pace=pace),
    ]
    return "\n".join(lines) + "\n"


def _beside(at: At, what: str, unit: str) -> str:
    return f"{spread(getattr(at.old, what), unit)} \\| {spread(getattr(at.young, what), unit)}"


def _picture(measured: Sequence[At]) -> str:
    def line(name: str, shop: str, what: str) -> Line:
        values = [(at.old.events, getattr(getattr(at, shop), what)) for at in measured]
        return Line(name, [Point(x, min(y), median(y), max(y)) for x, y in values])

    def panel(title: str, what: str) -> Panel:
        return Panel(
            title, [line("the old shop", "old", what), line("a young shop", "young", what)]
        )

    return svg(
        "A shop that ages to 5,000,000 events, and one that does not",
        "events published by the old shop so far",
        [
            panel("orders a second, 64 connections", "per_second"),
            panel("median latency of a single order, ms", "p50"),
        ],
    )
