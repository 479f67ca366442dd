"""The outbox goes into the log whole and in order, whatever becomes of those who carry it."""

import asyncio
import random
import signal
import string
import subprocess
import sys
import textwrap
from collections.abc import Sequence

import psycopg
import pytest

from eventspine import backlog, backoff, relay
from eventspine.context import NOBODY, Context
from eventspine.database import Database
from eventspine.errors import SpineError
from eventspine.log import EventLog, LogUnavailable, Message, Record
from eventspine.migrations import PUBLISH_EVENTS
from eventspine.outbox import transaction
from eventspine.relay import Relay
from tests.support import notes
from tests.support.memory_log import MemoryLog
from tests.support.spine import Said, opened, opened_log
from tests.support.waiting import eventually


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "_FIRST_PAUSE", 0.001)
    monkeypatch.setattr(backoff, "_LONGEST_PAUSE", 0.05)


async def holds(log: EventLog, last: int) -> bool:
    """Whether every position up to the last is in the log."""
    found = {position for partition in await notes.positions_in(log) for position in partition}
    return found >= set(range(1, last + 1))


async def is_saved(database: Database, position: int) -> bool:
    return await database.fetch("SELECT position FROM relay") == [(position,)]


def firsts(positions: Sequence[int]) -> list[int]:
    """The positions as a consumer counts them: what is not above the last is a repeat."""
    counted: list[int] = []
    for position in positions:
        if not counted or position > counted[-1]:
            counted.append(position)
    return counted


async def assert_whole(log: EventLog, last: int) -> None:
    """A consumer of this log sees every position once, and none is overtaken in its partition."""
    partitions = await notes.positions_in(log)
    assert sorted(p for positions in partitions for p in firsts(positions)) == [*range(1, last + 1)]


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
            took = []
            for n in range(2, 5):
                began = loop.time()
                await notes.publish_notes(database, n, n)
                await eventually(lambda n=n: holds(log, n), within=2.0)
                took.append(loop.time() - began)
            if notified:
                assert min(took) < 0.2


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
        assert asyncio.get_running_loop().time() - started < 2, "none waits for the next poll"
        assert await notes.positions_in(log) == [[*range(1, 31)]]
        assert 2 <= max(log.batches) <= 4


async def test_while_there_is_nothing_to_relay_the_log_is_kept_prepared(notes_url: str) -> None:
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


