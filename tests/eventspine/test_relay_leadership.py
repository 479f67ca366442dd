"""One relay leads; another takes over when it has to; and two that both lead do no harm."""

import asyncio
import signal
import subprocess
import sys
import textwrap
from collections.abc import Sequence

import psycopg
import pytest

from eventspine import relay
from eventspine.database import Database
from eventspine.log import Message, Record
from tests.support import notes
from tests.support.memory_log import MemoryLog
from tests.support.relaying import assert_whole, holds, is_saved, leads
from tests.support.spine import Said, opened, opened_log
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("impatient")


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
        last = 0

        async def publish_more() -> None:
            nonlocal last
            await notes.publish_notes(database, last + 1, last + 10)
            last += 10

        async def have_met() -> bool:
            """More is published until both have relayed the same, which is a matter of chance."""
            if sum(len(positions) for positions in await notes.positions_in(log)) > last:
                return True
            await publish_more()
            return False

        async with notes.Running(*(one.run() for one in relays), consumer.run()):
            for _ in range(60):
                await publish_more()
            await eventually(have_met, what="an event that both have relayed")
            await eventually(lambda: holds(log, last))
            await eventually(lambda: has_copied(copy, last))
        await assert_whole(log, last)
        await notes.assert_copied(copy, *(notes.event(n, 1) for n in range(1, last + 1)))


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
                await eventually(lambda: holds(log, 10))
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
            await eventually(lambda: leads(relay))
            await notes.publish_notes(database, 9, 9)
            await eventually(lambda: is_saved(database, 9))
        log.takes = 0.0
        logged = [position for of in await notes.positions_in(log) for position in of]
        assert sorted(logged) == [*range(1, 10)]
