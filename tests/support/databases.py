"""Databases of a test: what they are called, and how one is made."""

from collections.abc import Callable
from pathlib import Path

import psycopg

LOG_MIGRATIONS = Path(__file__).parents[2] / "src/eventspine/migrations/log"


NewDatabase = Callable[[str | None], str]


class Databases(dict[str, str]):
    """URLs of one test's own databases, by service; and the log's."""

    @property
    def users(self) -> str:
        return self["users"]

    @property
    def orders(self) -> str:
        return self["orders"]

    @property
    def log(self) -> str:
        return self["log"]

    def but(self, **urls: str) -> "Databases":
        """With these in the place of some."""
        return Databases({**self, **urls})


def copy_of(urls: Databases, new_database: NewDatabase) -> Databases:
    """Copies of databases to which nobody is connected."""
    names = {name: psycopg.conninfo.conninfo_to_dict(url)["dbname"] for name, url in urls.items()}
    return Databases({name: new_database(str(template)) for name, template in names.items()})
