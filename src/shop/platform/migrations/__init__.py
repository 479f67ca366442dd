"""Bring a database's schema forward. Alembic does the work; this finds it its parts."""

from pathlib import Path

import psycopg
import structlog
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, MetaData, create_engine, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.pool import NullPool

from eventspine.errors import Unavailable
from eventspine.session import MIGRATION_SETTINGS, connection_parameters, pinned

_LOG = structlog.get_logger("shop.migrations")


class NotMigrated(Exception):
    """The database can't be brought forward, and is as it was; the message says why."""


def migrate(url: str, metadata: MetaData, versions: Path, *, to: str = "head") -> None:
    """Run the migrations in `versions` that the database has not seen. Safe to run twice at once.

    One transaction for all of them: a migration that fails leaves the schema as it was. Raises
    `Unavailable` and `NotMigrated`.
    """
    try:
        _migrate(url, metadata, versions, to)
    except OperationalError as error:
        raise Unavailable(str(error.orig)) from error
    except DBAPIError as error:
        # A table that is there already, or that belongs to another role.
        raise NotMigrated(str(error.orig)) from error


def _migrate(url: str, metadata: MetaData, versions: Path, to: str) -> None:
    # libpq reads the URL, as it does for everybody else: SQLAlchemy knows less of what may stand in it.
    engine = create_engine(
        "postgresql+psycopg://", creator=lambda: _connect(url), poolclass=NullPool
    )
    with engine.begin() as connection:
        # Held until the commit: whoever comes second waits, and then finds nothing to do.
        connection.execute(text("SELECT pg_advisory_xact_lock(7406)"))
        config = Config()
        config.set_main_option("script_location", _literal(Path(__file__).parent))
        config.set_main_option("version_locations", _literal(versions))
        config.set_main_option("path_separator", "newline")
        config.attributes["connection"] = connection
        config.attributes["metadata"] = metadata
        _check_revision(connection, ScriptDirectory.from_config(config))
        command.upgrade(config, to)
        if to == "head":
            _let_ids_go_on(connection, metadata)
    engine.dispose()


def _literal(path: Path) -> str:
    """A percent sign would begin a variable."""
    return str(path).replace("%", "%%")


def _let_ids_go_on(connection: Connection, metadata: MetaData) -> None:
    """What copies rows need not copy where their numbers stand: logical replication does not, and
    moving to another server or another version of PostgreSQL is often done by it. Ids would be given
    out again, and each refused.
    """
    for table in metadata.sorted_tables:
        for column in table.columns:
            if column.identity is None:
                continue
            last = connection.execute(
                text(_GO_ON.format(table=table.name, column=column.name))
            ).scalar()
            if last is not None:
                _LOG.warning("migrations.ids_advanced", table=table.name, last=last)


_GO_ON = """
SELECT setval(sequence, last) FROM (
    SELECT pg_get_serial_sequence('{table}', '{column}')::regclass AS sequence, max({column}) AS last
    FROM {table}
) AS ids WHERE last > coalesce(pg_sequence_last_value(sequence), 0)
"""


def _check_revision(connection: Connection, script: ScriptDirectory) -> None:
    """Revisions are named for what they migrate, and counted: `users_0001`."""
    known = {each.revision for each in script.walk_revisions()}
    newest = str(script.get_current_head())
    for revision in MigrationContext.configure(connection).get_current_heads():
        if revision in known:
            continue
        name = revision.rpartition("_")[0]
        if name != newest.rpartition("_")[0]:
            raise NotMigrated(
                f"it is the database of {name} (it is at {revision}): each service, and the log, needs a"
                " database of its own"
            )
        raise NotMigrated(
            f"a newer release has been here: the database is at {revision}, and this release knows"
            f" {newest} at most; nothing was changed: run the newer release, or see docs/operations.md,"
            " 'Going back a release'"
        )


def _connect(url: str) -> psycopg.Connection:
    connection = psycopg.connect(url, **connection_parameters(url))
    connection.execute(*pinned(MIGRATION_SETTINGS))
    connection.commit()
    return connection
