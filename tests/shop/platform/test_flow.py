"""The flow: what waits where, how quickly it moves, and what is away or stuck."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from eventspine.log import LogUnavailable, TopicIdentity
from shop.platform import discovery
from shop.platform.flow import ConsumerFlow, Flow, FlowReader, ServiceFlow, asking
from shop.platform.flow import reader as module
from shop.platform.flow.pace import Pace, Standstill
from shop.platform.flow.places import InDatabase, Topic
from shop.platform.settings import read_settings
from tests.support import notes
from tests.support.databases import Databases
from tests.support.living import Living, living, plant
from tests.support.memory_log import MemoryLog
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("only_shipped_services")


NOWHERE = "postgresql://nowhere/log"


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may take longer to answer a look than an operator should wait."""
    monkeypatch.setattr(asking, "WITHIN", 20.0)


@asynccontextmanager
async def flow_of(urls: Databases, **apis: str) -> AsyncIterator[FlowReader]:
    services = {name: {"database_url": urls[name]} for name in discovery.names()}
    settings = read_settings(discovery.sections(), event_log_url=urls.log, **services)
    reader = FlowReader(discovery.load_all(), settings, apis)
    try:
        yield reader
    finally:
        await reader.close()


def of(flow: Flow, name: str) -> ServiceFlow:
    return next(each for each in flow.services if each.name == name)


def customers(flow: Flow) -> ConsumerFlow:
    return next(each for each in of(flow, "orders").consumers if each.topic == "users")


async def one_user(system: Living) -> None:
    await system.create(1)
    await system.settled()


async def test_what_no_worker_relays_waits_in_the_outbox(databases: Databases) -> None:
    async with living(databases) as system, flow_of(databases) as reader:
        await system.create(3)
        outbox = of(await reader.look(), "users").outbox
        assert outbox is not None
        assert (outbox.published, outbox.relayed, outbox.waiting) == (3, 0, 3)
        assert outbox.state == "stuck"
        assert "no worker feeds the log" in outbox.says
        assert outbox.publish_rate is None
        await system.create(4)
        outbox = of(await reader.look(), "users").outbox
        assert outbox is not None
        assert outbox.publish_rate is not None
        assert outbox.publish_rate > 0


def test_a_relay_without_a_leader_is_stuck_at_once_or_after_a_worker_could_have_taken_over() -> (
    None
):
    """As seen by two consoles: one that has seen a leader, and one that has not."""
    [service] = [each for each in discovery.load_all() if each.name == "users"]
    led = InDatabase(published=3, relayed=3, oldest_seconds=0.0, relay_leads=True)
    without = replace(led, relay_leads=False)

    def states(*looks: tuple[float, InDatabase]) -> list[str]:
        settings = read_settings(discovery.sections(), event_log_url=NOWHERE)
        reader = FlowReader([], settings)
        return [reader._outbox(service, found, now).state for now, found in looks]

    assert states((10.0, without)) == ["stuck"]
    waits = module._NO_LEADER_FOR
    before, after = 11.0 + waits - 0.1, 11.0 + waits
    assert states((10.0, led), (11.0, without), (before, without), (after, without)) == [
        "well", "well", "well", "stuck"
    ]  # fmt: skip
    # One that took over in time begins the count anew.
    assert states((10.0, led), (11.0, without), (before, led), (after, without)) == ["well"] * 4
    assert waits > 1, "a new worker takes over within a second"


class _Counted(MemoryLog):
    asked = 0

    async def identity(self, topic: str) -> TopicIdentity:
        self.asked += 1
        return await super().identity(topic)


async def test_the_identity_of_a_topic_is_asked_again_when_it_may_be_another() -> None:
    log = _Counted()
    topic = Topic(log, notes.TOPIC)
    for _ in range(3):
        log.put(0, None)
        assert (await topic.ask()).ends == {0: len(log.partitions[0])}
    assert log.asked == 1
    log.partitions[0].pop()
    await topic.ask()
    assert log.asked == 2, "it has become shorter"
    log.away = True
    with pytest.raises(LogUnavailable):
        await topic.ask()
    log.away = False
    await topic.ask()
    assert log.asked == 3, "it was away"


async def test_all_is_well_when_everything_is_applied(databases: Databases) -> None:
    async with living(databases) as system, flow_of(databases) as reader, system.moving():
        await one_user(system)
        flow = await reader.look()
        assert flow.troubles == ()
        assert flow.state == "well"
        found = customers(flow)
        assert (found.applied, found.behind, found.behind_seconds) == (1, 0, 0.0)
        log = of(flow, "users").log
        assert log is not None
        assert (log.records, log.partitions) == (1, 1)


