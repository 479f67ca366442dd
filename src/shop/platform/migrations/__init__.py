"""Bring a database's schema forward. Alembic does the work; this finds it its parts."""

from pathlib import Path

import psycopg
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import MetaData, create_engine, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.pool import NullPool

from eventspine.database import patience_with
from eventspine.errors import Unavailable

OLDEST_POSTGRES = 17
"""`transaction_timeout`, and MERGE with RETURNING."""


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
        # A role without the right to create, a table that is there already.
        raise NotMigrated(str(error.orig)) from error
    except CommandError as error:
        # A newer release has been here.
        raise NotMigrated(str(error)) from error


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
        command.upgrade(config, to)
    engine.dispose()


def _literal(path: Path) -> str:
    """A percent sign would begin a variable."""
    return str(path).replace("%", "%%")


def _connect(url: str) -> psycopg.Connection:
    connection = psycopg.connect(url, **patience_with(url))
    if connection.info.server_version < OLDEST_POSTGRES * 10_000:
        version = connection.info.parameter_status("server_version")
        connection.close()
        raise NotMigrated(f"PostgreSQL {OLDEST_POSTGRES} or newer is needed, and this is {version}")
    return connection
