"""What the broker refuses, and what was sent behind it.

Readers drop what they have passed. So an event that is written behind a later one of its partition
is lost, though it stands in the log.
"""

import asyncio
import json
import logging
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from confluent_kafka import KafkaError
from confluent_kafka import Message as KafkaMessage

from eventspine.event import encoded_message, message_of, source_header
from eventspine.kafka_log import KafkaLog
from eventspine.kafka_log.appender import Appender, encoded
from eventspine.kafka_log.client import Reach
from eventspine.kafka_log.reader import Reader
from eventspine.log import Encoded, LogUnavailable, Message
from tests.support.mock_kafka import TOPIC, MockKafka, mock_kafka
from tests.support.notes import cancel
from tests.support.waiting import at_best_async

MANY_AND_SMALL = (3000, 10)
FEW_AND_LARGE = (8, 300_000)
MORE_THAN_ONE_REQUEST = (20, 300_000)
ONE_FULL_REQUEST = (6_000, 450)
"""How many, and of how many bytes. By itself librdkafka sends a second request to a partition before
the first has an answer, as long as they hold fewer than five messages."""


@pytest.fixture
def broker() -> Iterator[MockKafka]:
    with mock_kafka() as broker:
        yield broker


FOR_GOOD, FOR_NOW = KafkaError.UNKNOWN, KafkaError.NOT_ENOUGH_REPLICAS


@pytest.mark.parametrize(
    ("count", "size"), [MANY_AND_SMALL, FEW_AND_LARGE, MORE_THAN_ONE_REQUEST, ONE_FULL_REQUEST]
)
@pytest.mark.parametrize("refusal", [FOR_GOOD, FOR_NOW])
def test_a_refused_record_is_not_overtaken(
    broker: MockKafka, refusal: int, count: int, size: int
) -> None:
    config = {"bootstrap.servers": broker.bootstrap_servers}
    reach = Reach(broker.bootstrap_servers)
    appender = Appender(config, reach)
    messages = [
        Message("a key", f"{n} ".encode().ljust(size, b"."), {}) for n in range(1, count + 1)
    ]
    broker.refuse_next(refusal)
    append_as_a_relay_does(appender, messages)
    reader = Reader(config, reach)
    passed = 0
    for number in read(reader):
        assert number <= passed + 1, f"{number} comes behind {passed}"
        passed = max(passed, number)
    assert passed == count
    reader.close()
    appender.end()


async def test_a_producer_that_is_prepared_connects_before_there_is_a_message() -> None:
    with socket.create_server(("127.0.0.1", 0)) as broker:
        broker.settimeout(30)
        log = KafkaLog({"bootstrap.servers": f"127.0.0.1:{broker.getsockname()[1]}"})
        preparing = asyncio.create_task(log.prepare(TOPIC))
        try:
            connection, _ = await asyncio.to_thread(broker.accept)
            connection.close()
            assert not preparing.done(), "it can send, to a broker that has answered nothing"
            assert not await cancel([preparing])
        finally:
            await log.close()


async def test_a_producer_that_is_prepared_sends_the_first_message_at_once(
    broker: MockKafka,
) -> None:
    """It has its id. librdkafka asks for that half a second after the start, and sends nothing before."""

    async def took() -> float:
        log = KafkaLog({"bootstrap.servers": broker.bootstrap_servers})
        try:
            await log.prepare(TOPIC)
            began = time.monotonic()
            await log.append(TOPIC, [Message("a key", b"1", {})])
            return time.monotonic() - began
        finally:
            await log.close()

    await at_best_async(took, 0.4)


def append_as_a_relay_does(appender: Appender, messages: list[Message]) -> None:
    """Again from its saved position, as long as it is told that not all is confirmed."""
    for _ in range(3):
        try:
            return appender.append(TOPIC, messages, threading.Event())
        except LogUnavailable as error:
            logging.getLogger(__name__).info("appended again: %s", error)
    raise AssertionError("never confirmed")


def read(reader: Reader) -> Iterator[int]:
    offset, end = 0, reader.end_offsets(TOPIC)[0]
    while offset < end:
        page: list[KafkaMessage] = []
        offset = reader.read(TOPIC, 0, offset, 5000, page.extend)
        for message in page:
            value = message.value()
            assert value
            yield int(value.split()[0])


def test_a_message_is_taken_for_no_smaller_than_it_is() -> None:
    """Or what is sent at once could be more than one request."""
    for text in ("key", "ключ", "鍵"):
        message = Message(text * 100, b"value", {"ce_subject": text * 100, text: "", "b": b"\0"})
        assert encoded(message)[3] >= bytes_of(encoded(message))


@pytest.mark.parametrize("extra", [None, {"a": ""}, {f"{n}ü": "" for n in range(99)}, {"a": '"ü"'}])
@pytest.mark.parametrize("key", ["1", "ключ" * 1000])
def test_neither_is_an_event(key: str, extra: dict[str, str] | None) -> None:
    longest = "294276-12-31T23:59:59.999999Z"
    event = encoded_message(
        source_header("/notes"), b"%d" % (2**63 - 1), key.encode(), b"note.taken",
        b"%d" % -(2**31), longest.encode(), b"x" * 70_000, None if extra is None else json.dumps(extra, ensure_ascii=False).encode(),
    )  # fmt: skip
    assert len(event[2]) == 8 + len(extra or {})
    assert event[3] >= bytes_of(event)
    assert event[:3] == encoded(message_of(event))[:3]


def bytes_of(event: Encoded) -> int:
    """Of a record in a batch of the format 2, with numbers of the length that they have in a batch of 4 MiB that is
    open for a month (https://kafka.apache.org/documentation/#record)."""
    key, value, headers, _ = event
    texts = [key, value or b"", *(name.encode() for name, _ in headers), *(of for _, of in headers)]
    length, attributes, time, offset, count = 4, 1, 5, 3, 2
    return (
        length + attributes + time + offset + count + sum(varint(len(of)) + len(of) for of in texts)
    )


def varint(number: int) -> int:
    """The bytes of a number, which is signed there and has 7 bits a byte."""
    return max(1, -(-(2 * number).bit_length() // 7))
