"""`make migration SERVICE=… NAME=…`: writes a new migration from the changes in tables.py.

A fresh PostgreSQL is migrated to the newest revision, and Alembic compares it with the tables in the code.
Alembic does not compare CHECK constraints, generated columns and the order of columns. So read the new
migration, and run tests/shop/test_migrations.py, which compares everything.
"""

import re
import sys
import tempfile
from collections.abc import Iterable, Iterator
from io import StringIO
from pathlib import Path

from alembic.autogenerate import produce_migrations
from alembic.operations import MigrateOperation, Operations
from alembic.operations.ops import OpContainer
from alembic.runtime.migration import MigrationContext
from sqlalchemy import MetaData, create_engine
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool

from devstack.postgres import LocalPostgres
from eventspine.tables import add_spine_tables
from shop.platform import discovery
from shop.platform.migrations import migrate

_USAGE = "usage: make migration SERVICE=its_name NAME=what_is_new (in lower case); services:"


class NothingChanged(Exception):
    """The migrations already create the tables of the code."""


def differences(url: str, metadata: MetaData) -> list[str]:
    """The statements that change the database into the tables of the code."""
    engine = create_engine(make_url(url).set(drivername="postgresql+psycopg"), poolclass=NullPool)
    with engine.connect() as connection:
        found = produce_migrations(
            MigrationContext.configure(
                connection,
                opts={
                    "compare_type": True,
                    "compare_server_default": True,
                    "include_object": _is_the_services,
                },
            ),
            metadata,
        )
        assert found.upgrade_ops is not None
        return [_sql(each) for each in _one_by_one(found.upgrade_ops.ops)]


# The spine's tables have migrations of their own.
_SPINE = MetaData()
add_spine_tables(_SPINE)
_NOT_THE_SERVICES = {*_SPINE.tables, "spine_version"}


def _is_the_services(_object: object, name: str | None, kind: str, *_: object) -> bool:
    return kind != "table" or name not in _NOT_THE_SERVICES


def _one_by_one(found: Iterable[MigrateOperation]) -> Iterator[MigrateOperation]:
    for each in found:
        if isinstance(each, OpContainer):
            yield from _one_by_one(each.ops)
        else:
            yield each


def _sql(operation: MigrateOperation) -> str:
    written = StringIO()
    context = MigrationContext.configure(
        dialect_name="postgresql", opts={"as_sql": True, "output_buffer": written}
    )
    Operations(context).invoke(operation)
    return written.getvalue().replace("\n\n", "\n").replace("\t", "").strip().removesuffix(";")


def write_migration(service: str, name: str, url: str, metadata: MetaData, versions: Path) -> Path:
    """Write the next migration into `versions`. All earlier migrations must have run on the database `url`.

    Raises `NothingChanged`.
    """
    statements = differences(url, metadata)
    if not statements:
        raise NothingChanged(
            f"nothing to migrate: the migrations of {service} already create its tables; change its tables.py"
            " first"
        )
    last = max(int(path.name[:4]) for path in versions.glob("[0-9][0-9][0-9][0-9]_*.py"))
    sql = ";\n".join(statements)
    if "\n" in sql or '"' in sql:
        indented = sql.replace("\n", "\n        ")
        call = f'op.execute(\n        """\n        {indented}\n        """\n    )'
    else:
        call = f'op.execute("{sql}")'
    path = versions / f"{last + 1:04}_{name}.py"
    path.write_text(
        f'"""{name.replace("_", " ").capitalize()}."""\n\n'
        "from alembic import op\n\n"
        f'revision = "{service}_{last + 1:04}"\n'
        f'down_revision = "{service}_{last:04}"\n\n\n'
        "def upgrade() -> None:\n"
        f"    {call}\n"
    )
    return path


def main() -> None:
    match sys.argv[1:]:
        case [service, name] if service in discovery.names() and re.fullmatch("[a-z0-9_]+", name):
            found = discovery.load(service)
        case _:
            sys.exit(f"{_USAGE} {', '.join(discovery.names())}")
    with tempfile.TemporaryDirectory(prefix="eventshop-migration-") as directory:
        # A temporary database, so durability is not needed.
        with LocalPostgres(Path(directory) / "postgres", settings={"fsync": "off"}) as server:
            server.ensure_databases([service])
            url = server.dsn(service)
            migrate(url, found.tables(), found.migrations)
            try:
                path = write_migration(service, name, url, found.tables(), found.migrations)
            except NothingChanged as nothing:
                sys.exit(str(nothing))
    print(f"{path}\n{path.read_text()}")  # noqa: T201 - the command's output


if __name__ == "__main__":
    main()
