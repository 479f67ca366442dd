"""Measures the polling relay against Debezium, on one outbox."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from statistics import quantiles
from typing import Any

import psutil
import psycopg
from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, Consumer, TopicPartition
from psycopg.types.json import Jsonb

from benchmarks.kafka_stage import broker, empty_shop, in_log, left_out
from benchmarks.report import Row, Section, spread
from benchmarks.shop_data import add_users
from benchmarks.stage import Shop, Stage, wait_for
from devstack.connect import Captured, Connect
from devstack.kafka import KafkaNotPossible, LocalKafka
from devstack.process import Process
from devstack.supervisor import StartFailed, wait_ready

TITLE = "The polling relay against Debezium"
HOW = """\
One Kafka broker, as above, and one outbox of the user service. First a *backlog*: 200,000 `user.created` events are in the outbox
(for Debezium: in the write-ahead log behind its slot) when the relay, or Kafka Connect with Debezium, is started, alone in its
process. The rate is that from the first record to the last, by the broker's own timestamps. Then it stays running, and
*1,000 events a second* are committed, ten at a time, for 20 s. The latency is the time from the answer to the commit to
the moment at which a consumer has the record. CPU is that of the process meanwhile; Debezium's does not include PostgreSQL's
work to decode the write-ahead log, nor the worker that follows it. Memory is resident (RSS), at the end. Both have the
settings of this repository.
"""

_RATE = 1000
_AT_ONCE = 10
_TOPIC = "users"


@dataclass
class _Measured:
    backlog: list[float] = field(default_factory=list)
    first_after: list[float] = field(default_factory=list)
    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)


def run(stage: Stage) -> Section:
    events = stage.number(200_000, least=10_000)
    relay, debezium = _Measured(), _Measured()
    try:
        with broker(stage) as kafka:
            for number in range(min(3, stage.rounds)):
                stage.say(f"relay and Debezium: round {number + 1}")
                turns: list[Callable[[], None]] = [
                    lambda: _measure(stage, kafka, events, relay, _relay),
                    lambda: _measure(stage, kafka, events, debezium, _debezium),
                ]
                for turn in turns if number % 2 == 0 else reversed(turns):
                    turn()
    except (KafkaNotPossible, StartFailed) as why:
        return left_out(TITLE, HOW, KafkaNotPossible(str(why)))
    first = spread(debezium.first_after, "s")
    return Section(
        TITLE,
        HOW,
        [
            Row(
                "a backlog: relay", relay.backlog, "/s",
                measured=f"the first after {spread(relay.first_after, 's')}",
            ),
            Row("a backlog: Debezium", debezium.backlog, "/s", measured=f"the first after {first}"),
            *_pair("1,000 events a second, p50", "ms", relay.p50, debezium.p50),
            *_pair("1,000 events a second, p99", "ms", relay.p99, debezium.p99),
            *_pair("1,000 events a second, CPU of one core", "%", relay.cpu, debezium.cpu),
            *_pair("memory", "MB", relay.memory, debezium.memory),
        ],
    )  # fmt: skip


def _pair(what: str, unit: str, relay: list[float], debezium: list[float]) -> Iterator[Row]:
    for who, values in (("relay", relay), ("Debezium", debezium)):
        yield Row(f"{what}: {who}", values, unit, less_is_better=True)


_Started = Callable[[Stage, LocalKafka, Shop, int], AbstractContextManager[int]]
"""Puts so many events into the outbox, and starts who sends them. Gives the process id."""


def _measure(
    stage: Stage, kafka: LocalKafka, events: int, into: _Measured, started: _Started
) -> None:
    shop = empty_shop(stage, kafka)
    with started(stage, kafka, shop, events) as pid:
        begin = time.time()
        wait_for(lambda: in_log(kafka, _TOPIC) >= events, timeout=300, pause=0.2)
        first, last = _times(kafka)
        into.backlog.append(events / max(0.001, last - first))
        into.first_after.append(max(0.0, first - begin))
        process = psutil.Process(pid)
        with _reader(kafka) as received:
            time.sleep(2)
            before, at = process.cpu_times(), time.monotonic()
            committed = _commit(shop, stage.seconds(20))
            wait_for(lambda: received.keys() >= committed.keys(), timeout=60, pause=0.05)
            after = process.cpu_times()
            took = time.monotonic() - at
        used = after.user + after.system - before.user - before.system
        into.cpu.append(100 * used / took)
        into.memory.append(process.memory_info().rss / 1e6)
        waits = [1000 * (received[each] - moment) for each, moment in committed.items()]
        cuts = quantiles(waits, n=100)
        into.p50.append(cuts[49])
        into.p99.append(cuts[98])


@contextmanager
def _relay(stage: Stage, kafka: LocalKafka, shop: Shop, events: int) -> Iterator[int]:
    add_users(shop.users, events)
    stage.settle()
    with stage.running("relay", "benchmarks.one_worker", "relay", env=shop.env) as process:
        yield _pid(process)


@contextmanager
def _debezium(stage: Stage, kafka: LocalKafka, shop: Shop, events: int) -> Iterator[int]:
    host, port = str(stage.postgres.socket_dir), stage.postgres.port
    name = psycopg.conninfo.conninfo_to_dict(shop.users)["dbname"]
    captured = Captured("users", host, port, "postgres", database=str(name))
    connect = Connect(
        stage.directory / f"connect-{stage.made}", kafka.bootstrap_servers, [captured]
    )
    _shop(shop, "begin")
    add_users(shop.users, events)
    stage.settle()
    connect.start()
    try:
        # Ready is when its task runs; the time to there is not counted to its rate.
        wait_ready(connect, 90)
        yield _pid(connect)
    finally:
        connect.stop(10)
        _shop(shop, "end")


def _shop(shop: Shop, deed: str) -> None:
    words = [sys.executable, "-m", "shop.cli", "cdc", deed, "users"]
    subprocess.run(words, env=dict(shop.env), check=True, capture_output=True)


def _pid(process: Process) -> int:
    assert process.pid
    return process.pid


def _times(kafka: LocalKafka) -> tuple[float, float]:
    """The broker's times of the first record in the topic, and of the last. Seconds."""
    consumer = _consumer(kafka)
    try:
        moments = []
        for partition in _partitions(consumer):
            low, high = consumer.get_watermark_offsets(partition, timeout=10)
            for offset in {low, high - 1} if high > low else set():
                consumer.assign([TopicPartition(_TOPIC, partition.partition, offset)])
                record = consumer.poll(10)
                assert record is not None
                assert record.error() is None, record.error()
                kind, moment = record.timestamp()
                assert kind == TIMESTAMP_LOG_APPEND_TIME
                moments.append(moment / 1000)
        return min(moments), max(moments)
    finally:
        consumer.close()


