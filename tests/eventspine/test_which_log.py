"""From one log to another: every event is in the log that is used, and none is applied twice."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import chain

import psycopg
import pytest
from confluent_kafka.admin import AdminClient

from devstack.kafka import LocalKafka
from eventspine import consumer as consumer_module
from eventspine import relay as relay_module
from eventspine.applying import CheckpointConflict
from eventspine.database import Database, connect
from eventspine.kafka_log import KafkaLog
from eventspine.log import EventLog, Message
from eventspine.outbox import transaction
from eventspine.turning import holds
from tests.support import notes
from tests.support.notes import TOPIC
from tests.support.spine import Said, opened, opened_log
from tests.support.waiting import eventually

NewUrl = Callable[[], str]


async def has_applied(database: Database, count: int) -> bool:
    [(applied,)] = await database.fetch("SELECT count(*) FROM applied")
    return bool(applied >= count)


async def is_fed(database: Database, log: EventLog, position: int) -> bool:
    """This log, up to this position."""
    identity = (await log.identity(TOPIC)).id
    return await database.fetch("SELECT position, log FROM relay") == [(position, identity)]


async def has_read(database: Database, log: EventLog) -> bool:
    """All there is in this log."""
    identity = (await log.identity(TOPIC)).id
    rows = await database.fetch(
        "SELECT partition, next_offset FROM cursors WHERE log = %(log)s", {"log": identity}
    )
    return dict(rows) == await log.end_offsets(TOPIC)


@asynccontextmanager
async def working(
    notes_url: str, copy: Database, *logs: EventLog, batch: int = 100
) -> AsyncIterator[None]:
    """A worker of either service for each of these logs."""
    parts = [
        part.run()
        for log in logs
        for part in (notes.relay(notes_url, log), notes.consumer(copy, log, batch=batch))
    ]
    async with notes.Running(*parts):
        yield


@pytest.fixture
def log_urls(new_database: Callable[[None], str]) -> list[str]:
    return [new_database(None) for _ in range(2)]


def events(last: int) -> list[notes.NoteEvent]:
    return [notes.event(id_, 1) for id_ in range(1, last + 1)]


async def test_from_one_log_to_another_and_back_each_event_is_applied_once(
    notes_url: str, copy_url: str, log_urls: list[str], said: Said
) -> None:
    """The other has more partitions: what was read from one stands in several of the other."""
    async with (
        opened(notes_url) as database,
        opened(copy_url) as copy,
        opened_log(log_urls[0], 1) as one,
        opened_log(log_urls[1], 5) as other,
    ):
        published = 0
        for log in (one, other, one, other):
            await notes.publish_notes(database, published + 1, published + 50)
            published += 50
            async with working(notes_url, copy, log):
                await eventually(lambda upto=published: has_applied(copy, upto))
                await eventually(lambda of=log, upto=published: is_fed(database, of, upto))
                await eventually(lambda of=log: has_read(copy, of))
            in_log = sorted(chain.from_iterable(await notes.positions_in(log)))
            assert in_log == list(range(1, published + 1))
        await notes.assert_copied(copy, *events(published))
    changes = [entry for entry in said if entry["event"].endswith(".log_changed")]
    assert len(changes) == 2 * 3, "said once by either, at each of three changes"
    assert said.troubles() == changes


async def test_what_was_read_of_the_log_before_and_no_more_is_left_out_of_the_next(
    notes_url: str, copy_url: str, log_urls: list[str]
) -> None:
    """Its partitions had been read to very different places when it was left."""
    async with (
        opened(notes_url) as database,
        opened(copy_url) as copy,
        opened_log(log_urls[0], 5) as one,
        opened_log(log_urls[1], 3) as other,
    ):
        await notes.publish_notes(database, 1, 100)
        async with notes.Running(notes.relay(notes_url, one).run()):
            await eventually(lambda: is_fed(database, one, 100))
        reader = notes.consumer(copy, one)
        for partition, upto in ((0, 3), (1, 1000), (3, 1), (4, 1000)):
            await reader.apply(await one.read(TOPIC, partition, 0, upto))
        [(applied,)] = await copy.fetch("SELECT count(*) FROM applied")
        assert 10 < applied < 90

        async with working(notes_url, copy, other, batch=7):
            await eventually(lambda: has_applied(copy, 100))
            await eventually(lambda: has_read(copy, other))
        await notes.assert_copied(copy, *events(100))


@pytest.mark.heavy
async def test_workers_that_use_two_logs_at_once_apply_each_event_once(
    notes_url: str, copy_url: str, log_urls: list[str]
) -> None:
    """As while a change of the settings is rolled out, or when one of them was forgotten."""
    async with (
        opened(notes_url) as database,
        opened(copy_url) as copy,
        opened_log(log_urls[0], 1) as one,
        opened_log(log_urls[1], 3) as other,
    ):
        await notes.publish_notes(database, 1, 200)
        async with working(notes_url, copy, one, batch=10):
            await eventually(lambda: has_applied(copy, 50))
        async with working(notes_url, copy, one, other, batch=10):
            for id_ in range(201, 400, 10):
                await notes.publish_notes(database, id_, id_ + 9)
                await asyncio.sleep(0.02)
        async with working(notes_url, copy, other, batch=10):
            await eventually(lambda: has_applied(copy, 400))
            await eventually(lambda: has_read(copy, other))
        await notes.assert_copied(copy, *events(400))


async def test_a_reader_of_the_log_before_that_comes_late_applies_nothing(
    notes_url: str, copy_url: str, log_urls: list[str]
) -> None:
    """It was frozen with records in its hands while another went over to the next log."""
    async with (
        opened(notes_url) as database,
        opened(copy_url) as copy,
        opened_log(log_urls[0], 1) as one,
        opened_log(log_urls[1], 1) as other,
    ):
        await notes.publish_notes(database, 1, 20)
        for log in (one, other):
            async with notes.Running(notes.relay(notes_url, log).run()):
                await eventually(lambda of=log: is_fed(database, of, 20))
        late, next_one = notes.consumer(copy, one), notes.consumer(copy, other)
        assert await late._start_at(TOPIC, 0) == 0
        # At the same place, so that only the log tells one from the other.
        assert await next_one._start_at(TOPIC, 0) == 0
        with pytest.raises(CheckpointConflict):
            await late.apply(await one.read(TOPIC, 0, 0, 20))
        await next_one.apply(await other.read(TOPIC, 0, 0, 20))
        await notes.assert_copied(copy, *events(20))


@pytest.mark.parametrize("pruned", [1, 30])
async def test_a_new_log_is_not_fed_with_a_hole(
    notes_url: str, log_urls: list[str], said: Said, pruned: int
) -> None:
    """Readers who have read nothing yet would never hear of what is missing."""

    async def waits(said: Said) -> bool:
        return bool(said.troubles())

    async with (
        opened(notes_url) as database,
        opened_log(log_urls[0]) as one,
        opened_log(log_urls[1]) as other,
    ):
        await notes.publish_notes(database, 1, 30)
        async with notes.Running(notes.relay(notes_url, one).run()):
            await eventually(lambda: is_fed(database, one, 30))
        async with transaction(database) as tx:
            await tx.execute("DELETE FROM outbox WHERE position <= %(p)s", {"p": pruned})
        said.clear()
        async with notes.Running(notes.relay(notes_url, other).run()):
            await eventually(lambda: waits(said))
            await notes.publish_notes(database, 31, 40)
            await asyncio.sleep(0.5)
        (line,) = said.troubles()
        span = "position 1 of /notes is" if pruned == 1 else "positions 1 to 30 of /notes are"
        assert f"{span} no longer in the outbox" in line["reason"]
        assert await notes.positions_in(other) == [[]]

        # Nothing has happened to the log before, which goes on.
        async with notes.Running(notes.relay(notes_url, one).run()):
            await eventually(lambda: is_fed(database, one, 40))
        assert await notes.positions_in(one) == [[*range(1, 41)]]

        # And the other is fed once it holds what is missing.
        records = await one.read(TOPIC, 0, 0, pruned)
        await other.append(TOPIC, [Message(r.key or "", r.value, r.headers) for r in records])
        connection = await connect(notes_url)
        await holds(connection, notes.SOURCE, (await other.identity(TOPIC)).id, pruned)
        await connection.close()
        async with notes.Running(notes.relay(notes_url, other).run()):
            await eventually(lambda: is_fed(database, other, 40))
        assert await notes.positions_in(other) == [[*range(1, 41)]]


@pytest.fixture
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_module, "_LOOK_EVERY", 0.1)
    monkeypatch.setattr(consumer_module, "_WHICH_LOG_EVERY", 0.1)


async def is_fed_and_read_again(
    notes_url: str, copy_url: str, log: EventLog, make_anew: Callable[[], Awaitable[None]]
) -> None:
    """By the same relay and the same consumer, which have been running all the time."""
    async with opened(notes_url) as database, opened(copy_url) as copy:
        await notes.publish_notes(database, 1, 50)
        async with working(notes_url, copy, log):
            await eventually(lambda: has_applied(copy, 50))
            await eventually(lambda: is_fed(database, log, 50))
            await make_anew()

            async def is_whole(count: int) -> bool:
                ends = await log.end_offsets(TOPIC)
                return sum(ends.values()) == count and await has_read(copy, log)

            await eventually(lambda: is_whole(50), within=40)
            await notes.publish_notes(database, 51, 60)
            await eventually(lambda: is_whole(60))
        assert sorted(chain.from_iterable(await notes.positions_in(log))) == list(range(1, 61))
        await notes.assert_copied(copy, *events(60))


@pytest.mark.usefixtures("looks_often")
async def test_a_topic_that_is_made_anew_under_running_workers_is_fed_and_read_again(
    notes_url: str, copy_url: str, log_urls: list[str]
) -> None:
    async def make_anew() -> None:
        with psycopg.connect(log_urls[0]) as admin:
            admin.execute("DELETE FROM log_records")
            admin.execute("DELETE FROM log_heads")
            admin.execute("INSERT INTO log_heads VALUES ('notes', 0, 0), ('notes', 1, 0)")

    async with opened_log(log_urls[0], 2) as log:
        await is_fed_and_read_again(notes_url, copy_url, log, make_anew)


@pytest.mark.heavy
@pytest.mark.kafka
@pytest.mark.usefixtures("looks_often")
async def test_a_topic_made_anew_under_running_workers_is_fed_and_read_again(
    notes_url: str, copy_url: str, kafka: LocalKafka
) -> None:
    log = KafkaLog({"bootstrap.servers": kafka.bootstrap_servers}, partitions=3)

    async def make_anew() -> None:
        admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
        await asyncio.to_thread(admin.delete_topics([TOPIC])[TOPIC].result)
        await log.create_topic(TOPIC)

    await log.create_topic(TOPIC)
    try:
        await is_fed_and_read_again(notes_url, copy_url, log, make_anew)
    finally:
        await log.close()
