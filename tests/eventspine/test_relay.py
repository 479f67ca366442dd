"""The outbox goes into the log whole and in order, whatever becomes of those who carry it."""

import asyncio
import itertools
import random
import string
from collections.abc import Sequence

import psycopg
import pytest

from eventspine import backlog
from eventspine.context import NOBODY, Context
from eventspine.database import connect
from eventspine.event import message_of
from eventspine.log import EncodedMessages, LogUnavailable, Message
from eventspine.migrations import PUBLISH_EVENTS
from eventspine.outbox import transaction
from tests.support import notes
from tests.support.memory_log import MemoryLog
from tests.support.relaying import assert_whole, holds, is_saved
from tests.support.spine import Said, opened
from tests.support.waiting import SLOWER, at_best_async, eventually

pytestmark = pytest.mark.usefixtures("impatient")


async def test_an_outbox_of_many_batches_is_relayed_in_order(notes_url: str, said: Said) -> None:
    async with opened(notes_url) as database:
        log = MemoryLog()
        await notes.publish_notes(database, 1, 95)
        async with notes.Running(notes.relay(notes_url, log, batch=10).run()):
            await eventually(lambda: is_saved(database, 95))
        assert await notes.positions_in(log) == [[*range(1, 96)]]
    assert said.troubles() == []


async def test_a_record_carries_what_was_published(notes_url: str) -> None:
    async with opened(notes_url) as database:
        log = MemoryLog()
        async with transaction(database) as tx:
            tx.publish(notes.event(7, 1, "ü"), Context("00-1-2-01"))
        async with notes.Running(notes.relay(notes_url, log).run()):
            await eventually(lambda: holds(log, 1))
        ((record,),) = log.partitions
        assert record.key == "7"
        assert record.value is not None
        assert notes.NoteTaken.model_validate_json(record.value) == notes.event(7, 1, "ü")
        time = record.headers["ce_time"]
        assert dict(record.headers) == {
            "ce_specversion": "1.0",
            "ce_id": "1",
            "ce_source": "/notes",
            "ce_type": "note.taken",
            "ce_time": time,
            "ce_subject": "7",
            "ce_dataversion": "1",
            "content-type": "application/json",
            "traceparent": "00-1-2-01",
        }
        assert len(time) == len("2026-01-01T00:00:00.000000Z") and time.endswith("Z")


async def test_the_messages_that_a_relay_gives_to_kafka_are_those_that_it_gives_to_any_log(
    notes_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog, "_ROWS_AT_ONCE", 7)
    async with opened(notes_url) as database, transaction(database) as tx:
        for n in range(1, 31):
            tx.publish(
                notes.event(n, 1, "ü" * n),
                Context("00-1-2-01", caller=f"user:ü{n}") if n % 2 else NOBODY,
            )
    connection = await connect(notes_url)
    batch = await backlog.following(connection, "/notes", 0, 29)
    await connection.close()
    assert batch.last_position == len(batch) == 29
    ((topic, messages),) = batch.by_topic().items()
    assert topic == notes.TOPIC
    assert isinstance(messages, EncodedMessages)
    assert [message_of(each) for each in messages.encoded()] == [*messages]
    assert [message.headers["ce_id"] for message in messages] == [str(n) for n in range(1, 30)]
    assert messages[0].headers["ce_authid"] == "ü1"
    assert [*messages][3:5] == messages[3:5]
    assert len(messages) == 29


@pytest.mark.parametrize("many", [True, False])
async def test_a_batch_of_several_topics_is_given_apart(notes_url: str, many: bool) -> None:
    async with opened(notes_url) as database:
        await notes.publish_notes(database, 1, 10)
        await database.fetch(
            "UPDATE outbox SET topic = 'other' WHERE position %% 3 = 0 RETURNING 1", {}
        )
    connection = await connect(notes_url)
    batch = await backlog.following(connection, "/notes", 0, 100, many=many)
    await connection.close()
    ids = {
        topic: [int(message.headers["ce_id"]) for message in messages]
        for topic, messages in batch.by_topic().items()
    }
    assert ids == {notes.TOPIC: [1, 2, 4, 5, 7, 8, 10], "other": [3, 6, 9]}