async def test_a_consumer_that_does_not_move_is_stuck(
    databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STUCK_AFTER", 0.1)
    async with living(databases) as system, flow_of(databases) as reader:
        with_relays = [f"{name} relay" for name in discovery.names()]
        async with system.moving(*with_relays):
            await system.create(5)
            await eventually(lambda: waits(reader, 5))
            found = await eventually(lambda: stuck(reader))
    assert found is not None
    assert found.behind_seconds is not None
    assert "it does not move" in found.says
    assert [(lag.next_offset, lag.end, lag.behind) for lag in found.partitions] == [(0, 5, 5)]


async def waits(reader: FlowReader, count: int) -> bool:
    return customers(await reader.look()).behind == count


async def stuck(reader: FlowReader) -> ConsumerFlow | None:
    found = customers(await reader.look())
    return found if found.state == "stuck" else None


async def test_a_parked_key_is_trouble_that_names_the_command(databases: Databases) -> None:
    async with living(databases) as system, flow_of(databases) as reader, system.moving():
        await one_user(system)
        plant(
            databases.orders,
            'INSERT INTO parked (consumer, topic, partition, "offset", position, key, headers, holds_key, cause, error)'
            " SELECT 'orders', 'users', 0, n, n, '7', '{}', true, 'X', 'x' FROM generate_series(100, 102) AS n",
        )
        flow = await reader.look()
        assert (customers(flow).parked_keys, customers(flow).parked) == (1, 3)
        [trouble] = flow.troubles
        assert trouble.where == "orders consumer of users"
        assert "shop parked list orders" in trouble.says


async def test_a_database_that_is_away_is_said_and_the_others_are_read(
    databases: Databases,
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        away = f"postgresql://postgres@127.0.0.1:{closed.getsockname()[1]}/orders"
        async with living(databases) as system, system.moving():
            await one_user(system)
            async with flow_of(databases.but(orders=away)) as reader:
                flow = await reader.look()
    assert of(flow, "orders").database == "away"
    assert of(flow, "users").database == "well"
    [trouble] = flow.troubles
    assert (trouble.where, trouble.state) == ("orders database", "away")
    assert "refused" in trouble.says


async def test_a_log_that_is_away_is_said_once(databases: Databases) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        away = f"postgresql://postgres@127.0.0.1:{closed.getsockname()[1]}/log"
        async with living(databases) as system, system.moving():
            await one_user(system)
            async with flow_of(databases.but(log=away)) as reader:
                flow = await reader.look()
    [trouble] = flow.troubles
    assert (trouble.where, trouble.state) == ("log", "away")


async def test_a_silent_api_is_away_after_a_moment(
    databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "WITHIN", 2.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        async with living(databases) as system, system.moving():
            await one_user(system)
            async with flow_of(databases, users=url) as reader:
                async with asyncio.timeout(60):
                    flow = await reader.look()
    [trouble] = flow.troubles
    assert (trouble.where, trouble.state) == ("users API", "away")
    assert "no answer within" in trouble.says


async def test_troubles_are_the_worst_first(databases: Databases) -> None:
    async with flow_of(databases) as reader:
        flow = await reader.look()
    first, second = flow.services
    assert first.outbox is not None
    behind = replace(first, outbox=replace(first.outbox, state="behind"))
    worse = replace(flow, services=(behind, replace(second, database="away")))
    assert next(trouble.state for trouble in worse.troubles) == "away"
    assert worse.as_dict()["state"] == "away"


def test_a_rate_is_measured_over_some_seconds_and_begins_anew_after_a_fall() -> None:
    pace = Pace()
    pace.saw(0.0, 100)
    assert pace.rate is None
    for second in range(1, 20):
        pace.saw(float(second), 100 + 10 * second)
    assert pace.rate == pytest.approx(10)
    pace.saw(20.0, 5)
    assert pace.rate is None


def test_a_standstill_ends_with_a_movement_or_when_nothing_waits() -> None:
    still = Standstill()
    assert still.seconds(1.0, 7, waits=True) == 0
    assert still.seconds(3.0, 7, waits=True) == 2
    assert still.seconds(4.0, 8, waits=True) == 0
    assert still.seconds(6.0, 8, waits=False) == 0
    assert still.seconds(9.0, 8, waits=True) == 0


async def test_a_database_that_is_not_migrated_is_said_with_the_command(
    databases: Databases, postgres_log_url: str
) -> None:
    async with flow_of(databases.but(orders=postgres_log_url, log=postgres_log_url)) as reader:
        flow = await reader.look()
    assert of(flow, "orders").database == "away"
    assert [each.where for each in flow.troubles if "run `shop migrate`" in each.says] == [
        "orders database",
        "log",
    ]
