"""A database beside a service's own, for the past to be restored into."""

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from eventspine.errors import Unavailable
from shop.cli.common import one_line, stop
from shop.platform.migrations import NotMigrated, migrate
from shop.platform.service import Service


def named(into: str) -> str:
    """The name of a database that is given by its name or by a URL. A URL may have a password."""
    if into.startswith(("postgresql://", "postgres://")):
        return str(conninfo_to_dict(into).get("dbname", "the database"))
    return into


def prepared(into: str, url: str, service: Service) -> str:
    """Its URL. It is created, if it is named and not there, and migrated."""
    if not into:
        stop("--into needs the name or the URL of a database")
    if into.startswith(("postgresql://", "postgres://")):
        target = into
    else:
        if conninfo_to_dict(url).get("dbname") == into:
            stop(f"--into {into} is the service's own database: name another")
        target = make_conninfo(url, dbname=into)
        _create(into, url)
    try:
        migrate(target, service.tables(), service.migrations)
    except (NotMigrated, Unavailable) as error:
        stop(f"cannot migrate the database {into}: {one_line(error)}")
    return target


def _create(name: str, own: str) -> None:
    # By the service's own database: its role may have no access to `postgres`.
    try:
        with psycopg.connect(own, autocommit=True) as connection:
            found = connection.execute("SELECT FROM pg_database WHERE datname = %s", [name])
            if not found.rowcount:
                connection.execute(
                    sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8'").format(
                        sql.Identifier(name)
                    )
                )
    except psycopg.errors.InsufficientPrivilege:
        role = conninfo_to_dict(own).get("user", "its role")
        stop(
            f"cannot create the database {name}: {role} may not create databases (CREATEDB); have an administrator create"
            f" it empty, with {role} as its owner, and run this again"
        )
    except psycopg.Error as error:
        stop(f"cannot create the database {name}: {one_line(error)}")
