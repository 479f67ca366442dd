"""Migrations: from nothing, from what is there, again, and at once; to what the code declares."""

import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import (
    BigInteger,
    Column,
    Identity,
    Index,
    MetaData,
    Table,
    Text,
    create_engine,
    text,
)
from sqlalchemy.engine import make_url

from devstack.migration import NothingChanged, differences, write_migration
from devstack.postgres import _binaries
from eventspine.answers import Answer, Key
from eventspine.context import Request
from eventspine.database import Database
from eventspine.idempotency import once_in_transaction
from eventspine.log_tables import metadata as log_metadata
from eventspine.migrations import SPINE, steps
from eventspine.outbox import Transaction
from shop.platform import discovery
from shop.platform.migrations import migrate
from tests.support.databases import LOG_MIGRATIONS, NewDatabase


class Schema(NamedTuple):
    """Something that is migrated."""

    name: str
    metadata: MetaData
    migrations: Path

    def migrate(self, url: str, to: str = "head") -> None:
        migrate(url, self.metadata, self.migrations, to=to)

    def revisions(self) -> list[str]:
        """First to last."""
        config = Config()
        config.set_main_option("script_location", str(Path(migrate.__code__.co_filename).parent))
        config.set_main_option("version_locations", str(self.migrations))
        config.set_main_option("path_separator", "newline")
        walked = ScriptDirectory.from_config(config).walk_revisions()
        return [script.revision for script in walked][::-1]


SCHEMAS = [
    *(
        Schema(name, discovery.load(name).tables(), discovery.load(name).migrations)
        for name in discovery.names()
    ),
    Schema("log", log_metadata, LOG_MIGRATIONS),
]
each = pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: schema.name)

# Rows as they may stand in a database at the first revision.
DATA = {
    "users": """
        INSERT INTO users (email, name) VALUES ('a@example.com', 'A'), ('b@example.com', 'B');
        INSERT INTO users (version, erased_at) VALUES (2, now());
        INSERT INTO orders VALUES (1, 1, 'tea', 1, 1.50, 'placed', 1, now());
    """,
    "orders": """
        INSERT INTO customers VALUES (1, 'a@example.com', 'A', 1, false), (2, NULL, NULL, 2, true);
        INSERT INTO orders (user_id, product, quantity, total_price, status)
        SELECT 1, 'tea', n, n, CASE n % 3 WHEN 0 THEN 'cancelled' ELSE 'placed' END
        FROM generate_series(1, 1000) AS n;
    """,
    "greetings": """
        INSERT INTO people VALUES (1, 'A', 1, false), (2, NULL, 2, true);
        INSERT INTO greetings (user_id, text) VALUES (1, 'Hello');
    """,
    "log": """
        INSERT INTO log_heads VALUES ('users', 0, 1);
        INSERT INTO log_records VALUES ('users', 0, 0, '1', '{}', '{"ce_id": "1"}', now());
    """,
}
SPINE_DATA = """
    UPDATE outbox_head SET position = 1;
    INSERT INTO outbox VALUES (1, 'users', '1', 'user.created', 1, 1, now(), '{"id": 1}', NULL);
    INSERT INTO relay VALUES ('/users', 1, 3);
    INSERT INTO cursors VALUES ('orders', 'users', 0, 5, 5);
"""


NEWER = {
    *("idempotency_keys", "parked", "earlier_cursors", "earlier_relay"),
    *("outbox_marks", "running_time"),
    *("signing_keys", "access", "ended_sessions"),
    *("credentials", "devices", "sessions", "refresh_answers", "password_resets"),
    *("private_keys", "clients", "client_secrets"),
}
"""Tables that the first revisions do not have."""


