"""What a database of one's own must be, and what `shop migrate` says of one that is not."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from devstack.postgres import LocalPostgres
from eventspine.migrations import SPINE
from eventspine.server import check
from shop.cli.main import main
from shop.platform import discovery
from shop.platform.migrations import migrate
from tests.support.databases import LOG_MIGRATIONS, NewDatabase
from tests.support.serving import problem, serving
from tests.support.shop import free_ports, run_shop
from tests.support.waiting import until

REFUSED = "shop: cannot migrate the database users: "
QUICK = {"fsync": "off", "shared_buffers": "16MB"}
PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
OPERATIONS = Path(__file__).parents[2] / "docs/operations.md"


pytestmark = pytest.mark.usefixtures("logging_as_it_was")

Migrating = Callable[..., str]


@pytest.fixture
def migrating(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Migrating:
    """What `shop migrate users` says as it refuses; it changes nothing then."""

    def migrating(url: str, **settings: str) -> str:
        before = tables(url)
        monkeypatch.setattr(sys, "argv", ["shop", "migrate", "users"])
        for name, value in {
            "SHOP_USERS__DATABASE_URL": url,
            "SHOP_EVENT_LOG": "kafka",
            "SHOP_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1",
            "SHOP_ACCEPT_DATA_LOSS": "true",
            **settings,
        }.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        [line] = capsys.readouterr().err.splitlines()
        assert tables(url) == before
        return line

    return migrating


def tables(url: str) -> set[object]:
    try:
        with psycopg.connect(url, client_encoding="UTF8") as connection:
            found = connection.execute("SELECT oid FROM pg_class WHERE relkind = 'r'").fetchall()
    except psycopg.OperationalError:  # a pooler's own refusal
        return set()
    return {oid for (oid,) in found}


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII", "EUC_JP"])
def test_an_encoding_that_can_not_hold_every_name_is_refused(
    postgres: LocalPostgres, encoding: str, migrating: Migrating
) -> None:
    name = f"encoded_{encoding.lower()}"
    with psycopg.connect(postgres.dsn("postgres"), autocommit=True) as admin:
        admin.execute(
            f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}'"
            " LOCALE_PROVIDER libc LOCALE 'C'"
        )
    said = migrating(postgres.dsn(name, "postgres"))
    assert said == (
        f"{REFUSED}its encoding is {encoding}, which can't store every name: it must be UTF8 (CREATE"
        " DATABASE … TEMPLATE template0 ENCODING 'UTF8')"
    )


def test_a_database_without_a_place_for_the_tables_is_refused(
    new_database: NewDatabase, migrating: Migrating
) -> None:
    url = new_database(None)
    execute(url, "DROP SCHEMA public")
    assert migrating(url) == (
        f"{REFUSED}it has no schema public for the tables: CREATE SCHEMA public"
    )


def execute(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


@pytest.mark.heavy
def test_a_server_that_may_lose_what_it_confirmed_is_refused(
    new_database: NewDatabase, migrating: Migrating
) -> None:
    url = new_database(None)
    # The tests' own server.
    said = migrating(url, SHOP_ACCEPT_DATA_LOSS="false")
    assert said.startswith(f"{REFUSED}fsync is off, so a crash may lose confirmed data")
    done = run_shop(
        "migrate", "users", SHOP_USERS__DATABASE_URL=url, SHOP_EVENT_LOG_URL=new_database(None),
        SHOP_ACCEPT_DATA_LOSS="true",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("right", "said"),
    [
        ("", "its role may not create temporary tables"),
        ("GRANT TEMPORARY ON DATABASE {} TO weak", "permission denied for schema public"),
    ],
)
def test_a_role_without_the_rights_it_needs_is_refused(
    new_database: NewDatabase, right: str, said: str, migrating: Migrating
) -> None:
    url = new_database(None)
    name = url.partition("@/")[2].partition("?")[0]
    with psycopg.connect(url, autocommit=True) as admin:
        if not admin.execute("SELECT 1 FROM pg_roles WHERE rolname = 'weak'").fetchone():
            admin.execute("CREATE ROLE weak LOGIN")
        admin.execute(f"REVOKE ALL ON DATABASE {name} FROM PUBLIC")
        admin.execute(f"GRANT CONNECT ON DATABASE {name} TO weak")
        if right:
            admin.execute(right.format(name))
        else:
            admin.execute("GRANT ALL ON SCHEMA public TO weak")
    assert migrating(url.replace("//postgres@", "//weak@")).startswith(REFUSED + said)


def test_a_database_that_is_anothers_already_is_refused(
    new_database: NewDatabase, templates: dict[str, str], migrating: Migrating
) -> None:
    url = new_database(templates["orders"])
    newest = list_of_revisions("orders")[-1]
    assert migrating(url) == (
        f"{REFUSED}it is the database of orders (it is at {newest}): each service, and the log, needs a"
        " database of its own"
    )


def list_of_revisions(name: str) -> list[str]:
    return sorted(
        f"{name}_{path.name[:4]}" for path in discovery.load(name).migrations.glob("0*.py")
    )


# Going back a release


def test_a_release_that_comes_after_a_newer_one_says_so_and_changes_nothing(
    new_database: NewDatabase, templates: dict[str, str], tmp_path: Path, migrating: Migrating
) -> None:
    """The newer one is this one and a migration more."""
    url = new_database(templates["users"])
    users = discovery.load("users")
    newest = list_of_revisions("users")[-1]
    newer = f"users_{int(newest[-4:]) + 1:04}"
    shutil.copytree(users.migrations, tmp_path, dirs_exist_ok=True)
    (tmp_path / f"{newer[-4:]}_newer.py").write_text(
        f'from alembic import op\n\nrevision = "{newer}"\ndown_revision = "{newest}"\n\n\n'
        'def upgrade() -> None:\n    op.execute("ALTER TABLE users ADD COLUMN phone TEXT")\n'
    )
    migrate(url, users.tables(), tmp_path)
    assert migrating(url) == (
        f"{REFUSED}a newer release has been here: the database is at {newer}, and this release knows"
        f" {newest} at most; nothing was changed: run the newer release, or see docs/operations.md,"
        " 'Going back a release'"
    )
    # A column more is no hindrance to those who go on: a release runs beside the next one.
    with serving("users", url) as served:
        created = served.client.post("/users", json={"email": "a@example.com", "name": "A"})
        assert created.status_code == 201


def test_a_release_that_comes_after_a_newer_step_of_the_spine_says_so(
    new_database: NewDatabase,
    templates: dict[str, str],
    tmp_path: Path,
    migrating: Migrating,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = new_database(templates["users"])
    users = discovery.load("users")
    newest = f"spine_{max(path.name[:4] for path in SPINE.glob('0*.py'))}"
    newer = f"spine_{int(newest[-4:]) + 1:04}"
    shutil.copytree(SPINE, tmp_path, dirs_exist_ok=True)
    (tmp_path / f"{newer[-4:]}_newer.py").write_text(
        f'revision = "{newer}"\ndown_revision = "{newest}"\n\n\ndef upgrade() -> None:\n    pass\n'
    )
    with monkeypatch.context() as patch:
        patch.setattr("shop.platform.migrations.SPINE", tmp_path)
        migrate(url, users.tables(), users.migrations)
    assert migrating(url) == (
        f"{REFUSED}a newer release has been here: the database is at {newer}, and this release knows"
        f" {newest} at most; nothing was changed: run the newer release, or see docs/operations.md,"
        " 'Going back a release'"
    )


@pytest.mark.usefixtures("only_shipped_services")
def test_the_documentation_says_which_releases_run_on_the_newest_schema() -> None:
    """Whoever adds a migration has to say there whether the release before can go on."""
    newest = [list_of_revisions(name)[-1] for name in discovery.names()]
    newest.append(f"spine_{max(path.name[:4] for path in SPINE.glob('0*.py'))}")
    newest.append(f"log_{max(path.name[:4] for path in LOG_MIGRATIONS.glob('0*.py'))}")
    rows = [line for line in OPERATIONS.read_text().splitlines() if line.startswith("| `users_0")]
    assert all(revision in rows[-1] for revision in newest), newest


# Poolers


@contextmanager
def pgbouncer(
    postgres: LocalPostgres, folder: Path, **settings: object
) -> Iterator[Callable[[str], str]]:
    """The real one; gives what turns a database's URL into one that goes through it."""
    if PGBOUNCER is None:
        pytest.skip("there is no pgbouncer: apt-get install pgbouncer")
    [port] = free_ports(1)
    settings = {
        "listen_addr": "127.0.0.1", "listen_port": port, "unix_socket_dir": "", "auth_type": "any",
        "pool_mode": "session", "ignore_startup_parameters": "extra_float_digits,options", **settings,
    }  # fmt: skip
    file = folder / "pgbouncer.ini"
    server = f"* = host={postgres.socket_dir} port=5432 user=postgres"
    lines = [f"{name} = {value}" for name, value in settings.items()]
    file.write_text("\n".join(["[databases]", server, "[pgbouncer]", *lines, ""]))
    file.chmod(0o644)
    for parent in (folder, *folder.parents):
        if parent.stat().st_uid == os.geteuid():
            parent.chmod(parent.stat().st_mode | 0o011)
    owner = ("-u", postgres._account.name) if postgres._account else ()
    process = subprocess.Popen([PGBOUNCER, "-q", *owner, file], stderr=subprocess.DEVNULL)
    try:

        def through(url: str) -> str:
            user, _, rest = url.partition("@/")
            return f"{user}@127.0.0.1:{port}/{rest.partition('?')[0]}"

        def listens() -> bool:
            assert process.poll() is None
            try:
                psycopg.connect(through(postgres.dsn("postgres"))).close()
            except psycopg.OperationalError as error:
                return "refused" not in str(error)
            return True

        until(listens, "PgBouncer listens")
        yield through
    finally:
        process.terminate()
        process.wait(60)


