"""A role for each process: each can do its work, and nothing else."""

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing

import httpx
import psycopg
import pytest
from psycopg.rows import TupleRow

from shop.platform.flow.outbox import outbox_now
from tests.support.secured import SERVICES, Secured
from tests.support.shop import Running, answers, free_ports, shop_command
from tests.support.tls_postgres import ADMINISTRATOR
from tests.support.waiting import until

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(300)]

DENIED = psycopg.errors.InsufficientPrivilege


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    with ExitStack() as stops:
        yield Secured(tmp_path_factory.mktemp("secured"), stops)


def test_the_six_steps_work_with_a_role_for_each_process(secured: Secured) -> None:
    ports = dict(zip(SERVICES, free_ports(2), strict=True))
    with ExitStack() as stops:
        clients: dict[str, httpx.Client] = {}
        running: list[Running] = []
        for name in SERVICES:
            for part in ("api", "worker"):
                settings = secured.environment(part, name)
                settings[f"SHOP_{name.upper()}__PORT"] = str(ports[name])
                running.append(Running(part, name, by=shop_command, **settings))
                stops.callback(running[-1].stop)
            clients[name] = stops.enter_context(
                closing(httpx.Client(base_url=f"http://127.0.0.1:{ports[name]}", timeout=30))
            )
        users, orders = clients["users"], clients["orders"]
        for client in clients.values():
            until(lambda client=client: answers(client), "an API answers", 60)
            until(lambda client=client: _flows(client), "its events reach the log")
        person = {"email": "setiadi@example.com", "name": "Setiadi"}
        created = users.post("/users", json=person, headers={"Idempotency-Key": "one"})
        assert created.status_code == 201, "\n".join(running[0].output.lines)
        same = users.post("/users", json=person, headers={"Idempotency-Key": "one"})
        assert same.text == created.text
        assert users.get("/users/1").json() == created.json()
        coffee = {"product": "coffee", "quantity": 100, "total_price": 50, "user_id": 1}
        until(lambda: orders.post("/orders", json=coffee).status_code == 201, "the user is known")
        assert orders.get("/orders/1").json()["customer"]["name"] == "Setiadi"
        assert users.post("/users", json=person).status_code == 409
        found = until(
            lambda: (many := users.get("/users/1/orders").json())["count"] and many,
            "the order is known",
        )
        assert found["count"] == 1
        assert users.delete("/users/1").is_success
        cancelled = orders.post("/orders/1/cancel")
        assert cancelled.status_code < 500, cancelled.text


# What each may not do. Each is tried in the service's own database.
def _flows(client: httpx.Client) -> bool:
    """Whether its readiness check may read what it needs, and says so."""
    return bool(client.get("/health/ready").json().get("events") == "flowing")


NEVER = [
    "CREATE TABLE mine (id int)",
    "CREATE TEMPORARY TABLE mine (id int)",
    "CREATE SCHEMA mine",
    "CREATE ROLE mine",
    "CREATE DATABASE mine",
    "CREATE FUNCTION mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "DROP TABLE {table}",
    "ALTER TABLE {table} ADD COLUMN more int",
    "TRUNCATE {table}",
    "CREATE INDEX ON {table} (id)",
    "ALTER TABLE {table} OWNER TO {role}",
    "SET ROLE {owner}",
    "SELECT rolpassword FROM pg_authid",
    "SELECT pg_read_file('/etc/passwd')",
    "COPY {table} TO PROGRAM 'cat'",
    "UPDATE alembic_version SET version_num = ''",
    "ALTER SYSTEM SET ssl = off",
]


@pytest.mark.parametrize("part", ["api", "worker", "front"])
@pytest.mark.parametrize("owner", SERVICES)
def test_no_process_creates_drops_or_takes_more(secured: Secured, owner: str, part: str) -> None:
    role = f"{owner}_{part}"
    with closing(secured.connect(owner, role)) as connection:
        for statement in NEVER:
            with pytest.raises(DENIED):
                connection.execute(statement.format(table=owner, role=role, owner=owner).encode())


def test_an_api_does_not_read_what_is_not_its_own(secured: Secured) -> None:
    with closing(secured.connect("users", "users_api")) as connection:
        for table in ("cursors", "parked", "spine_version", "alembic_version"):
            with pytest.raises(DENIED):
                connection.execute(f"SELECT * FROM {table}".encode())


