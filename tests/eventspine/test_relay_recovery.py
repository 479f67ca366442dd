"""A database or a log that is older than the other, or away: nothing is lost, and it is named."""

import asyncio

import psycopg
import pytest

from eventspine import relay
from eventspine.database import Database
from eventspine.errors import SpineError
from eventspine.log import Message
from eventspine.outbox import transaction
from tests.support import notes
from tests.support.memory_log import MemoryLog
from tests.support.relaying import assert_whole, holds, is_saved
from tests.support.spine import Said, opened, opened_log
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("impatient")


async def forget(database: Database, above: int) -> None:
    """The database as its backup was, when so many positions had been given out."""
    async with transaction(database) as tx:
        await tx.execute("DELETE FROM outbox WHERE position > %(above)s", {"above": above})
        await tx.execute("DELETE FROM notes WHERE id > %(above)s", {"above": above})
        await tx.execute("UPDATE outbox_head SET position = %(above)s", {"above": above})
        await tx.execute("UPDATE relay SET position = %(above)s", {"above": above})


@pytest.mark.parametrize("published_since", [0, 1, 5, 9])
async def test_a_database_from_an_old_backup_publishes_nothing_and_says_so_once(
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
        assert "Stop the service, run `shop restore`, and start it again." in reason


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
async def test_positions_in_neither_the_log_nor_the_outbox_are_named(
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


async def test_a_former_relays_append_is_no_sign_of_an_old_backup(
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