SHARED = "gives sessions to other clients between transactions"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"pool_mode": "transaction"}, SHARED),
        ({"pool_mode": "transaction", "default_pool_size": 1}, SHARED),
        ({"pool_mode": "transaction", "server_round_robin": 1}, SHARED),
        ({"pool_mode": "statement"}, "says: transaction blocks not allowed in statement pooling mode"),
    ],
)  # fmt: skip
def test_a_pooler_that_makes_sessions_something_else_is_refused(
    postgres: LocalPostgres,
    new_database: NewDatabase,
    tmp_path: Path,
    settings: dict[str, object],
    said: str,
    migrating: Migrating,
) -> None:
    with pgbouncer(postgres, tmp_path, **settings) as through:
        url = through(new_database(None))
        assert migrating(url).startswith(f"{REFUSED}there is a pooler in front of it that {said}")


async def test_a_pooler_in_session_mode_is_accepted(
    postgres: LocalPostgres, new_database: NewDatabase, tmp_path: Path
) -> None:
    with pgbouncer(postgres, tmp_path, pool_mode="session") as through:
        await check(through(new_database(None)), may_lose_data=True)


# Standbys


@pytest.fixture
def standby(tmp_path: Path) -> Iterator[LocalPostgres]:
    """A server that replays and takes no changes, until it is promoted."""
    server = LocalPostgres(tmp_path / "postgres", settings=QUICK)
    with server:
        server.ensure_databases(["users"])
        service = discovery.load("users")
        migrate(server.dsn("users"), service.tables(), service.migrations)
    (server.data_dir / "standby.signal").touch()
    server.start()
    try:
        until(lambda: answers(server), "the standby answers")
        yield server
    finally:
        server.stop()