def dumped(url: str) -> list[str]:
    """The schema as PostgreSQL's own tool writes it, statement by statement."""
    output = subprocess.run(
        [
            _binaries() / "pg_dump",
            "--schema-only",
            "--no-owner",
            "--exclude-table=alembic_version",
            "--exclude-table=spine_version",
            url,
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    # psql's own commands hold a random word.
    lines = [line for line in output.splitlines() if line and not re.match(r"--|\\|SET ", line)]
    return "\n".join(lines).split(";\n")


def rows(url: str, metadata: MetaData) -> dict[str, list[dict[str, Any]]]:
    """Of each table that is there, its rows by the names of their columns."""
    with psycopg.connect(url) as connection:
        there = connection.execute("SELECT relname FROM pg_class WHERE relkind = 'r'").fetchall()
        return {
            table: [
                row
                for (row,) in connection.execute(
                    f"SELECT to_jsonb(t) FROM {table} t ORDER BY t::text"
                ).fetchall()
            ]
            for table in metadata.tables
            if (table,) in there
        }


def execute(url: str, *statements: str) -> None:
    with psycopg.connect(url) as connection:
        for statement in statements:
            connection.execute(statement)


def fill(url: str, schema: Schema) -> None:
    execute(url, DATA.get(schema.name, ""), *([] if schema.name == "log" else [SPINE_DATA]))


def was_with_the_spine(schema: Schema) -> bool:
    """Services that were released when their migrations called the spine's steps."""
    return schema.name in {"users", "orders"}


def versions_of(url: str) -> dict[str, str]:
    with psycopg.connect(url) as connection:
        return {
            table: connection.execute(f"SELECT version_num FROM {table}").fetchone()[0]  # type: ignore[index]
            for table in ("alembic_version", "spine_version")
            if connection.execute("SELECT to_regclass(%s)", [table]).fetchone() != (None,)
        }


@each
def test_the_migrated_schema_is_the_one_declared_in_code(
    schema: Schema, new_database: NewDatabase
) -> None:
    migrated, declared = new_database(None), new_database(None)
    schema.migrate(migrated)
    engine = create_engine(make_url(declared).set(drivername="postgresql+psycopg"))
    schema.metadata.create_all(engine)
    engine.dispose()
    assert dumped(migrated) == dumped(declared)
    assert len(dumped(migrated)) > len(schema.metadata.tables)


@each
def test_autogenerate_finds_nothing_to_do(schema: Schema, new_database: NewDatabase) -> None:
    url = new_database(None)
    schema.migrate(url)
    assert differences(url, schema.metadata) == []
    with pytest.raises(NothingChanged, match=r"change its tables\.py first"):
        write_migration(schema.name, "nothing", url, schema.metadata, schema.migrations)


WITH_ORDERS = [schema for schema in SCHEMAS if "orders" in schema.metadata.tables]


@pytest.mark.parametrize("schema", WITH_ORDERS, ids=lambda schema: schema.name)
def test_a_migration_is_written_from_what_changed_in_the_tables(
    schema: Schema, new_database: NewDatabase, tmp_path: Path
) -> None:
    migrated, by_hand = new_database(None), new_database(None)
    schema.migrate(migrated)
    schema.migrate(by_hand)
    changed = MetaData()
    for table in schema.metadata.tables.values():
        table.to_metadata(changed)
    orders = changed.tables["orders"]
    orders.append_column(Column("remark", Text, nullable=False, server_default=text("''")))
    Index("orders_noted", orders.c.remark, postgresql_where=orders.c.remark != text("''"))
    Table("notes", changed, Column("id", BigInteger, Identity(), primary_key=True))
    versions = tmp_path / "migrations"
    shutil.copytree(schema.migrations, versions)
    path = write_migration(schema.name, "note_of_an_order", migrated, changed, versions)

    number = len(schema.revisions()) + 1
    assert path.name == f"{number:04}_note_of_an_order.py"
    assert path.read_text().startswith('"""Note of an order."""')
    assert "ALTER TABLE orders ADD COLUMN remark TEXT DEFAULT '' NOT NULL" in path.read_text()
    ruff = [sys.executable, "-m", "ruff", "format", "--check", "--line-length", "100"]
    subprocess.run([*ruff, str(path)], check=True)
    new = Schema(schema.name, changed, versions)
    assert new.revisions()[-1] == f"{schema.name}_{number:04}"
    new.migrate(migrated)
    assert differences(migrated, changed) == []
    execute(
        by_hand,
        "ALTER TABLE orders ADD remark text NOT NULL DEFAULT ''",
        "CREATE INDEX orders_noted ON orders (remark) WHERE remark <> ''",
        "CREATE TABLE notes (id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY)",
    )
    assert dumped(migrated) == dumped(by_hand)


def test_a_difference_between_the_two_would_be_noticed(new_database: NewDatabase) -> None:
    urls = [new_database(None) for _ in range(5)]
    for url, statement in zip(
        urls,
        [
            "CREATE TABLE t (a bigint NOT NULL, b text)",
            "CREATE TABLE t (b text, a bigint NOT NULL)",
            "CREATE TABLE t (a bigint, b text)",
            "CREATE TABLE t (a bigint NOT NULL, b text DEFAULT 'x')",
            "CREATE TABLE t (a bigint NOT NULL, b text CHECK (b <> ''))",
        ],
        strict=True,
    ):
        execute(url, statement)
    dumps = [tuple(dumped(url)) for url in urls]
    assert len(set(dumps)) == len(dumps)


@each
def test_a_database_with_data_is_migrated_forward_from_every_revision(
    schema: Schema, new_database: NewDatabase
) -> None:
    fresh = new_database(None)
    schema.migrate(fresh)
    wanted = dumped(fresh)
    reached = new_database(None)
    for revision in schema.revisions():
        schema.migrate(reached, to=revision)
        url = new_database(str(conninfo_to_dict(reached)["dbname"]))
        # Since all of those steps were there, the spine stores its own revision.
        is_old = was_with_the_spine(schema) and revision < f"{schema.name}_0011"
        execute(url, "DROP TABLE IF EXISTS spine_version" if is_old else "")
        fill(url, schema)
        before = rows(url, schema.metadata)
        empty = {table for table, found in before.items() if not found}
        assert empty <= NEWER, f"each table has rows: give DATA some of {schema.name}"
        schema.migrate(url)
        after = rows(url, schema.metadata)
        # A column may have come since, and none has another value.
        for table, found in before.items():
            kept = [
                {name: value for name, value in row.items() if name in was}
                for row, was in zip(after[table], found, strict=True)
            ]
            assert kept == found
        assert dumped(url) == wanted
        assert versions_of(url) == versions_of(fresh)


@pytest.mark.parametrize(("name", "before"), [("users", "users_0006"), ("orders", "orders_0007")])
async def test_answers_kept_before_keys_were_hashed_are_still_given(
    new_database: NewDatabase, name: str, before: str
) -> None:
    (schema,) = [schema for schema in SCHEMAS if schema.name == name]
    url = new_database(None)
    schema.migrate(url, to=before)
    execute(url, "INSERT INTO idempotency_keys VALUES ('a key', 'asked', 201, '[]', 'the answer')")
    schema.migrate(url)

    async def refused(tx: Transaction, requests: Sequence[Request[int]]) -> list[int]:
        return [request.command for request in requests]

    async def ask(fingerprint: bytes) -> object:
        database = Database(url)
        await database.open()
        try:
            once = Request(1, key=Key("a key", fingerprint, lambda _: None))
            [outcome] = await once_in_transaction(database, refused)([once])
        finally:
            await database.close()
        return outcome

    # Of what was asked for then there is only a hash in another form, which tells nothing now.
    for fingerprint in (b"asked", b"something else"):
        assert await ask(fingerprint) == Answer(201, (), b"the answer")


@each
def test_migrating_again_changes_nothing(schema: Schema, new_database: NewDatabase) -> None:
    url = new_database(None)
    schema.migrate(url)
    fill(url, schema)
    before = rows(url, schema.metadata), dumped(url)
    schema.migrate(url)
    assert (rows(url, schema.metadata), dumped(url)) == before


@each
def test_migrating_several_times_at_once_is_migrating_once(
    schema: Schema, new_database: NewDatabase
) -> None:
    url, alone = new_database(None), new_database(None)
    schema.migrate(alone)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: schema.migrate(url), range(4)))
    assert dumped(url) == dumped(alone)
    assert rows(url, schema.metadata) == rows(alone, schema.metadata)