async def test_two_relays_that_both_lead_leave_no_hole_and_put_nothing_out_of_order(
    notes_url: str, copy_url: str, postgres_log_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if no lock were held: what depends on it is work saved, not safety."""
    monkeypatch.setattr(relay, "LEAD", "SELECT true")
    async with (
        opened(notes_url) as database,
        opened(copy_url) as copy,
        opened_log(postgres_log_url, 3) as log,
    ):
        relays = [notes.relay(notes_url, log, batch=size) for size in (5, 9)]
        consumer = notes.consumer(copy, log, batch=13)
        async with notes.Running(*(one.run() for one in relays), consumer.run()):
            for n in range(60):
                await notes.publish_notes(database, 10 * n + 1, 10 * n + 10)
            await eventually(lambda: holds(log, 600))
            await eventually(lambda: has_copied(copy, 600))
        await assert_whole(log, 600)
        counts = [len(positions) for positions in await notes.positions_in(log)]
        assert sum(counts) > 600, "they never met"
        await notes.assert_copied(copy, *(notes.event(n, 1) for n in range(1, 601)))


async def has_copied(copy: Database, count: int) -> bool:
    return await copy.fetch("SELECT count(*) FROM notes") == [(count,)]


async def test_one_of_two_relays_leads_and_the_other_takes_over(notes_url: str, said: Said) -> None:
    async with opened(notes_url) as database:
        log = MemoryLog()
        async with notes.Running(notes.relay(notes_url, log).run()) as first:
            await notes.publish_notes(database, 1, 5)
            await eventually(lambda: is_saved(database, 5))
            async with notes.Running(notes.relay(notes_url, log).run()):
                await notes.publish_notes(database, 6, 10)
                await eventually(lambda: is_saved(database, 10))
                first.tasks[0].cancel()
                await asyncio.wait(first.tasks)
                await notes.publish_notes(database, 11, 15)
                await eventually(lambda: is_saved(database, 15))
        assert await notes.positions_in(log) == [[*range(1, 16)]]
    assert [entry["position"] for entry in said if entry["event"] == "relay.leading"] == [0, 10]
    assert said.troubles() == []


async def test_a_relay_that_was_former_saves_nothing_and_says_so(
    notes_url: str, said: Said
) -> None:
    class Log(MemoryLog):
        async def append(self, topic: str, messages: Sequence[Message]) -> None:
            await super().append(topic, messages)
            if len(self.partitions[0]) == 5:
                with psycopg.connect(notes_url, autocommit=True) as admin:
                    admin.execute("UPDATE relay SET epoch = epoch + 1")

    async with opened(notes_url) as database:
        log = Log()
        await notes.publish_notes(database, 1, 5)
        async with notes.Running(notes.relay(notes_url, log).run()):
            await eventually(lambda: is_saved(database, 5))
        assert await notes.positions_in(log) == [[1, 2, 3, 4, 5] * 2]
    assert ["LeadershipLost" in entry["reason"] for entry in said.troubles()] == [True]


_RELAYS = """
    import asyncio, sys
    from eventspine.postgres_log import PostgresLog
    from tests.support import notes

    async def main():
        relay = notes.relay(sys.argv[1], PostgresLog(sys.argv[2]), frozen_after=1.0)
        asyncio.create_task(relay.run())
        while relay.position < 5:
            await asyncio.sleep(0.01)
        print("relays", flush=True)
        await asyncio.Event().wait()

    asyncio.run(main())
"""


async def test_a_frozen_leader_is_replaced_and_does_no_harm_when_it_thaws(
    notes_url: str, postgres_log_url: str
) -> None:
    async with opened(notes_url) as database, opened_log(postgres_log_url, 3) as log:
        await notes.publish_notes(database, 1, 5)
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(_RELAYS), notes_url, postgres_log_url],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        try:
            assert process.stdout
            while await asyncio.to_thread(process.stdout.readline) != "relays\n":
                assert process.poll() is None
            async with notes.Running(notes.relay(notes_url, log).run()):
                process.send_signal(signal.SIGSTOP)
                await notes.publish_notes(database, 6, 10)
                await eventually(lambda: holds(log, 10), within=5.0)
                process.send_signal(signal.SIGCONT)
                for n in range(11, 41):
                    await notes.publish_notes(database, n, n)
                    await asyncio.sleep(0.01)
                await eventually(lambda: is_saved(database, 40))
        finally:
            process.kill()
            process.communicate()
        await assert_whole(log, 40)


class SlowLog(MemoryLog):
    """Takes so many seconds to read a partition, and to append."""

    takes = 0.0

    async def append(self, topic: str, messages: Sequence[Message]) -> None:
        await asyncio.sleep(4 * self.takes)
        await super().append(topic, messages)

    async def read(self, topic: str, partition: int, offset: int, limit: int) -> list[Record]:
        await asyncio.sleep(self.takes)
        return await super().read(topic, partition, offset, limit)


async def test_a_leader_that_waits_for_a_slow_log_is_not_taken_for_a_frozen_one(
    notes_url: str,
) -> None:
    async with opened(notes_url) as database:
        log = SlowLog(partitions=4)
        await notes.publish_notes(database, 1, 8)
        async with notes.Running(notes.relay(notes_url, log).run()):
            await eventually(lambda: is_saved(database, 8))
        # To look into four partitions, and to append, takes longer than the frozen are given.
        log.takes = 0.4
        relay = notes.relay(notes_url, log, frozen_after=1.0)
        async with notes.Running(relay.run()):
            await eventually(lambda: leads(relay), within=5.0)
            await notes.publish_notes(database, 9, 9)
            await eventually(lambda: is_saved(database, 9), within=5.0)
        log.takes = 0.0
        logged = [position for of in await notes.positions_in(log) for position in of]
        assert sorted(logged) == [*range(1, 10)]


async def leads(relay: Relay) -> bool:
    return relay.leads


# Databases and logs that are older than the other


async def forget(database: Database, above: int) -> None:
    """The database as its backup was, when so many positions had been given out."""
    async with transaction(database) as tx:
        await tx.execute("DELETE FROM outbox WHERE position > %(above)s", {"above": above})
        await tx.execute("DELETE FROM notes WHERE id > %(above)s", {"above": above})
        await tx.execute("UPDATE outbox_head SET position = %(above)s", {"above": above})
        await tx.execute("UPDATE relay SET position = %(above)s", {"above": above})


@pytest.mark.parametrize("published_since", [0, 1, 5, 9])
async def test_a_database_restored_from_an_old_backup_publishes_nothing_and_says_so_once(
    notes_url: str, said: Said, published_since: int
) -> None:
    """Nor does it when it has gone on, and has given the log's positions out to other events."""
    async with opened(notes_url) as database:
        log = MemoryLog()
        await notes.publish_notes(database, 1, 20)
        async with notes.Running(notes.relay(notes_url, log).run()):
            await eventually(lambda: is_saved(database, 20))
        await forget(database, above=15)
        for n in range(published_since):
            await notes.publish_notes(database, 16 + n, 16 + n)
        said.clear()
        async with notes.Running(notes.relay(notes_url, log).run()):
            await eventually(lambda: has_refused(said))
            for n in range(published_since, 12):
                await notes.publish_notes(database, 16 + n, 16 + n)
                await asyncio.sleep(0.02)
        assert await notes.positions_in(log) == [[*range(1, 21)]]
        assert len(said) == 1, said
        reason = said[0]["reason"]
        assert reason.startswith("BehindItsLog: the log ends with position 20 of /notes")
        assert "restored from an old backup" in reason
        assert "Restore a newer backup, or rebuild this database from the log." in reason


async def has_refused(said: Said) -> bool:
    return bool(said.troubles())


async def test_a_log_that_lost_its_end_is_fed_again_from_the_outbox(
    notes_url: str, said: Said
) -> None:
    async with opened(notes_url) as database:
        log = MemoryLog()
        await notes.publish_notes(database, 1, 50)
        async with notes.Running(notes.relay(notes_url, log).run()):
            await eventually(lambda: is_saved(database, 50))
        del log.partitions[0][20:]
        said.clear()
        async with notes.Running(notes.relay(notes_url, log, batch=7).run()):
            await notes.publish_notes(database, 51, 60)
            await eventually(lambda: is_saved(database, 60))
        assert await notes.positions_in(log) == [[*range(1, 61)]]
    (report,) = said.troubles()
    assert report["event"] == "relay.log_truncated"
    assert (report["relayed"], report["log_has"]) == (50, 20)


@pytest.mark.parametrize(("pruned", "missing"), [(30, (21, 30)), (50, (21, 50)), (20, None)])
async def test_what_is_neither_in_the_log_nor_in_the_outbox_is_named(
    notes_url: str, said: Said, pruned: int, missing: tuple[int, int] | None
) -> None:
    async with opened(notes_url) as database:
        log = MemoryLog()
        await notes.publish_notes(database, 1, 50)
        async with notes.Running(notes.relay(notes_url, log).run()):
            await eventually(lambda: is_saved(database, 50))
        async with transaction(database) as tx:
            await tx.execute("DELETE FROM outbox WHERE position <= %(p)s", {"p": pruned})
        del log.partitions[0][20:]
        said.clear()
        async with notes.Running(notes.relay(notes_url, log).run()):
            await eventually(lambda: has_refused(said))
            await notes.publish_notes(database, 51, 60)
            await eventually(lambda: is_saved(database, 60))
        (positions,) = await notes.positions_in(log)
        assert positions == [*range(1, 21), *range(pruned + 1, 61)]
    named = [(e["first"], e["last"]) for e in said if e["event"] == "relay.positions_missing"]
    assert named == ([missing] if missing else [])


async def test_a_batch_that_a_former_relay_repeated_late_is_not_taken_for_a_lost_end(
    notes_url: str, said: Said
) -> None:
    async with opened(notes_url) as database:
        log = MemoryLog()
        await notes.publish_notes(database, 1, 500)
        async with notes.Running(notes.relay(notes_url, log, batch=300).run()):
            await eventually(lambda: is_saved(database, 500))
        await log.append(
            notes.TOPIC,
            [Message(r.key or "", r.value, r.headers) for r in log.partitions[0][:300]],
        )
        async with notes.Running(notes.relay(notes_url, log, batch=300).run()):
            await notes.publish_notes(database, 501, 501)
            await eventually(lambda: is_saved(database, 501))
        (positions,) = await notes.positions_in(log)
        assert positions == [*range(1, 501), *range(1, 301), 501]
    assert said.troubles() == []


async def test_what_a_former_relay_appends_in_the_meantime_is_no_sign_of_an_old_backup(
    notes_url: str, said: Said
) -> None:
    class Log(MemoryLog):
        busy = False

        async def end_offsets(self, topic: str) -> dict[int, int]:
            if not self.busy:
                self.busy = True
                await notes.publish_notes(database, 6, 6)
                async with notes.Running(former.run()):
                    await eventually(lambda: holds(log, 6))
            return await super().end_offsets(topic)

    database: Database
    log: Log
    former: relay.Relay
    async with opened(notes_url) as database:
        log = Log()
        await notes.publish_notes(database, 1, 5)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(relay, "LEAD", "SELECT true")
            former = notes.relay(notes_url, log)
            async with notes.Running(notes.relay(notes_url, log).run()):
                await eventually(lambda: is_saved(database, 6))
    assert "BehindItsLog" not in str(said)


async def test_a_log_full_of_foreign_records_is_searched_to_its_beginning(
    notes_url: str, said: Said
) -> None:
    async with opened(notes_url) as database:
        log = MemoryLog()
        await notes.publish_notes(database, 1, 5)
        async with notes.Running(notes.relay(notes_url, log, batch=3).run()):
            await eventually(lambda: is_saved(database, 5))
        for _ in range(100):
            log.put(0, None)
        async with notes.Running(notes.relay(notes_url, log, batch=3).run()):
            await notes.publish_notes(database, 6, 6)
            await eventually(lambda: is_saved(database, 6))
    assert said.troubles() == []


async def test_a_log_that_is_away_is_waited_for_and_named_once(notes_url: str, said: Said) -> None:
    async with opened(notes_url) as database:
        log = MemoryLog()
        await notes.publish_notes(database, 1, 5)
        async with notes.Running(notes.relay(notes_url, log).run()):
            await eventually(lambda: is_saved(database, 5))
            log.away = True
            await notes.publish_notes(database, 6, 10)
            await eventually(lambda: has_refused(said))
            await asyncio.sleep(0.5)
            log.away = False
            await eventually(lambda: is_saved(database, 10))
        assert await notes.positions_in(log) == [[*range(1, 11)]]
    assert [entry["reason"] for entry in said.at("warning")] == ["LogUnavailable: the log is away"]
    assert [entry["event"] for entry in said if entry["level"] == "info"].count(
        "relay.recovered"
    ) == 1


async def test_a_topic_that_vanished_from_under_the_relay_loses_nothing(
    notes_url: str, postgres_log_url: str, said: Said
) -> None:
    async with opened(notes_url) as database, opened_log(postgres_log_url) as log:
        await notes.publish_notes(database, 1, 5)
        async with notes.Running(notes.relay(notes_url, log).run()):
            await eventually(lambda: is_saved(database, 5))
            with psycopg.connect(postgres_log_url, autocommit=True) as admin:
                admin.execute("DELETE FROM log_records")
                admin.execute("DELETE FROM log_heads")
            await notes.publish_notes(database, 6, 10)
            await eventually(lambda: has_refused(said))
            await log.create_topic(notes.TOPIC, 2)
            await eventually(lambda: is_saved(database, 10))
        await assert_whole(log, 10)


def test_no_error_of_a_relay_is_unknown_to_the_tree_of_errors() -> None:
    assert issubclass(relay.BehindItsLog, SpineError)
    assert issubclass(relay.LeadershipLost, SpineError)
