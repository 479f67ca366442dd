"""Writers to Kafka whose clocks leap. (A broker of Java's does not start with libfaketime.)"""

import asyncio
import logging
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource

from devstack.kafka import LocalKafka
from tests.support.clocks import leaping, set_clock
from tests.support.records import read_all
from tests.support.topics import log_on, make_topic, new_name

pytestmark = pytest.mark.kafka

_APPENDS = """
    import asyncio, sys
    from eventspine.kafka_log import KafkaLog
    from eventspine.log import LogUnavailable, Message

    async def main():
        log = KafkaLog({"bootstrap.servers": sys.argv[1]})
        for line in sys.stdin:
            try:
                await log.append(sys.argv[2], [Message("k", line.strip().encode(), {})])
                print("appended", flush=True)
            except LogUnavailable as error:
                print(error, flush=True)
        await log.close()

    asyncio.run(main())
"""


def append(kafka: LocalKafka, topic: str, clock: Path, hours: list[int]) -> list[str]:
    """What a writer is told, whose clock is ahead by so many hours at each message."""
    told = []
    set_clock(clock, 0)
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(_APPENDS), kafka.bootstrap_servers, topic],
        env={**os.environ, **leaping(clock)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as writer:  # fmt: skip
        assert writer.stdin
        assert writer.stdout
        try:
            for ahead in hours:
                set_clock(clock, ahead)
                writer.stdin.write(f"{ahead}\n")
                writer.stdin.flush()
                told.append(writer.stdout.readline().strip())
        finally:
            # Kafka's client waits by the wall clock, and so may not end (docs/operations.md, "Clocks").
            writer.kill()
    return told


@pytest.mark.heavy
async def test_a_writer_is_heard_whatever_its_clock_says(kafka: LocalKafka, tmp_path: Path) -> None:
    # No clock is set back under a writer: its client would wait for as long (docs/operations.md, "Clocks").
    writers = ([0, 26], [0, 26])
    log = log_on(kafka, partitions=1)
    topic = new_name()
    await log.create_topic(topic)
    for hours in writers:
        told = await asyncio.to_thread(append, kafka, topic, tmp_path / "clock", hours)
        assert told == ["appended"] * 2
    found = [record.value for record in await read_all(log, topic)]
    assert found == [str(ahead).encode() for hours in writers for ahead in hours]
    await log.close()


async def test_a_topic_that_refuses_writers_for_their_clocks_is_used_and_named(
    kafka: LocalKafka, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    topic = new_name()
    keep = {"retention_ms": "-1", "cleanup_policy": "delete", "max_message_bytes": "4194304"}
    make_topic(kafka, topic, partitions=1, **keep)
    caplog.set_level(logging.WARNING)

    async def use() -> None:
        log = log_on(kafka)
        await log.create_topic(topic)
        await log.close()

    await use()
    [said] = [entry.getMessage() for entry in caplog.records if topic in entry.getMessage()]
    assert f"--entity-name {topic} --add-config message.timestamp.type=LogAppendTime" in said
    told = append(kafka, topic, tmp_path / "clock", [0, 26])
    assert told == ["appended", "Kafka did not accept a message: Broker: Invalid timestamp"]
    assert append(kafka, topic, tmp_path / "clock", [0]) == ["appended"]
    # As it was told.
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
    alter(admin, resource, "message.timestamp.type", "LogAppendTime")
    assert append(kafka, topic, tmp_path / "clock", [0, 26]) == ["appended"] * 2
    caplog.clear()
    await use()
    assert not [entry for entry in caplog.records if topic in entry.getMessage()]


def alter(admin: AdminClient, resource: ConfigResource, name: str, value: str) -> None:
    resource.add_incremental_config(
        ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
    )
    admin.incremental_alter_configs([resource])[resource].result()
