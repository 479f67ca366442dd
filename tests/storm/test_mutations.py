"""Each mutation takes away what it says, and fails where the shop does not read as it did."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from inspect import signature
from typing import Any

import psycopg
import pytest

from eventspine import applying, migrations
from eventspine.applying import CheckpointConflict
from eventspine.consumer import Consumer
from eventspine.context import NOBODY
from eventspine.database import Database
from eventspine.errors import Unavailable
from eventspine.interceptors import chained
from eventspine.kafka_log import KafkaLog, appender
from eventspine.log import EventLog, Message
from eventspine.outbox import transaction
from eventspine.postgres_log import PostgresLog
from eventspine.reading import Checkpoint
from eventspine.steps import NO_STEPS, Steps
from shop.platform.auth import known
from shop.platform.auth.tokens import Issuer
from tests.storm import failpoints, faults, launch, mutations
from tests.storm.mutations import ChangedShape, replace_text
from tests.support import notes
from tests.support.issuing import key, planted
from tests.support.memory_log import MemoryLog
from tests.support.spine import opened
from tests.support.waiting import eventually

PATCHED: Sequence[tuple[Any, str]] = (
    (migrations, "PUBLISH_EVENTS"),
    (applying, "read"),
    (applying, "_MOVE"),
    (known, "_FIRST"),
    (known, "_NEXT"),
)

Take = Callable[[str], Steps]


@pytest.fixture
def take_away(monkeypatch: pytest.MonkeyPatch) -> Take:
    """Until the test ends; gives what is around the steps then."""
    for holder, name in PATCHED:
        monkeypatch.setattr(holder, name, getattr(holder, name))
    monkeypatch.setattr(failpoints, "_moved", set())

    def take_away(name: str) -> Steps:
        interceptor = mutations.take_away(name)
        return chained([interceptor] if interceptor else [])

    return take_away


@pytest.fixture
def with_sequence(users_url: str) -> str:
    with psycopg.connect(users_url, autocommit=True) as connection:
        connection.execute(launch.LEDGER_SQL)
    return users_url


def migrate_again(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP FUNCTION publish_events")
        connection.execute(migrations.PUBLISH_EVENTS.encode())


@asynccontextmanager
async def locked(url: str, row: str) -> AsyncIterator[psycopg.AsyncConnection]:
    """Somebody holds this row, and looks on."""
    async with await psycopg.AsyncConnection.connect(url) as connection:
        await connection.execute(f"SELECT * FROM {row} FOR UPDATE".encode())
        yield connection
        await connection.rollback()


async def waiting(url: str, count: int) -> bool:
    async with await psycopg.AsyncConnection.connect(url) as connection:
        found = await connection.execute(
            "SELECT FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return found.rowcount == count


async def one(looker: psycopg.AsyncConnection, sql: str) -> Any:
    row = await (await looker.execute(sql.encode())).fetchone()
    assert row
    return row[0]


@pytest.mark.parametrize(("mutated", "given_out"), [(False, []), (True, [(1,), (2,)])])
async def test_the_head_lock_mutation_gives_out_positions_that_another_holds(
    take_away: Take, with_sequence: str, *, mutated: bool, given_out: list[tuple[int]]
) -> None:
    steps = NO_STEPS
    if mutated:
        steps = take_away("head_lock")
        migrate_again(with_sequence)
    async with opened(with_sequence, steps=steps) as users:
        async with locked(with_sequence, "outbox_head") as looker:
            committing = [asyncio.create_task(create(users, n)) for n in range(2)]
            await eventually(lambda: waiting(with_sequence, 2))
            there = await looker.execute("SELECT position FROM outbox ORDER BY 1")
            assert await there.fetchall() == given_out
        await asyncio.gather(*committing)
        positions = await users.fetch("SELECT position FROM outbox ORDER BY 1")
        head = await users.fetch("SELECT position FROM outbox_head")
        assert (positions, head) == ([(1,), (2,)], [(2,)])


async def test_the_head_lock_mutation_lets_a_commit_overtake_another(
    take_away: Take, with_sequence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = take_away("head_lock")
    migrate_again(with_sequence)
    stopped, fails = asyncio.Event(), asyncio.Event()

    async def the_first_stops(_point: str) -> None:
        if not stopped.is_set():
            stopped.set()
            await fails.wait()
            raise psycopg.OperationalError("its connection was lost")

    monkeypatch.setattr(failpoints, "passes", the_first_stops)
    async with opened(with_sequence, steps=steps) as users:
        first = asyncio.create_task(create(users, 0))
        await stopped.wait()
        await create(users, 1)
        assert await users.fetch("SELECT position FROM outbox") == [(2,)]
        fails.set()
        with pytest.raises(Unavailable):
            await first
        await create(users, 2)
        positions = await users.fetch("SELECT position FROM outbox ORDER BY 1")
        assert positions == [(2,), (3,)]


async def create(users: Database, number: int) -> None:
    async with transaction(users) as tx:
        await tx.execute(
            "INSERT INTO users (email, name) VALUES (%(email)s, 'n')", {"email": f"{number}@x.org"}
        )
        tx.publish(notes.event(number, 1), NOBODY)


@pytest.mark.parametrize(("mutated", "seen"), [(False, 0), (True, 1)])
async def test_the_outbox_mutation_shows_a_user_before_its_event(
    take_away: Take, users_url: str, *, mutated: bool, seen: int
) -> None:
    steps = take_away("outbox_transaction") if mutated else NO_STEPS
    async with opened(users_url, steps=steps) as users:
        async with locked(users_url, "outbox_head") as looker:
            creating = asyncio.create_task(create(users, 0))
            await eventually(lambda: waiting(users_url, 1))
            assert await one(looker, "SELECT count(*) FROM users") == seen
            assert await one(looker, "SELECT count(*) FROM outbox") == 0
        await creating
        assert await users.fetch("SELECT position FROM outbox") == [(1,)]


@pytest.mark.parametrize(("mutated", "read"), [(False, [1, 2]), (True, [1, 2, 1, 2])])
def test_the_repeat_check_mutation_reads_repeated_records_again(
    take_away: Take, *, mutated: bool, read: list[int]
) -> None:
    if mutated:
        take_away("repeat_check")
    records = [
        notes.record(offset, position, notes.event(position, 1))
        for offset, position in enumerate([1, 2, 1, 2])
    ]
    at = (records[0].topic, records[0].partition)
    found = vars(applying)["read"](records, {at: Checkpoint(0, 0)}, notes.handlers())
    assert [item.position for item in found.items] == read


@pytest.mark.parametrize("mutated", [False, True])
async def test_the_compare_and_set_mutation_lets_two_members_move_one_cursor(
    take_away: Take, orders_url: str, *, mutated: bool
) -> None:
    if mutated:
        take_away("compare_and_set")
    async with opened(orders_url) as database:
        members = [Consumer(database, MemoryLog(1), notes.handlers()) for _ in range(2)]
        at = ("notes", 0)
        for member in members:
            assert await member._start_at(*at) == 0
        async with transaction(database) as tx:
            await members[0]._move(tx, at, Checkpoint(2, 2))
        try:
            async with transaction(database) as tx:
                await members[1]._move(tx, at, Checkpoint(1, 1))
        except CheckpointConflict:
            assert not mutated
        else:
            assert mutated
        expected = [(1, 1)] if mutated else [(2, 2)]
        moved = "SELECT next_offset, last_position FROM cursors"
        assert await database.fetch(moved) == expected


@asynccontextmanager
async def opened_log(url: str) -> AsyncIterator[PostgresLog]:
    log = PostgresLog(url)
    await log.create_topic("users")
    try:
        yield log
    finally:
        await log.close()


async def is_told_at_once(log: EventLog, steps: Steps, *, mutated: bool) -> bool:
    """That a message is in the log."""
    append = partial(log.append, "users", [Message("1", b"{}", {})])
    appending = asyncio.ensure_future(steps.append(None, append) if steps.append else append())
    await asyncio.wait([appending], timeout=30.0 if mutated else 1.0)
    told = appending.done() and appending.exception() is None
    appending.cancel()
    await asyncio.wait([appending])
    return told


@pytest.mark.parametrize("mutated", [False, True])
async def test_the_broker_ack_mutation_reports_a_message_that_no_broker_has(
    take_away: Take, monkeypatch: pytest.MonkeyPatch, *, mutated: bool
) -> None:
    # An append that nobody waits for is waited for by the end of the log.
    monkeypatch.setattr(appender, "GIVE_UP_AFTER", 3.0)
    steps = take_away("broker_ack") if mutated else NO_STEPS
    log = KafkaLog({"bootstrap.servers": "127.0.0.1:1"})
    try:
        assert await is_told_at_once(log, steps, mutated=mutated) is mutated
    finally:
        await log.close()


@pytest.mark.parametrize("mutated", [False, True])
async def test_the_ack_mutation_reports_a_message_in_a_table_that_is_locked(
    take_away: Take, log_url: str, *, mutated: bool
) -> None:
    steps = take_away("broker_ack") if mutated else NO_STEPS
    async with opened_log(log_url) as log:
        async with locked(log_url, "log_heads"):
            assert await is_told_at_once(log, steps, mutated=mutated) is mutated
        if mutated:
            await eventually(lambda: has_one_record(log))


@pytest.mark.parametrize(("mutated", "taken"), [(False, {"old", "new"}), (True, {"new"})])
async def test_the_keys_mutation_forgets_the_key_before_the_active_one(
    take_away: Take, orders_url: str, *, mutated: bool, taken: set[str]
) -> None:
    if mutated:
        take_away("verifying_keys")
    old, new = key("old"), key("new")
    with psycopg.connect(orders_url, autocommit=True) as connection:
        for sql, values in planted([old.changed("verifying"), new.changed("active")]):
            connection.execute(sql.encode(), values)
    issuer = Issuer("http://x", "eventshop", own=True)
    async with opened(orders_url) as database:
        await known.Known(database, issuer).look()
    assert set(issuer.keys) == taken


async def has_one_record(log: PostgresLog) -> bool:
    return await log.end_offsets("users") == {0: 1}


def test_what_reads_otherwise_is_not_patched() -> None:
    with pytest.raises(ChangedShape, match=r"eventspine\.applying\._MOVE has this 0 times"):
        replace_text(applying, "_MOVE", "something_else =", "")
    with pytest.raises(ChangedShape, match=r"eventspine\.applying\._MOVE has this 2 times"):
        replace_text(applying, "_MOVE", "next_offset =", "")
    with pytest.raises(AttributeError):
        replace_text(applying, "NO_SUCH_TEXT", "", "")


@pytest.mark.parametrize("name", mutations.NAMES)
def test_every_mutation_says_what_should_bring_it_to_light(name: str) -> None:
    mutation = mutations.load(name)
    assert set(mutation.FAULTS) <= {fault.name for fault in faults.ALL}
    assert mutation.__doc__
    assert not signature(mutation.apply).parameters
