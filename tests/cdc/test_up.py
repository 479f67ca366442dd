"""`shop up --cdc`: the whole shop on one machine with Debezium, and back."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from devstack.connect import FOLDER, read_properties
from tests.support.capture import need_debezium
from tests.support.kafka import need_kafka
from tests.support.shop import Shop, new_order, new_user
from tests.support.waiting import until

SLOTS = "SELECT slot_name FROM pg_replication_slots WHERE active ORDER BY slot_name"


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    need_kafka()
    need_debezium()
    shop = Shop(tmp_path / "data", ["--kafka", "local", "--cdc"])
    try:
        yield shop
    finally:
        shop.close()


def buy(shop: Shop) -> None:
    user = shop.users.post("/users", json=new_user()).json()
    until(
        lambda: shop.orders.post("/orders", json=new_order(user["id"])).status_code == 201,
        "the order service knows the user",
    )


def all_is_relayed(shop: Shop) -> bool:
    behind = "SELECT FROM outbox_head AS head, relay WHERE relay.position < head.position"
    return not any(shop.rows(service, behind) for service in shop.services)


@pytest.mark.kafka
@pytest.mark.heavy
@pytest.mark.timeout(400)
def test_debezium_feeds_kafka_and_without_the_option_the_workers_do_again(shop: Shop) -> None:
    shop.start(within=150)
    wanted = [("orders_outbox",), ("users_outbox",)]
    until(lambda: shop.rows("postgres", SLOTS) == wanted, "Debezium reads both slots", 60)
    buy(shop)
    until(lambda: all_is_relayed(shop), "all is relayed")
    status = shop.run("cdc", "status")
    assert status.returncode == 0, status.stdout
    assert shop.up.stop() == 0

    shop._options = ["--kafka", "local"]
    shop.start(within=150)
    assert shop.rows("postgres", "SELECT * FROM pg_replication_slots") == []
    buy(shop)
    until(lambda: all_is_relayed(shop), "all is relayed")
    audit = shop.run("audit")
    assert audit.returncode == 0, audit.stdout
    assert shop.up.stop() == 0


def test_both_kinds_of_connect_send_in_the_same_way() -> None:
    distributed = read_properties(FOLDER / "distributed.properties")
    here = ("offset.storage.file.filename",)
    for name, value in read_properties(FOLDER / "standalone.properties").items():
        assert name in here or distributed[name] == value, name
