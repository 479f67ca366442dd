"""From the table to Kafka and back, by the command that people start the shop with."""

from collections.abc import Sequence

import httpx
import pytest

from devstack.kafka import LocalKafka
from tests.support.folders import short_directory
from tests.support.shop import Shop, new_order, new_user
from tests.support.topics import forget_topics
from tests.support.waiting import until

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.kafka,
    pytest.mark.timeout(500),
]  # it starts the shop four times

ANOTHER = "the log has changed for orders and users: the new log is fed from the outbox"


def buy(shop: Shop, count: int) -> None:
    """So many users, and an order of each."""
    for _ in range(count):
        user = _made(shop.users.post("/users", json=new_user()))
        _made(shop.orders.post("/orders", json=new_order(user["id"])))


def _made(answer: httpx.Response) -> dict[str, int]:
    assert answer.status_code == 201, answer.text
    found: dict[str, int] = answer.json()
    return found


def holds(shop: Shop) -> bool:
    return shop.run("audit", timeout=60).returncode == 0


def prune(shop: Shop) -> None:
    """As if the retention were over for all that has been relayed."""
    for database in ("users", "orders"):
        shop.rows(
            database,
            "DELETE FROM outbox WHERE position <= (SELECT min(position) FROM relay) RETURNING position",
        )


def test_the_log_can_be_changed_and_nothing_is_lost(kafka: LocalKafka) -> None:
    servers = kafka.bootstrap_servers
    forget_topics(servers)
    with short_directory() as directory:

        def ran(options: Sequence[str], *, pruned_after: bool = False) -> list[str]:
            """What it said until it was ready; people buy, and all of it holds."""
            shop = Shop(directory / "data", options)
            try:
                shop.start()
                said = list(shop.up.output.lines)
                buy(shop, 5)
                until(lambda: holds(shop), "all holds", timeout=60)
                if pruned_after:
                    prune(shop)
                assert shop.up.stop() == 0
            finally:
                shop.close()
            return said

        on_kafka = ["--kafka", servers]
        assert ran([])[-1].startswith("eventshop is ready")
        assert [line for line in ran(on_kafka) if "log" in line and ANOTHER in line]
        assert [line for line in ran([], pruned_after=True) if ANOTHER in line]

        copied = ran([*on_kafka, "--copy-log-from", "postgres"])
        # Kafka had all but what the third run published.
        assert any(
            "users: topic users up to position 15: 5 events copied, 10 were there" in line
            for line in copied
        )
