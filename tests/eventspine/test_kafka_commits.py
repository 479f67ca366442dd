"""A commit of offsets, which is for displays alone, never keeps a partition from being read."""

import asyncio
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from eventspine.kafka_log import KafkaLog, watch
from tests.support.kafka import StartKafka
from tests.support.records import from_offsets, numbered, poll_until
from tests.support.shop import free_ports
from tests.support.topics import new_name

pytestmark = pytest.mark.kafka

_OFFSET_COMMIT = 8


class Swallowing:
    """A connection that is half dead: commits never arrive, while `swallows`; all else does."""

    def __init__(self) -> None:
        self.swallows = False
        self.swallowed = 0

    @asynccontextmanager
    async def between(self, port: int, server: int) -> AsyncIterator[None]:
        serving: set[asyncio.Task[None]] = set()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task
            serving.add(task)
            answers, requests = await asyncio.open_connection("127.0.0.1", server)
            try:
                await asyncio.gather(self._up(reader, requests), self._down(answers, writer))
            finally:
                for each in (writer, requests):
                    each.close()
                    with suppress(OSError):
                        await each.wait_closed()

        listening = await asyncio.start_server(serve, "127.0.0.1", port)
        try:
            yield
        finally:
            listening.close()
            for task in serving:
                task.cancel()
            await asyncio.gather(*serving, return_exceptions=True)

    async def _up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                size = await reader.readexactly(4)
                request = await reader.readexactly(struct.unpack(">i", size)[0])
                if self.swallows and struct.unpack(">h", request[:2])[0] == _OFFSET_COMMIT:
                    self.swallowed += 1
                else:
                    writer.write(size + request)
        except (OSError, asyncio.IncompleteReadError):
            writer.close()

    async def _down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while some := await reader.read(65536):
                writer.write(some)
        except OSError:
            pass
        writer.close()


@pytest.mark.heavy
async def test_a_commit_without_an_answer_holds_no_partition_up_for_long(
    start_kafka: StartKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "LOOK_EVERY", 1000.0)  # not healed: it must not need it
    (port,) = free_ports(1)
    kafka = start_kafka(advertised_listeners=f"BROKER://127.0.0.1:{port}")
    server = int(kafka.bootstrap_servers.rpartition(":")[2])
    connection = Swallowing()
    async with connection.between(port, server):
        log, topic = KafkaLog({"bootstrap.servers": f"127.0.0.1:{port}"}), new_name()
        await log.create_topic(topic, 3)
        await log.append(topic, numbered(300))
        member = log.subscribe(new_name(), [topic], from_offsets({}))
        await poll_until(member, 300)
        connection.swallows = True
        while not connection.swallowed:
            await member.commit(topic, 0, 1)
            await member.poll(10, 0.2)
        connection.swallows = False
        sought = time.monotonic()
        await member.seek(topic, 1, 0)
        read = {record.partition for record in await poll_until(member, 1)}
        assert read == {1}
        # librdkafka's own limit is a minute.
        assert time.monotonic() - sought < 45
        await log.close()