@pytest.mark.parametrize("owner", SERVICES)
def test_pages_move_no_relay_and_no_checkpoint_and_keep_the_history(
    secured: Secured, owner: str
) -> None:
    with closing(secured.connect(owner, f"{owner}_front")) as connection:
        for statement in (
            "UPDATE relay SET position = 0",
            "DELETE FROM cursors",
            "INSERT INTO idempotency_keys DEFAULT VALUES",
            "UPDATE outbox SET data = '{}'",
            "DELETE FROM outbox",
            "SELECT * FROM alembic_version",
        ):
            with pytest.raises(DENIED):
                connection.execute(statement.encode())
    with closing(secured.connect("log", "log_front")) as connection:
        connection.execute("SELECT FROM log_records")
        for statement in (
            "INSERT INTO log_heads DEFAULT VALUES",
            "UPDATE log_heads SET next_offset = 0",
        ):
            with pytest.raises(DENIED):
                connection.execute(statement.encode())


@pytest.mark.parametrize("owner", SERVICES)
async def test_an_api_may_ask_what_its_health_tells(secured: Secured, owner: str) -> None:
    with closing(secured.connect(owner, f"{owner}_api")) as connection:

        async def fetch(sql: str, params: Mapping[str, str]) -> list[TupleRow]:
            return connection.execute(sql.encode(), params).fetchall()

        now = await outbox_now(fetch, f"/{owner}")
        assert now.waiting == now.published - now.relayed
        with pytest.raises(DENIED):
            connection.execute("UPDATE relay SET position = 0")


@pytest.mark.parametrize("role", ["users", "users_api", "users_worker"])
@pytest.mark.parametrize("database", ["orders", "log"])
def test_nobody_enters_another_database(secured: Secured, role: str, database: str) -> None:
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        secured.connect(database, role)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM log_records",
        "UPDATE log_records SET value = ''",
        "DELETE FROM log_heads",
        "DROP TABLE log_records",
        "CREATE TABLE mine (id int)",
    ],
)
def test_a_worker_only_appends_to_the_log(secured: Secured, statement: str) -> None:
    with closing(secured.connect("log", "log_worker")) as connection, pytest.raises(DENIED):
        connection.execute(statement.encode())


def test_passwords_are_kept_as_scram(secured: Secured) -> None:
    with closing(secured.as_superuser()) as admin:
        kept = admin.execute(
            "SELECT rolname, rolpassword FROM pg_authid WHERE rolcanlogin"
        ).fetchall()
    assert {"users", "users_api", "users_worker"} <= {name for name, _ in kept}
    assert all(password.startswith("SCRAM-SHA-256$4096:") for _, password in kept)


@pytest.mark.parametrize(
    ("role", "said"), [(ADMINISTRATOR, "is a superuser"), ("users", "may create, alter and drop")]
)
@pytest.mark.parametrize("part", ["api", "worker"])
def test_production_refuses_a_role_that_may_do_too_much(
    secured: Secured, part: str, role: str, said: str
) -> None:
    done = secured.tried(
        part,
        "users",
        SHOP_ENV="production",
        SHOP_SERVICES="shop.services",
        SHOP_AUTH__REQUIRED="true",
        SHOP_AUTH__ISSUER="https://shop.example",
        SHOP_AUTH__KEY_ENCRYPTION_KEY_FILE=str(secured.key_encryption_key),
        SHOP_USERS__DATABASE_URL=secured.url("users", role),
        SHOP_USERS__DATABASE_PASSWORD_FILE=str(secured.file(role)),
        SHOP_EVENT_LOG_URL=secured.url("log", "log_worker"),
        SHOP_EVENT_LOG_PASSWORD_FILE=str(secured.file("log_worker")),
    )
    assert done.returncode == 2, done.stdout + done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("shop: the database users: its role") and said in line, line


def test_the_sql_can_be_run_by_an_administrator_and_has_no_password(secured: Secured) -> None:
    printed = secured.shop("roles", "users", "--passwords", secured.secrets).stdout
    for role in ("users", "users_api", "users_worker", "users_front"):
        assert f'ALTER ROLE "{role}" LOGIN NOSUPERUSER' in printed
        assert secured.passwords(role)[0] not in printed
    assert len(re.findall(r"SCRAM-SHA-256\$4096:", printed)) == 4
