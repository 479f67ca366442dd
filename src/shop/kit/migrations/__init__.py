"""Bring a database's schema forward. Alembic does the work; this finds it its parts."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import MetaData, create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from eventspine.errors import Unavailable


def migrate(url: str, metadata: MetaData, versions: Path, *, to: str = "head") -> None:
    """Run the migrations in `versions` that the database has not seen. Safe to run twice at once.

    One transaction for all of them: a migration that fails leaves the schema as it was. Raises
    `Unavailable`.
    """
    try:
        _migrate(url, metadata, versions, to)
    except OperationalError as error:
        raise Unavailable(str(error.orig)) from error


def _migrate(url: str, metadata: MetaData, versions: Path, to: str) -> None:
    engine = create_engine(make_url(url).set(drivername="postgresql+psycopg"), poolclass=NullPool)
    with engine.begin() as connection:
        # Held until the commit: whoever comes second waits, and then finds nothing to do.
        connection.execute(text("SELECT pg_advisory_xact_lock(7406)"))
        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent))
        config.set_main_option("version_locations", str(versions))
        config.set_main_option("path_separator", "newline")
        config.attributes["connection"] = connection
        config.attributes["metadata"] = metadata
        command.upgrade(config, to)
    engine.dispose()