@contextmanager
def _reader(kafka: LocalKafka) -> Iterator[Mapping[int, float]]:
    """When each position arrives from now on."""
    received: dict[int, float] = {}
    stop, ready = threading.Event(), threading.Event()

    def read() -> None:
        consumer = _consumer(kafka)
        ends = [
            TopicPartition(
                _TOPIC, each.partition, consumer.get_watermark_offsets(each, timeout=10)[1]
            )
            for each in _partitions(consumer)
        ]
        consumer.assign(ends)
        ready.set()
        while not stop.is_set():
            # With more than one, the client would wait until all have arrived.
            for record in [*consumer.consume(1, 0.05), *consumer.consume(500, 0)]:
                now = time.monotonic()
                headers: Any = record.headers()
                received[int(dict(headers)["ce_id"])] = now
        consumer.close()

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    ready.wait(20)
    try:
        yield received
    finally:
        stop.set()
        thread.join(20)


def _commit(shop: Shop, seconds: float) -> dict[int, float]:
    """Commit `_RATE` events a second. Returns the moment of the answer to each position's commit."""
    committed: dict[int, float] = {}
    pause = _AT_ONCE / _RATE
    with psycopg.connect(shop.users, autocommit=True) as connection:
        [(head,)] = connection.execute("SELECT position FROM outbox_head").fetchall()
        begin = time.monotonic()
        for turn in range(int(seconds / pause)):
            time.sleep(max(0.0, begin + turn * pause - time.monotonic()))
            events = [_event(head + number + 1) for number in range(_AT_ONCE)]
            connection.execute("SELECT publish_events(%s, %s)", [_AT_ONCE, Jsonb(events)])
            now = time.monotonic()
            committed |= {head + number + 1: now for number in range(_AT_ONCE)}
            head += _AT_ONCE
    return committed


def _event(number: int) -> Mapping[str, object]:
    data = {
        "id": number,
        "version": 1,
        "email": f"user{number}@example.com",
        "name": f"User {number}",
    }
    return {
        "t": _TOPIC,
        "k": str(number),
        "y": "user.created",
        "s": 1,
        "v": 1,
        "d": data,
        "h": None,
    }


def _partitions(consumer: Consumer) -> list[TopicPartition]:
    found = consumer.list_topics(_TOPIC, timeout=10).topics[_TOPIC].partitions
    return [TopicPartition(_TOPIC, each) for each in found]


def _consumer(kafka: LocalKafka) -> Consumer:
    # A fetch is answered as soon as there is a record.
    return Consumer(
        {
            "bootstrap.servers": kafka.bootstrap_servers,
            "group.id": "benchmark",
            "group.protocol": "classic",
            "fetch.wait.max.ms": 100,
            "enable.auto.commit": False,
        }
    )