@each
def test_revisions_are_one_line_named_for_their_schema(schema: Schema) -> None:
    revisions = schema.revisions()
    assert revisions == [f"{schema.name}_{n:04}" for n in range(1, len(revisions) + 1)]


def test_the_spines_revisions_are_one_line_named_for_it() -> None:
    revisions = Schema("spine", MetaData(), SPINE).revisions()
    assert revisions == [f"spine_{n:04}" for n in range(1, len(revisions) + 1)]
    assert len(steps()) == len(revisions)


@pytest.mark.parametrize(
    "schema", [one for one in SCHEMAS if was_with_the_spine(one)], ids=lambda schema: schema.name
)
def test_released_migrations_run_right_after_the_step_that_they_called(
    schema: Schema, new_database: NewDatabase
) -> None:
    """So they find the tables that they were made for. Later steps are no service's business."""
    url = new_database(None)
    named = []
    for file in sorted(schema.migrations.glob("0*.py")):
        module = runpy.run_path(str(file))
        if "spine" in module:
            named.append(module["spine"])
            schema.migrate(url, to=module["revision"])
            if len(named) < 10:
                at = {"alembic_version": module["revision"], "spine_version": named[-1]}
                assert versions_of(url) == at
    assert named == [f"spine_{n:04}" for n in range(1, 11)]


