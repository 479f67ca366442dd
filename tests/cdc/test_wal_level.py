"""A PostgreSQL that does not write what change data capture reads: one sentence says so."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from devstack.connect import Captured, Connect
from devstack.kafka import QUICK_START, LocalKafka
from devstack.postgres import LocalPostgres
from tests.support.capture import need_debezium
from tests.support.kafka import need_kafka
from tests.support.shop import run_shop
from tests.support.waiting import until


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalPostgres]:
    settings = {"wal_level": "replica", "fsync": "off", "shared_buffers": "16MB"}
    directory = tmp_path_factory.mktemp("replica")
    with LocalPostgres(directory / "postgres", settings=settings) as postgres:
        postgres.ensure_databases(["orders"])
        postgres.ensure_replicators(["orders"])
        yield postgres


@pytest.mark.slow
def test_begin_names_the_setting_and_what_to_do_and_makes_nothing(
    postgres: LocalPostgres, tmp_path: Path
) -> None:
    done = run_shop(
        *("cdc", "begin", "orders", "--data", str(tmp_path / "none")),
        SHOP_EVENT_LOG="kafka",
        # Nobody listens there: it is asked later.
        SHOP_KAFKA__BOOTSTRAP_SERVERS="127.0.0.1:1",
        SHOP_ORDERS__DATABASE_URL=postgres.dsn("orders"),
        SHOP_ORDERS__CDC_DATABASE_URL=postgres.dsn("orders", "orders_cdc"),
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        "shop: not done: PostgreSQL has wal_level = replica: set it to logical, restart PostgreSQL, and try again\n"
    )


@pytest.mark.kafka
@pytest.mark.heavy
@pytest.mark.timeout(180)
def test_the_connector_says_it_too(
    kafka: LocalKafka, postgres: LocalPostgres, tmp_path: Path
) -> None:
    need_kafka()
    need_debezium()
    captured = Captured("orders", str(postgres.socket_dir), postgres.port, "orders_cdc")
    connect = Connect(
        tmp_path / "connect", kafka.bootstrap_servers, [captured], java_options=QUICK_START
    )
    connect.start()
    try:
        said = "Postgres server wal_level property must be 'logical' but is: 'replica'"
        until(lambda: said in connect.log.path.read_text(errors="replace"), "Debezium says why", 90)
    finally:
        connect.stop(10)
