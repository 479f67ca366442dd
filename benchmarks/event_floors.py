"""Measures what an event costs in the relay and in the consumer, against the least with the same libraries."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import psycopg

from benchmarks import cpu
from benchmarks.floors import floor
from benchmarks.kafka_stage import broker, create_topic, delete_topics, empty_shop, left_out
from benchmarks.orders_a_second import ratios
from benchmarks.report import Row, Section, spread
from benchmarks.shop_data import add_users
from benchmarks.stage import Shop, Stage
from devstack.kafka import KafkaNotPossible, LocalKafka
from eventspine.event import message
from shop.platform.event_log import relay_batch
from shop.platform.settings import Settings

TITLE = "An event against its floor"
HOW = """\
The outbox has 200,000 `user.created` events. The relay, alone in its process, copies them to Kafka; then the consumer,
alone in its process, applies them to `customers`. Each is compared with a **floor** (`benchmarks/floor_service.py`). For the
relay it is a confluent-kafka producer with the same settings, keys, headers and values, which are ready in its memory. It is
flushed as often as the relay flushes. Before the first round it sends 100,000 records that are not counted, because a
broker that has just started is slow. For the consumer it is one `COPY` of the same rows into an empty
`customers`. CPU time is user and system, of the process and of PostgreSQL's sessions. A floor reads no database or log,
knows no position and drops no repeat.
"""

_TOPIC = "floor"


class Cost(NamedTuple):
    """Of one event, in µs."""

    process: float
    postgres: float
    took: float


def run(stage: Stage) -> Section:
    if not Path("/proc/self/stat").exists():
        return Section(TITLE, HOW, left_out="CPU time of a process is read from Linux's /proc")
    events = stage.number(200_000, least=20_000)
    costs: dict[str, list[Cost]] = {name: [] for name in ("relay", "producer", "consumer", "copy")}
    try:
        with broker(stage) as kafka:
            for number in range(stage.rounds):
                stage.say(f"event floors: round {number + 1} of {stage.rounds}")
                shop = empty_shop(stage, kafka)
                add_users(shop.users, events)
                if number == 0:
                    _producer(kafka, shop, min(events, 100_000))
                stage.settle()
                costs["relay"].append(
                    _part(stage, shop, "relay", shop.users, "SELECT position FROM relay", events)
                )
                costs["producer"].append(_producer(kafka, shop, events))
                stage.settle()
                applied = "SELECT sum(next_offset) FROM cursors"
                costs["consumer"].append(
                    _part(stage, shop, "consumer", shop.orders, applied, events)
                )
                stage.settle()
                costs["copy"].append(_copy(stage, shop))
    except KafkaNotPossible as why:
        return left_out(TITLE, HOW, why)
    return Section(TITLE, HOW, _rows(costs), more=_table(costs))


def _rows(costs: Mapping[str, Sequence[Cost]]) -> list[Row]:
    rows = []
    for ours, least, must, want in (
        ("relay", "producer", 0.55, 0.70),
        ("consumer", "copy", 0.12, 0.15),
    ):
        took = [[1e6 / cost.took for cost in costs[name]] for name in (ours, least)]
        spent = [[cost.process + cost.postgres for cost in costs[name]] for name in (least, ours)]
        rows += [
            Row(
                f"{ours}: events a second, against its floor", ratios(*took), "×",
                at_least=must, want=want,
                measured=f"{spread(took[0], '/s')} against {spread(took[1], '/s')}",
            ),
            Row(
                f"{ours}: CPU time of its floor, against its own with PostgreSQL's",
                ratios(*spent), "×",
                measured=f"{spread(spent[0], 'µs')} against {spread(spent[1], 'µs')}",
            ),
        ]  # fmt: skip
    return rows


def _table(costs: Mapping[str, Sequence[Cost]]) -> str:
    lines = [
        "| µs an event | CPU of the process | CPU of PostgreSQL | time |",
        "| --- | --- | --- | --- |",
    ]
    for name, of in costs.items():
        process, postgres, took = (median(values) for values in zip(*of, strict=True))
        lines.append(f"| {name} | {process:.2f} | {postgres:.2f} | {took:.2f} |")
    return "\n".join(lines) + "\n"


def _part(stage: Stage, shop: Shop, part: str, database: str, progress: str, events: int) -> Cost:
    """From its first progress to its last: starting and joining are not counted."""
    sessions = stage.postgres.pid
    with stage.running(f"{part}-{stage.made}", "benchmarks.one_worker", part, env=shop.env) as one:
        assert one.pid is not None
        assert sessions is not None
        with psycopg.connect(database, autocommit=True) as connection:
            before = _until(connection, progress, 1)
            spent = [cpu.seconds(one.pid), cpu.of_children(sessions), time.perf_counter()]
            after = _until(connection, progress, events)
            ended = [cpu.seconds(one.pid), cpu.of_children(sessions), time.perf_counter()]
    process, postgres, took = (
        (end - begin) / (after - before) * 1e6 for begin, end in zip(spent, ended, strict=True)
    )
    return Cost(process, postgres, took)


def _until(connection: psycopg.Connection, progress: str, enough: int) -> int:
    deadline = time.monotonic() + 300
    while True:
        row = connection.execute(progress).fetchone()
        if row and row[0] and row[0] >= enough:
            return int(row[0])
        if time.monotonic() > deadline:
            raise TimeoutError(f"{row} of {enough} after 300 s")
        # Each look costs PostgreSQL time.
        time.sleep(0.02)


def _producer(kafka: LocalKafka, shop: Shop, events: int) -> Cost:
    delete_topics(kafka, [_TOPIC])
    create_topic(kafka, _TOPIC)
    flush = relay_batch(Settings(event_log="kafka"))
    given = {
        "kafka": kafka.bootstrap_servers,
        "topic": _TOPIC,
        "events": events,
        "flush": flush,
        "records": _records(shop, flush),
    }
    return _of(floor("producer", given), 0.0)


def _records(shop: Shop, count: int) -> list[tuple[str, str, list[tuple[str, str]]]]:
    with psycopg.connect(shop.users) as connection:
        rows = connection.execute(
            "SELECT position, key, type, time::text, data::text FROM outbox LIMIT %s", [count]
        ).fetchall()
    records = []
    for position, key, type_, at, data in rows:
        sent = message("/users", str(position), key, type_, "1", at, data.encode(), None)
        headers: list[tuple[str, Any]] = list(sent.headers.items())
        records.append((key, data, [(name, _text(value)) for name, value in headers]))
    return records


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode()


def _copy(stage: Stage, shop: Shop) -> Cost:
    empty = stage.shop()
    sessions = stage.postgres.pid
    assert sessions is not None
    with psycopg.connect(shop.orders) as connection:
        row = connection.execute("SELECT count(*) FROM customers").fetchone()
    assert row is not None
    before = cpu.of_children(sessions)
    told = floor("copy", {"source": shop.orders, "database": empty.orders})
    # With that of reading the rows, about a fifth of it.
    return _of(told, (cpu.of_children(sessions) - before) / row[0] * 1e6)


def _of(told: Mapping[str, float], postgres: float) -> Cost:
    return Cost(told["cpu"] * 1e6, postgres, told["took"] * 1e6)
