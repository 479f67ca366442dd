"""Change data capture on a real PostgreSQL, Kafka and Debezium."""

import asyncio
import random
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from devstack.kafka import LocalKafka
from eventspine.backlog import following
from eventspine.database import connect
from tests.support.capture import SERVICES, CaptureStage, need_debezium
from tests.support.checker import check
from tests.support.kafka import need_kafka
from tests.support.kafka_stage import APPLIED_TWICE, SEED
from tests.support.load import Load
from tests.support.topics import forget_topics, log_on, new_name
from tests.support.waiting import until

pytestmark = [pytest.mark.kafka, pytest.mark.heavy, pytest.mark.timeout(600)]

ODD = ("plain", "Käse 🧀", 'it\'s "quoted" \\ back', "tab\tline\nend", "x" * 200, "null", "1.0", "")


DIGITS = ("", ".5", ".120", ".000001", ".100000", ".123456")
"""Of a second."""


LIMIT = 48  # MiB of write-ahead log, after which a slot that nobody reads is lost


@pytest.fixture(scope="module")
def stage(kafka: LocalKafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CaptureStage]:
    need_kafka()
    need_debezium()
    forget_topics(kafka.bootstrap_servers)
    # A hole is refused soon.
    connector = {"transforms.outbox.wait.ms": "2000"}
    limit = {"max_slot_wal_keep_size": f"{LIMIT}MB"}
    with CaptureStage(kafka, tmp_path_factory.mktemp("cdc"), connector, **limit) as stage:
        stage.begin()
        stage.start_connect()
        stage.relay_by("cdc")
        yield stage


def events(count: int, seed: int = 7) -> list[Mapping[str, object]]:
    """Events with all that can be difficult about them."""
    dice = random.Random(seed)

    def one(number: int) -> Mapping[str, object]:
        headers: Any = None
        if number % 2:
            headers = {
                "traceparent": f"00-{dice.getrandbits(128):032x}-01",
                "z": "1.0",
                "a": dice.choice(ODD),
            }
        data = {
            "id": number, "version": 1, "product": dice.choice(ODD), "total_price": "1.50",
            "number": dice.choice([1, 1.0, 12345678901234567890, 1e300, -0.0]), "none": None, "list": [1, "2", {}],
        }  # fmt: skip
        key = dice.choice([str(number), dice.choice(ODD[:3]) + str(number % 50)])
        return {
            "t": "orders",
            "k": key,
            "y": "order.placed",
            "s": 1,
            "v": 1,
            "d": data,
            "h": headers,
        }

    return [one(number) for number in range(count)]


async def polled(stage: CaptureStage, topic: str, after: int) -> None:
    """Send what the polling relay sends after this position to another topic with as many partitions."""
    connection = await connect(stage.postgres.dsn("orders"))
    log = log_on(stage.kafka, partitions=12)
    try:
        await log.create_topic(topic)
        batch = await following(connection, "/orders", after, 100_000)
        for messages in batch.by_topic().values():
            await log.append(topic, messages)
    finally:
        await connection.close()
        await log.close()


def head(stage: CaptureStage) -> int:
    return int(stage.rows("orders", "SELECT position FROM outbox_head")[0][0])


def relayed(stage: CaptureStage) -> int:
    return int(stage.rows("orders", "SELECT position FROM relay")[0][0])


def all_is_relayed(stage: CaptureStage) -> bool:
    return relayed(stage) == head(stage)


def order(number: int) -> Mapping[str, object]:
    """The plainest event."""
    return {
        "t": "orders",
        "k": str(number),
        "y": "order.placed",
        "s": 1,
        "v": 1,
        "d": {},
        "h": None,
    }


def positions(stage: CaptureStage) -> set[int]:
    """Those in topic orders."""
    return {
        int(dict(record.headers)["ce_id"])
        for records in stage.records("orders").values()
        for record in records
    }


# The first, because the checker knows of no events but those of clients.
def test_to_polling_and_back_under_load_loses_nothing_and_applies_nothing_twice(
    stage: CaptureStage,
) -> None:
    with stage.apis() as ports, Load(ports, name="turns", seed=SEED) as load:
        load.until(30)
        stage.kill_connect()
        load.until(30)
        stage.start_connect()
        load.until(30)
        ended = stage.run("cdc", "end")
        assert ended.returncode == 0, ended.stdout + ended.stderr
        assert stage.rows("orders", "SELECT * FROM pg_replication_slots") == []
        load.until(30)
        stage.relay_by("polling")
        load.until(30)
        stage.begin()
        load.until(30)
        stage.relay_by("cdc")
        load.until(30)
    faults = check(stage.sources(), load.sent, quiet_within=90)
    assert not faults, "\n".join(faults)
    for service in SERVICES:
        assert stage.rows(service, APPLIED_TWICE) == []
    assert stage.run("audit").returncode == 0


