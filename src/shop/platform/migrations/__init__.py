"""Migrates a database's schema with Alembic."""

from pathlib import Path

import psycopg
import structlog
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import Script, ScriptDirectory
from sqlalchemy import Connection, MetaData, create_engine, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.pool import NullPool

from eventspine.errors import Unavailable
from eventspine.migrations import SPINE
from eventspine.session import MIGRATION_SETTINGS, connection_parameters, pinned
from eventspine.tables import add_spine_tables
from shop.platform import roles

_LOG = structlog.get_logger("shop.migrations")


class NotMigrated(Exception):
    """The database can't be migrated, and was not changed. The message says why."""


def migrate(url: str, metadata: MetaData, versions: Path, *, to: str = "head") -> None:
    """Run the migrations in `versions` that have not run yet. Several processes may call it at once.

    If `metadata` has the spine's tables, the spine's migrations run first. All run in one transaction, so a
    failed migration changes nothing. Raises `Unavailable` and `NotMigrated`.
    """
    try:
        _migrate(url, metadata, versions, to)
    except OperationalError as error:
        raise Unavailable(str(error.orig)) from error
    except DBAPIError as error:
        # For example, a table already exists, or belongs to another role.
        raise NotMigrated(str(error.orig)) from error


def _migrate(url: str, metadata: MetaData, versions: Path, to: str) -> None:
    # libpq parses the URL, like everywhere else, because SQLAlchemy supports only a part of its syntax.
    engine = create_engine(
        "postgresql+psycopg://", creator=lambda: _connect(url), poolclass=NullPool
    )
    with engine.begin() as connection:
        # Held until the commit. A second process waits, and then finds nothing to do.
        connection.execute(text("SELECT pg_advisory_xact_lock(7406)"))
        own = _Chain(connection, metadata, versions, "alembic_version")
        own.check()
        if "outbox_head" in metadata.tables:
            spine = _Chain(connection, metadata, SPINE, "spine_version")
            spine.check()
            _migrate_spine(spine, own, to)
        own.upgrade(to)
        if to == "head":
            _let_ids_go_on(connection, metadata)
            _grant(connection, own.name, metadata)
    engine.dispose()


class _Chain:
    """A series of migrations in one database, and the table that stores its revision."""

    def __init__(
        self, connection: Connection, metadata: MetaData, versions: Path, version_table: str
    ) -> None:
        self._config = Config()
        self._config.set_main_option("script_location", _literal(Path(__file__).parent))
        self._config.set_main_option("version_locations", _literal(versions))
        self._config.set_main_option("path_separator", "newline")
        options = {"target_metadata": metadata, "version_table": version_table}
        self._config.attributes.update(connection=connection, options=options)
        self._context = MigrationContext.configure(
            connection, opts={"version_table": version_table}
        )
        self.line = [*ScriptDirectory.from_config(self._config).walk_revisions()][::-1]
        """Oldest first."""

    @property
    def name(self) -> str:
        """Of what it migrates: a service, or the log."""
        return self.line[-1].revision.rpartition("_")[0]

    def at(self) -> str | None:
        return self._context.get_current_revision()

    def until(self, revision: str | None) -> list[Script]:
        """The migrations up to and including this revision; none for None."""
        names = [script.revision for script in self.line]
        if revision == "head":
            return self.line
        return self.line[: names.index(revision) + 1] if revision else []

    def upgrade(self, to: str) -> None:
        command.upgrade(self._config, to)

    def stamp(self, revision: str) -> None:
        """Store the revision without running a migration."""
        command.stamp(self._config, revision)

    def check(self) -> None:
        """Check the revision's name, which is the owner's name and a number: `users_0001`. Raises `NotMigrated`."""
        revision = self.at()
        if revision is None or revision in {script.revision for script in self.line}:
            return
        newest = self.line[-1].revision
        name = revision.rpartition("_")[0]
        if name != self.name:
            raise NotMigrated(
                f"it is the database of {name} (it is at {revision}): each service, and the log, needs a"
                " database of its own"
            )
        raise NotMigrated(
            f"a newer release has been here: the database is at {revision}, and this release knows"
            f" {newest} at most; nothing was changed: run the newer release, or see docs/operations.md,"
            " 'Going back a release'"
        )


def _migrate_spine(spine: _Chain, own: _Chain, to: str) -> None:
    """Migrate the spine's tables, before the service's own.

    In earlier releases, services' migrations called the spine's steps, up to spine_0010. These migrations name
    their step in `spine`. They still run in the old order: each directly after its step, on the tables for
    which it was written.
    """
    done, wanted = own.until(own.at()), own.until(to)
    if spine.at() is None and (made := [step for each in done if (step := _step(each))]):
        spine.stamp(made[-1])
    for script in wanted[len(done) :]:
        if step := _step(script):
            spine.upgrade(step)
            own.upgrade(script.revision)
    if not any(_step(script) for script in own.line[len(wanted) :]):
        spine.upgrade("head")


def _step(script: Script) -> str | None:
    """The spine's step that this service migration called in earlier releases."""
    step: str | None = getattr(script.module, "spine", None)
    return step


def _literal(path: Path) -> str:
    """The path with percent signs escaped, because `%` starts a variable in Alembic's configuration."""
    return str(path).replace("%", "%%")


def _let_ids_go_on(connection: Connection, metadata: MetaData) -> None:
    """Advance the id sequences to the largest id in their tables.

    Logical replication, which is often used to change the server or PostgreSQL's version, copies rows but not
    sequences. Without this, existing ids would be given out again, and each insert would fail.
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


def _grant(connection: Connection, database: str, metadata: MetaData) -> None:
    """Give the roles that `shop roles` made, if it was used, their rights to the tables."""
    present = set(connection.execute(text("SELECT rolname FROM pg_roles")).scalars())
    spine = MetaData()
    if "outbox_head" in metadata.tables:
        add_spine_tables(spine)
    for grant in roles.grants(database, [*metadata.tables], {*spine.tables}, present):
        connection.execute(text(grant.as_string()))


_GO_ON = """
SELECT setval(sequence, last) FROM (
    SELECT pg_get_serial_sequence('{table}', '{column}')::regclass AS sequence, max({column}) AS last
    FROM {table}
) AS ids WHERE last > coalesce(pg_sequence_last_value(sequence), 0)
"""


def _connect(url: str) -> psycopg.Connection:
    connection = psycopg.connect(url, **connection_parameters(url))
    connection.execute(*pinned(MIGRATION_SETTINGS))
    connection.commit()
    return connection