STEP = "ALTER TABLE outbox_head ADD COLUMN spare int"


@pytest.fixture
def a_step_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """In the spine of the next release."""
    last = Schema("spine", MetaData(), SPINE).revisions()[-1]
    revision = f"spine_{int(last[-4:]) + 1:04}"
    shutil.copytree(SPINE, tmp_path / "spine")
    (tmp_path / "spine" / f"{revision[-4:]}_more.py").write_text(
        f"from alembic import op\nrevision = {revision!r}\ndown_revision = {last!r}\n"
        f"def upgrade():\n    op.execute({STEP!r})\n"
    )
    monkeypatch.setattr("shop.platform.migrations.SPINE", tmp_path / "spine")
    return revision


@pytest.mark.parametrize("name", discovery.names())
def test_a_new_step_of_the_spine_is_run_for_every_service_and_is_in_none(
    name: str, new_database: NewDatabase, templates: dict[str, str], a_step_more: str
) -> None:
    (schema,) = [schema for schema in SCHEMAS if schema.name == name]
    url, fresh = new_database(templates[name]), new_database(None)
    own = versions_of(url)["alembic_version"]
    for each_url in (url, fresh):
        schema.migrate(each_url)
        assert versions_of(each_url) == {"alembic_version": own, "spine_version": a_step_more}
        execute(each_url, "SELECT spare FROM outbox_head")
    assert dumped(url) == dumped(fresh)


def test_a_migration_of_the_spine_is_undone_when_a_services_next_one_fails(
    new_database: NewDatabase, templates: dict[str, str], tmp_path: Path, a_step_more: str
) -> None:
    (schema,) = [schema for schema in SCHEMAS if schema.name == "users"]
    url = new_database(templates["users"])
    before = dumped(url), versions_of(url)
    assert before[1]["spine_version"] != a_step_more
    shutil.copytree(schema.migrations, tmp_path / "users")
    newest = before[1]["alembic_version"]
    (tmp_path / "users" / "9999_broken.py").write_text(
        f"from alembic import op\nrevision = 'users_9999'\ndown_revision = {newest!r}\n"
        "def upgrade():\n    op.execute('SELECT spare, 1/0 FROM outbox_head')\n"
    )
    with pytest.raises(Exception, match="division by zero"):
        schema._replace(migrations=tmp_path / "users").migrate(url)
    assert (dumped(url), versions_of(url)) == before


def test_changes_of_the_spines_tables_go_into_no_services_migration(
    new_database: NewDatabase, templates: dict[str, str]
) -> None:
    (schema,) = [schema for schema in SCHEMAS if schema.name == "users"]
    url = new_database(templates["users"])
    execute(url, STEP, "DROP INDEX parked_by_key", "DROP TABLE earlier_relay")
    assert differences(url, schema.metadata) == []


def test_a_migration_that_fails_leaves_everything_as_it_was(
    new_database: NewDatabase, tmp_path: Path
) -> None:
    write_migrations(tmp_path, ["CREATE TABLE kept (a int)"])
    url = new_database(None)
    broken = Schema("broken", MetaData(), tmp_path)
    broken.migrate(url)
    write_migrations(tmp_path, ["", "CREATE TABLE lost (a int)", "SELECT 1/0"])
    before = dumped(url)
    with pytest.raises(Exception, match="division by zero"):
        broken.migrate(url)
    assert dumped(url) == before
    write_migrations(tmp_path, ["", "CREATE TABLE lost (a int)", "SELECT 1"])
    broken.migrate(url)
    assert len(dumped(url)) > len(before)


def write_migrations(folder: Path, statements: Sequence[str]) -> None:
    for n, statement in enumerate(statements, 1):
        if statement:
            previous = f"r{n - 1}" if n > 1 else None
            (folder / f"{n}.py").write_text(
                "from alembic import op\n"
                f"revision = 'r{n}'\n"
                f"down_revision = {previous!r}\n"
                "def upgrade():\n"
                f"    op.execute({statement!r})\n"
            )