@pytest.mark.parametrize("notified", [True, False])
async def test_a_notification_makes_it_quick_and_a_lost_one_does_no_harm(
    notes_url: str, notified: bool
) -> None:
    if not notified:
        notify = "PERFORM pg_notify('outbox', '');"
        assert notify in PUBLISH_EVENTS
        with psycopg.connect(notes_url, autocommit=True) as admin:
            admin.execute("DROP FUNCTION publish_events")
            admin.execute(PUBLISH_EVENTS.replace(notify, ""))
    async with opened(notes_url) as database:
        log = MemoryLog()
        async with notes.Running(notes.relay(notes_url, log).run()):
            await notes.publish_notes(database, 1, 1)
            await eventually(lambda: holds(log, 1))
            loop = asyncio.get_running_loop()
            numbers = itertools.count(2)

            async def took() -> float:
                n, began = next(numbers), loop.time()
                await notes.publish_notes(database, n, n)
                await eventually(lambda: holds(log, n))
                return loop.time() - began

            await at_best_async(took, 0.2 if notified else 30)


async def test_large_events_come_a_few_at_a_time(
    notes_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a batch of them does not fill the memory; and no event is too large to come at all."""

    class Log(MemoryLog):
        def __init__(self) -> None:
            super().__init__()
            self.batches: list[int] = []

        async def append(self, topic: str, messages: Sequence[Message]) -> None:
            await super().append(topic, messages)
            if messages:
                self.batches.append(len(messages))

    monkeypatch.setattr(backlog, "MOST_BYTES", 1000)
    async with opened(notes_url) as database:
        log = Log()
        async with transaction(database) as tx:
            for n in range(1, 31):
                body = "".join(random.choices(string.ascii_letters, k=5000 if n == 20 else 300))
                tx.publish(notes.event(n, 1, body), NOBODY)
        started = asyncio.get_running_loop().time()
        async with notes.Running(notes.relay(notes_url, log).run()):
            await eventually(lambda: is_saved(database, 30))
        assert asyncio.get_running_loop().time() - started < SLOWER, "none waits for the next poll"
        assert await notes.positions_in(log) == [[*range(1, 31)]]
        assert 2 <= max(log.batches) <= 4


async def test_an_idle_relay_keeps_the_log_prepared(notes_url: str) -> None:
    log = MemoryLog()

    async def is_prepared_more_often_than(times: int) -> bool:
        return log.prepared > times

    async with notes.Running(notes.relay(notes_url, log).run()):
        for times in range(4):
            await eventually(lambda times=times: is_prepared_more_often_than(times))


class FailingLog(MemoryLog):
    """Takes a part of what it is given, and then raises, as often as it is told."""

    def __init__(self, failures: Sequence[int], partitions: int) -> None:
        super().__init__(partitions)
        self._failures = list(failures)

    async def append(self, topic: str, messages: Sequence[Message]) -> None:
        if not self._failures:
            return await super().append(topic, messages)
        taken = self._failures.pop() % (len(messages) + 1)
        await super().append(topic, messages[:taken])
        raise LogUnavailable("it may have been appended or not")


@pytest.mark.parametrize("seed", range(3))
async def test_a_relay_that_fails_wherever_it_may_repeats_and_leaves_nothing_out(
    notes_url: str, seed: int, said: Said
) -> None:
    """In the midst of a batch, or after all of it and before it is saved."""
    chance = random.Random(seed)
    async with opened(notes_url) as database:
        log = FailingLog([chance.randrange(100) for _ in range(20)], partitions=3)
        async with notes.Running(notes.relay(notes_url, log, batch=7).run()):
            for n in range(10):
                await notes.publish_notes(database, 20 * n + 1, 20 * n + 20)
                await asyncio.sleep(0.01)
            await eventually(lambda: is_saved(database, 200))
        await assert_whole(log, 200)
    assert "relay.log_truncated" not in str(said)


async def test_a_relay_killed_between_append_and_save_only_repeats(notes_url: str) -> None:
    class Log(MemoryLog):
        kills = 3

        async def append(self, topic: str, messages: Sequence[Message]) -> None:
            await super().append(topic, messages)
            if messages and self.kills:
                self.kills -= 1
                with psycopg.connect(notes_url, autocommit=True) as admin:
                    admin.execute(
                        "SELECT pg_terminate_backend(pid, 5000) FROM pg_locks "
                        "WHERE locktype = 'advisory' AND objid = 7405 "
                        "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
                    )

    async with opened(notes_url) as database:
        log = Log()
        await notes.publish_notes(database, 1, 25)
        async with notes.Running(notes.relay(notes_url, log, batch=10).run()):
            await eventually(lambda: is_saved(database, 25))
        assert log.kills == 0
        (positions,) = await notes.positions_in(log)
        assert positions == [*range(1, 11)] * 4 + [*range(11, 26)]