def test_what_arrives_is_byte_for_byte_what_the_polling_relay_sends(stage: CaptureStage) -> None:
    before = head(stage)
    everything = events(2000)
    for at in range(0, len(everything), 37):
        stage.publish("orders", everything[at : at + 37])
    stage.publish_at(
        [f"2026-01-0{day} 12:00:0{day}{digits}+02" for day, digits in enumerate(DIGITS, 1)]
    )
    until(lambda: all_is_relayed(stage), "all is relayed", 60)
    topic = new_name()
    asyncio.run(polled(stage, topic, before))
    sent = stage.records("orders")
    wanted = stage.records(topic)
    for partition, records in wanted.items():
        assert sent[partition][-len(records) :] == records
    assert sum(map(len, wanted.values())) == 2000 + len(DIGITS)


def test_an_idle_service_holds_back_no_write_ahead_log(stage: CaptureStage) -> None:
    [(mark,)] = stage.rows("users", "SELECT pg_current_wal_lsn()")

    def moved() -> bool:
        held = "SELECT min(confirmed_flush_lsn) > %s FROM pg_replication_slots"
        return bool(stage.rows("users", held, mark)[0][0])

    until(moved, "both slots are read to the end", 60)


def test_a_slot_made_anew_by_debezium_is_a_hole_and_is_refused_and_begin_repairs_it(
    stage: CaptureStage,
) -> None:
    stage.kill_connect()
    stage.publish("orders", [order(number) for number in range(50)])
    before = positions(stage)
    until(lambda: drop_slot(stage), "the slot is free")
    stage.connect.offsets.unlink()
    alone = stage.run("cdc", "status", "orders", SHOP_CONNECT_URL="")
    assert alone.returncode == 1
    assert "orders_outbox: there is none" in alone.stdout
    stage.connect.start()
    until(lambda: slot_is_active(stage), "Debezium has made a slot", 90)
    stage.publish("orders", [order(number) for number in range(50, 60)])
    until(lambda: "FAILED" in told(stage), "the task fails", 90)
    assert "would leave a hole" in told(stage)
    assert positions(stage) == before
    stage.begin()
    until(lambda: all_is_relayed(stage), "all is relayed", 60)
    assert positions(stage) == set(range(1, head(stage) + 1))
    stage.publish("orders", [order(60)])
    until(lambda: all_is_relayed(stage), "Debezium sends again", 90)


def test_a_slot_over_its_limit_is_seen_and_begin_makes_it_anew(stage: CaptureStage) -> None:
    stage.kill_connect()
    stage.publish("orders", [order(number) for number in range(10)])
    for _ in range(LIMIT // 16 + 3):
        stage.rows("orders", "SELECT pg_logical_emit_message(true, 'fills', 'x'), pg_switch_wal()")
    stage.rows("orders", "CHECKPOINT")
    stage.connect.start()
    status = stage.run("cdc", "status", "orders", SHOP_CONNECT_URL="")
    assert status.returncode == 1
    assert "orders_outbox: lost" in status.stdout
    assert "run `shop cdc begin`" in status.stdout
    until(lambda: "not answer" not in told(stage), "Connect answers", 90)
    stage.begin()
    stage.publish("orders", [order(10)])
    until(lambda: all_is_relayed(stage), "Debezium sends again", 90)
    assert positions(stage) == set(range(1, head(stage) + 1))
    until(lambda: stage.run("cdc", "status").returncode == 0, "all is well", 90)


def told(stage: CaptureStage) -> str:
    done = stage.run("cdc", "status", "orders")
    return done.stdout + done.stderr


def drop_slot(stage: CaptureStage) -> bool:
    """False while PostgreSQL has not noticed that its reader is gone."""
    if slot_is_active(stage):
        return False
    stage.rows("orders", "SELECT pg_drop_replication_slot('orders_outbox')")
    return True


def slot_is_active(stage: CaptureStage) -> bool:
    found = "SELECT FROM pg_replication_slots WHERE slot_name = 'orders_outbox' AND active"
    return bool(stage.rows("orders", found))
