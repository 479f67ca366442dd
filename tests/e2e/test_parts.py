"""The parts one by one, against databases that settings name, as production runs them."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from devstack.postgres import LocalPostgres
from shop.platform.log_files import LIMIT
from tests.support.databases import NewDatabase
from tests.support.engines import Engine
from tests.support.parts import Parts
from tests.support.shop import (
    PARTS,
    TRACEBACK,
    free_ports,
    json_lines,
    new_order,
    new_user,
    run_shop,
)
from tests.support.waiting import SLOWER, until

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def parts(
    engine: Engine, new_database: NewDatabase, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Parts]:
    """With empty databases, and nothing running."""
    engine.forget()
    directory = tmp_path_factory.mktemp("parts")
    users_port, orders_port = free_ports(2)
    databases = {name: new_database(None) for name in ("users", "orders", "log")}
    secret = directory / "orders-url"
    secret.write_text(databases["orders"] + "\n")
    settings = {
        **engine.settings,
        "SHOP_USERS__DATABASE_URL": databases["users"],
        "SHOP_ORDERS__DATABASE_URL_FILE": secret,
        "SHOP_USERS__PORT": users_port,
        "SHOP_ORDERS__PORT": orders_port,
        "SHOP_LOG_DIR": directory / "logs",
    }
    if engine.name == "postgres":
        settings["SHOP_EVENT_LOG_URL"] = databases["log"]
    parts = Parts(settings, databases)
    try:
        yield parts
    finally:
        parts.close()


def test_migrate_does_one_service_or_all_and_may_be_run_again(parts: Parts) -> None:
    def tables(database: str) -> set[str]:
        with psycopg.connect(parts.databases[database]) as connection:
            return {name for (name,) in connection.execute("SELECT tablename FROM pg_tables")}

    only_users = {**parts.settings}
    del only_users["SHOP_ORDERS__DATABASE_URL_FILE"]
    assert run_shop("migrate", "users", **only_users).returncode == 0
    assert "users" in tables("users")
    assert "customers" not in tables("orders")
    done = run_shop("migrate", **parts.settings)
    assert (done.returncode, done.stderr) == (0, "")
    assert {"orders", "customers", "outbox", "cursors"} <= tables("orders")


def test_migrate_refuses_a_topic_with_another_number_of_partitions(
    parts: Parts, engine: Engine
) -> None:
    if engine.name != "kafka":
        pytest.skip("a setting of Kafka's topics")
    done = run_shop("migrate", "users", **parts.settings, SHOP_KAFKA_PARTITIONS=7)
    assert done.returncode == 2
    assert done.stderr == (
        "shop: topic users could lose or reorder events: it has 12 partitions, not 7\n"
    )


def test_each_part_does_its_own_and_nothing_else(parts: Parts) -> None:
    parts.start("users-api", "orders-api")
    user = parts.users.post("/users", json=new_user()).raise_for_status().json()
    order = new_order(user["id"])
    assert parts.orders.post("/orders", json=order).status_code == 404
    parts.start("orders-worker")
    # The event is in the user service's outbox still.
    assert parts.orders.post("/orders", json=order).status_code == 404
    parts.start("users-worker")
    until(lambda: parts.orders.post("/orders", json=order).status_code == 201, "the event arrives")
    until(
        lambda: parts.users.get(f"/users/{user['id']}/orders").json()["count"] == 1,
        "the order's event arrives",
    )


def test_the_order_service_answers_while_everything_else_is_down(
    parts: Parts, postgres: LocalPostgres
) -> None:
    parts.start(*(name for name in PARTS if name not in parts.running))
    wanted = new_user()
    user = parts.users.post("/users", json=wanted).json()
    first = parts.orders.post("/orders", json=new_order(user["id"])).raise_for_status().json()

    parts.stop("users-api", "users-worker", "orders-worker", number=signal.SIGKILL)
    database = parts.databases["users"].partition("?")[0].rpartition("/")[2]
    with psycopg.connect(postgres.dsn("postgres"), autocommit=True) as admin:
        admin.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS false".encode())
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [database]
        )
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(parts.databases["users"])

        placed = parts.orders.post("/orders", json=new_order(user["id"])).raise_for_status().json()
        assert placed["customer"] == {"name": wanted["name"], "email": wanted["email"]}
        assert parts.orders.get(f"/orders/{placed['id']}").json() == placed
        listed = parts.orders.get("/orders", params={"user_id": user["id"]}).json()["items"]
        assert listed == [placed, first]
        cancelled = parts.orders.post(f"/orders/{first['id']}/cancel").json()
        assert cancelled["status"] == "cancelled"

        admin.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS true".encode())
    parts.start("users-api", "users-worker", "orders-worker")

    def caught_up() -> bool:
        orders = parts.users.get(f"/users/{user['id']}/orders").json()["items"]
        return [order["status"] for order in orders] == ["placed", "cancelled"]

    until(caught_up, "the user service has heard of it all")


def test_a_log_file_that_has_grown_is_put_aside_each_kind_its_own(parts: Parts) -> None:
    parts.stop(*(name for name in ("users-worker",) if name in parts.running))
    logs = Path(parts.settings["SHOP_LOG_DIR"])
    logs.mkdir(exist_ok=True)
    (logs / "users-worker.log").write_text("x" * (LIMIT - 10) + "\n")
    parts.start("users-worker")
    full = logs / "users-worker.log.1"
    until(full.exists, "the full file is put aside")
    until(lambda: full.stat().st_size > LIMIT, "all of it")
    until(lambda: (logs / "users-worker.log").stat().st_size < LIMIT, "and begun anew")
    for line in json_lines((logs / "users-worker.log").read_text()):
        assert line["process"] == "users worker"
    assert not list(logs.glob("orders-*.log.1"))


def test_sigterm_ends_each_part_in_order(parts: Parts) -> None:
    parts.start(*(name for name in PARTS if name not in parts.running))
    said = [parts.running[name].output for name in PARTS]
    began = time.monotonic()
    assert parts.stop(*PARTS) == [0, 0, 0, 0]
    assert time.monotonic() - began < 5 + SLOWER
    for output in said:
        assert not TRACEBACK.search("\n".join(output.lines))
