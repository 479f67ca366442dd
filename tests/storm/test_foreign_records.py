"""What foreign writers plant is what they say, and what a consumer makes of it can be mended."""

import asyncio
from collections.abc import Callable

import pytest

from eventspine import dead_letters
from eventspine.dead_letters import BEHIND, Parked
from eventspine.event import envelope
from eventspine.log import Record
from eventspine.postgres_log import PostgresLog
from shop.platform.discovery import load_all
from shop.platform.service import Service
from tests.storm import foreign_records
from tests.storm.foreign_records import Place, Planted
from tests.support.databases import Databases
from tests.support.living import Living, living, shop
from tests.support.waiting import eventually

PARTITIONS = 3
READERS = [each for each in load_all() if "users" in each.handlers.topics]


@pytest.fixture(autouse=True)
async def partitions(databases: Databases) -> None:
    log = PostgresLog(databases.log)
    await log.create_topic("users", PARTITIONS)
    await log.close()


async def is_read_to_the_end(system: Living) -> bool:
    [(published,)] = await system.users.fetch("SELECT position FROM outbox_head")
    [(relayed,)] = await system.users.fetch("SELECT position FROM relay")
    ends = await system.log.end_offsets("users")
    wanted = {at: end for at, end in ends.items() if end}
    return relayed == published and all(
        [await read_by(system, reader.name) == wanted for reader in READERS]
    )


async def read_to_the_end(system: Living) -> None:
    await eventually(lambda: is_read_to_the_end(system))


async def read_by(system: Living, reader: str) -> dict[int, int]:
    return dict(
        await system.opened[reader].fetch(
            "SELECT partition, next_offset FROM cursors WHERE topic = 'users'"
        )
    )


async def some_users(system: Living) -> None:
    await system.create(30)
    await system.update(1, 2, 3)
    await eventually(lambda: system.users.fetch("SELECT FROM relay WHERE position = 33"))
    await read_to_the_end(system)


async def plant(urls: Databases, how: Callable[..., Planted], **params: int) -> Planted:
    return await asyncio.to_thread(how, lambda: PostgresLog(urls.log), "users", **params)


async def records(system: Living, partition: int) -> list[Record]:
    return await system.log.read("users", partition, 0, 10_000)


async def parked(system: Living, reader: Service) -> list[Parked]:
    return await dead_letters.find(system.opened[reader.name], reader.handlers.consumer)


def places(found: list[Parked]) -> list[Place]:
    return sorted((each.topic, each.partition, each.offset) for each in found)


async def test_duplicated_records_stand_in_their_keys_partitions_and_are_not_applied(
    databases: Databases,
) -> None:
    async with living(databases) as system:
        async with system.moving():
            await some_users(system)
            before = [await records(system, at) for at in range(PARTITIONS)]
            planted = await plant(databases, foreign_records.duplicate, back=6, length=4, which=1)
            await read_to_the_end(system)
            after = [await records(system, at) for at in range(PARTITIONS)]
        assert [len(some) for some in after] == [
            len(before[0]), len(before[1]) + 4, len(before[2])
        ]  # fmt: skip
        said = [(one.key, one.value, one.headers) for one in after[1]]
        assert said[-4:] == said[-10:-6]
        assert planted.places == []
        assert set(planted.keys) == {key for key, _, _ in said[-4:]}
        for reader in READERS:
            assert await parked(system, reader) == []
        assert not [one for some in after for one in some if foreign_records.is_planted(one)]


async def test_every_kind_of_poison_is_parked_and_holds_nothing(databases: Databases) -> None:
    async with living(databases) as system:
        async with system.moving():
            await some_users(system)
            planted = [
                place
                for which in range(10)
                for place in (await plant(databases, foreign_records.poison, which=which)).places
            ]
            await system.update(1, 2, 3)
            await read_to_the_end(system)
        assert len(planted) == 10
        for reader in READERS:
            found = await parked(system, reader)
            assert places(found) == sorted(planted)
            assert {(each.cause, each.holds_key) for each in found} == {("not an event", False)}
            database = system.opened[reader.name]
            gone = await dead_letters.discard(database, reader.handlers.consumer, found)
            assert gone == 10
        for topic, partition, offset in planted:
            [record] = await system.log.read(topic, partition, offset, 1)
            assert foreign_records.is_planted(record)
    assert (await asyncio.to_thread(shop, databases, "audit")).exit_code == 0


async def test_a_forged_event_holds_its_key_and_passes_over_nothing(databases: Databases) -> None:
    async with living(databases) as system:
        async with system.moving():
            await some_users(system)
            planted = await plant(databases, foreign_records.forge, which=0)
            [key] = planted.keys
            await system.update(*range(1, 31))
            await read_to_the_end(system)
        for reader in READERS:
            forged, behind = await parked(system, reader)
            assert places([forged]) == planted.places
            assert (forged.cause, behind.cause) == ("not an event", BEHIND)
            assert forged.key == behind.key == key
            assert envelope_is_known(forged)
            database = system.opened[reader.name]
            await dead_letters.discard(database, reader.handlers.consumer, [forged])
            retried = await dead_letters.retry(database, reader.handlers, "users", key)
            assert (retried.applied, retried.left) == (1, 0)
    assert (await asyncio.to_thread(shop, databases, "audit")).exit_code == 0


def envelope_is_known(parked: Parked) -> bool:
    record = Record(
        parked.topic, parked.partition, parked.offset, parked.key, parked.value, parked.headers
    )
    return envelope(record).source == "/users"
