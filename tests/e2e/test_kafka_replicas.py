"""Three brokers, each event on all of them: one dies, and events go on flowing.

Three JVMs on one machine are slow, so this runs only where `EVENTSHOP_REPLICAS` is set.
"""

import asyncio
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress

import pytest
from confluent_kafka.admin import (
    AdminClient,
    ConfigResource,
    ResourceType,
)

from devstack.kafka import QUICK_START, LocalKafka
from eventspine.kafka_log import KafkaLog
from eventspine.log import LogUnavailable, Record
from tests.support.databases import Databases
from tests.support.records import from_offsets, numbered, numbers
from tests.support.shop import run_shop

pytestmark = [
    pytest.mark.kafka,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        not os.environ.get("EVENTSHOP_REPLICAS"),
        reason="left out, since three brokers are slow: set EVENTSHOP_REPLICAS to run it",
    ),
]

Brokers = Mapping[str, LocalKafka]
"""By node id."""


@pytest.fixture(scope="module")
def brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Brokers]:
    directory = tmp_path_factory.mktemp("brokers")
    alone = {id_: LocalKafka(directory / id_).settings for id_ in ("1", "2", "3")}
    voters = [
        f"{id_}@{one['controller.quorum.voters'].partition('@')[2]}" for id_, one in alone.items()
    ]
    three = {
        f"{what}.replication.factor": "3"
        for what in ("offsets.topic", "transaction.state.log", "share.coordinator.state.topic")
    }
    with ExitStack() as stops:
        brokers = {}
        for id_ in alone:
            (directory / id_ / "cluster.id").write_text("ThreeBrokersOfOneTest0")
            brokers[id_] = LocalKafka(
                directory / id_,
                settings={**three, "node.id": id_, "controller.quorum.voters": ",".join(voters)},
                java_options=(*QUICK_START, "-Xms64m", "-Xmx256m"),
            )
            brokers[id_].start()
            stops.callback(brokers[id_].stop)
        for broker in brokers.values():
            broker.wait_ready(120)
        yield brokers


async def test_a_broker_of_three_dies_and_events_go_on_flowing(
    brokers: Brokers, databases: Databases
) -> None:
    servers = ",".join(broker.bootstrap_servers for broker in brokers.values())
    migrated = run_shop(
        "migrate",
        timeout=120,
        SHOP_EVENT_LOG="kafka",
        SHOP_KAFKA__BOOTSTRAP_SERVERS=servers,
        SHOP_KAFKA_REPLICATION_FACTOR=3,
        SHOP_USERS__DATABASE_URL=databases.users,
        SHOP_ORDERS__DATABASE_URL=databases.orders,
    )
    assert migrated.returncode == 0, migrated.stderr

    admin = AdminClient({"bootstrap.servers": servers})
    for topic in ("users", "orders"):
        resource = ConfigResource(ResourceType.TOPIC, topic)
        settings = admin.describe_configs([resource])[resource].result()
        assert settings["min.insync.replicas"].value == "2"
        partitions = admin.list_topics(topic, timeout=10).topics[topic].partitions
        assert {len(each.replicas) for each in partitions.values()} == {3}
    leaders = [each.leader for each in partitions.values()]
    # The one that leads most: what it leads has to move.
    dies = brokers[str(max(leaders, key=leaders.count))]
    log = KafkaLog({"bootstrap.servers": servers}, replication_factor=3)
    member = log.subscribe("replicas", ["orders"], from_offsets())
    records: list[Record] = []
    appended = 0

    async def append_more() -> None:
        nonlocal appended
        await log.append("orders", numbered(200, first=appended))
        appended += 200

    async def read_all() -> None:
        async with asyncio.timeout(90):
            while len(records) < appended:
                with suppress(LogUnavailable):
                    records.extend(await member.poll(1000, 0.5))

    await append_more()
    await read_all()
    assert dies.process
    dies.process.kill()
    dies.process.wait()
    # Nothing is raised to whoever appends: the client finds the new leaders by itself.
    for _ in range(5):
        await append_more()
    await read_all()
    assert sorted(numbers(records)) == list(range(appended))
    dies.start()
    await append_more()
    await read_all()
    assert sorted(numbers(records)) == list(range(appended))
    await log.close()