def answers(server: LocalPostgres) -> bool:
    try:
        psycopg.connect(server.dsn("users")).close()
    except psycopg.OperationalError:
        return False
    return True


def test_a_standby_is_refused(standby: LocalPostgres, migrating: Migrating) -> None:
    assert migrating(standby.dsn("users")) == (
        f"{REFUSED}it is a standby, which accepts no changes: use the address of the primary"
    )


@pytest.mark.heavy
def test_a_standby_answers_no_request_until_it_is_the_primary(
    standby: LocalPostgres,
) -> None:
    """What it holds may be as old as its connection to the primary is dead."""
    with serving("users", standby.dsn("users")) as users:
        problem(users.client.get("/users/1"), 503, "temporarily-unavailable")
        with psycopg.connect(standby.dsn("postgres"), autocommit=True) as admin:
            admin.execute("SELECT pg_promote()")
        new = {"email": "a@example.com", "name": "A"}

        until(lambda: users.client.post("/users", json=new).is_success, "it answers")
        assert users.client.get("/users/1").json()["name"] == "A"


# A move to another server


def test_after_a_move_by_logical_replication_ids_go_on_after_the_last(
    postgres: LocalPostgres, new_database: NewDatabase, templates: dict[str, str]
) -> None:
    old, new = new_database(templates["orders"]), new_database(templates["orders"])
    name = old.partition("@/")[2].partition("?")[0]
    execute(
        old,
        "INSERT INTO customers VALUES (1, 'a@example.com', 'A', 1, false)",
        "INSERT INTO orders (user_id, product, quantity, total_price) SELECT 1, 'tea', 1, 1"
        " FROM generate_series(1, 5)",
        "CREATE PUBLICATION moving FOR TABLE orders, customers",
        "SELECT pg_create_logical_replication_slot('moving', 'pgoutput')",
    )
    execute(new, "TRUNCATE orders, customers")
    socket = f"host={postgres.socket_dir} port=5432 user=postgres dbname={name}"
    execute(
        new,
        f"CREATE SUBSCRIPTION moving CONNECTION '{socket}' PUBLICATION moving"
        " WITH (create_slot = false, slot_name = 'moving')",
    )
    try:
        arrived = "SELECT (SELECT count(*) FROM orders) + (SELECT count(*) FROM customers)"
        until(lambda: scalar(new, arrived) == 6, "the rows have come", 30)
    finally:
        execute(new, "DROP SUBSCRIPTION moving")
    assert scalar(new, "SELECT pg_sequence_last_value('orders_id_seq')") is None
    orders = discovery.load("orders")
    migrate(new, orders.tables(), orders.migrations)
    with serving("orders", new) as served:
        order = {"user_id": 1, "product": "tea", "quantity": 1, "total_price": 1}
        assert served.client.post("/orders", json=order).json()["id"] == 6
    # What is right already stays as it is.
    migrate(new, orders.tables(), orders.migrations)
    assert scalar(new, "SELECT last_value FROM orders_id_seq") == 6


def scalar(url: str, query: str) -> object:
    with psycopg.connect(url) as connection:
        row = connection.execute(query.encode()).fetchone()
    return row and row[0]
