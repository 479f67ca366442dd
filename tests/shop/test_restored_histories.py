"""Whatever has happened, and whichever databases are lost: each table is what it was, and life goes on."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from devstack.kafka import LocalKafka
from eventspine.kafka_log import KafkaLog
from eventspine.log import EventLog
from tests.support.databases import Databases, NewDatabase
from tests.support.examples import examples
from tests.support.living import Living, living, shop
from tests.support.tables import tables
from tests.support.topics import forget_topics

Steps = Sequence[tuple[str, int, int]]
"""What is done, to which of those that are there, and how often."""
History = Sequence[tuple[Steps, Sequence[str]]]
"""What happens, and then which databases are lost, and restored in this order."""

_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["create", "update", "erase", "place", "place", "cancel"]),
        st.integers(0, 30),
        st.integers(1, 5),
    ),
    min_size=2,
    max_size=20,
)
_LOST = st.sampled_from([("users",), ("orders",), ("users", "orders"), ("orders", "users")])
HISTORIES = st.lists(st.tuples(_STEPS, _LOST), min_size=1, max_size=3)

# An example takes seconds, so a failing one is not made smaller.
_AS_FOUND = [Phase.explicit, Phase.reuse, Phase.generate]

Empty = Callable[[str], str]
"""A new, migrated database for a service."""


@pytest.fixture
def empty(new_database: NewDatabase, templates: dict[str, str]) -> Empty:
    return lambda name: new_database(templates[name])


@given(history=HISTORIES)
@settings(examples(3), phases=_AS_FOUND)
@pytest.mark.timeout(300)
async def test_each_table_is_what_it_was_and_life_goes_on(
    empty: Empty, templates: dict[str, str], history: History
) -> None:
    await survives(Databases({name: empty(name) for name in templates}), empty, history)


@pytest.mark.heavy
@given(history=HISTORIES)
@settings(examples(60), phases=_AS_FOUND)
@pytest.mark.timeout(1500)
async def test_many_histories(empty: Empty, templates: dict[str, str], history: History) -> None:
    await survives(Databases({name: empty(name) for name in templates}), empty, history)


@pytest.mark.heavy
@pytest.mark.kafka
@pytest.mark.timeout(300)
async def test_on_kafka_too(empty: Empty, templates: dict[str, str], kafka: LocalKafka) -> None:
    steps = [("create", 0, 4), ("place", 0, 5), ("update", 1, 3), ("cancel", 2, 2), ("erase", 3, 1)]
    history: History = [(steps, ("orders", "users")), (steps[1:], ("users",)), (steps, ("orders",))]
    servers = kafka.bootstrap_servers
    forget_topics(servers)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHOP_EVENT_LOG", "kafka")
        patch.setenv("SHOP_KAFKA__BOOTSTRAP_SERVERS", servers)
        urls = Databases({name: empty(name) for name in templates})
        await survives(urls, empty, history, KafkaLog({"bootstrap.servers": servers}, partitions=1))


async def survives(
    urls: Databases, empty: Empty, history: History, log: EventLog | None = None
) -> None:
    for steps, lost in [*history, (history[0][0], ())]:
        async with running(urls, log) as system:
            for step in steps:
                await happens(system, *step)
            await system.settled()
        before = {name: await asyncio.to_thread(tables, urls[name]) for name in ("users", "orders")}
        urls = urls.but(**{name: empty(name) for name in lost})
        for name in lost:
            done = await asyncio.to_thread(shop, urls, "restore", name)
            assert done.exit_code == 0, done.output
        for name, found in before.items():
            assert await asyncio.to_thread(tables, urls[name]) == found
    audited = await asyncio.to_thread(shop, urls, "audit")
    assert audited.exit_code == 0, audited.output
    if log is not None:
        await log.close()


@asynccontextmanager
async def running(urls: Databases, log: EventLog | None) -> AsyncIterator[Living]:
    async with living(urls, log) as system, system.moving():
        yield system


async def happens(system: Living, what: str, which: int, count: int) -> None:
    customers = await system.orders.fetch("SELECT id FROM customers WHERE NOT erased ORDER BY id")
    orders = await system.orders.fetch("SELECT id FROM orders ORDER BY id")
    some = orders if what == "cancel" else customers
    chosen = [some[(which + n) % len(some)][0] for n in range(count)] if some else []
    match what:
        case "update" if chosen:
            await system.update(*chosen)
        case "place" if chosen:
            await system.place(*chosen)
        case "cancel" if chosen:
            await system.cancel(*dict.fromkeys(chosen))
        case "erase" if chosen:
            await system.erase(chosen[0])
            # Or its customer might go while an order is placed.
            await system.settled()
        case _:
            await system.create(count)
            await system.settled()
