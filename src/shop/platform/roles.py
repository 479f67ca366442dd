"""The roles of a database, and what each may do.

    NAME           owns the database and its tables: `shop migrate`, `shop audit`
    NAME_api       reads and writes the service's tables, and publishes: `shop api`
    NAME_worker    that, and the spine's tables: `shop worker`
    NAME_front     reads all that pages over the services show, and applies or discards parked events: `shop api console`
    NAME_cdc       reads the outbox and replication slots: Debezium and `shop cdc`, if there is change data capture

NAME is the name of the service. If the log is a table, it is also `log`, which has no API.

Only the owner can create, alter or drop anything. `shop roles` creates the roles, and `shop migrate` gives them
their rights.
"""

import base64
import hashlib
import hmac
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from psycopg import sql

from eventspine.address import Address
from eventspine.database import Connection, connect, translated
from eventspine.server import Unfit

API, WORKER, FRONT, CDC = "api", "worker", "front", "cdc"
PARTS = (API, WORKER, FRONT)

_ALL = "SELECT, INSERT, UPDATE, DELETE"

# The rights of an API on the spine's tables. On the service's own tables it has all of `_ALL`.
_SPINE_API: Mapping[str, str] = {
    "outbox_head": "SELECT, UPDATE",
    "outbox": "SELECT, INSERT",
    "idempotency_keys": _ALL,
    "running_time": "SELECT",
    "relay": "SELECT",  # for /health/ready
}
# To retry a parked event is to apply it: its effect, the event that it may cause, and the lock of the checkpoint. A front moves
# neither relay nor checkpoints forward, and stores no answers.
_SPINE_FRONT: Mapping[str, str] = {
    "outbox_head": "SELECT, UPDATE",
    "outbox": "SELECT, INSERT",
    "parked": _ALL,
    "cursors": "SELECT, UPDATE",
    "relay": "SELECT",
    "idempotency_keys": "SELECT",
    "running_time": "SELECT",
}
_SPINE_CDC: Mapping[str, str] = {"outbox": "SELECT", "relay": "SELECT"}
_LOG_WORKER: Mapping[str, str] = {"log_heads": "SELECT, UPDATE", "log_records": "SELECT, INSERT"}
_LOG_FRONT: Mapping[str, str] = {"log_heads": "SELECT", "log_records": "SELECT"}
_ITERATIONS = 4096  # PostgreSQL's default


def named(database: str, *, cdc: bool = False) -> list[str]:
    """The roles of a service's database or of the log's. The owner comes first. With `cdc`, also Debezium's."""
    parts = [WORKER, FRONT] if database == "log" else [*PARTS, *([CDC] if cdc else [])]
    return [database, *(f"{database}_{part}" for part in parts)]


def grants(
    database: str, tables: Sequence[str], spine: Collection[str], present: Collection[str]
) -> Iterator[sql.Composed]:
    """The statements that give the `present` roles exactly their rights on the tables.

    `spine` are the names of the spine's tables.
    """
    for role in named(database, cdc=True)[1:]:
        if role not in present:
            continue
        part = role.rpartition("_")[2]
        yield sql.SQL("REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {}").format(
            sql.Identifier(role)
        )
        yield sql.SQL("GRANT USAGE ON SCHEMA public TO {}").format(sql.Identifier(role))
        # A batch takes its ids from the sequences before it stores its rows.
        yield sql.SQL("GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {}").format(
            sql.Identifier(role)
        )
        for table in tables:
            if rights := _rights(part, table, spine, log=database == "log"):
                yield sql.SQL("GRANT {} ON {} TO {}").format(
                    sql.SQL(rights), sql.Identifier("public", table), sql.Identifier(role)
                )


def _rights(part: str, table: str, spine: Collection[str], *, log: bool) -> str:
    if log:
        return (_LOG_WORKER if part == WORKER else _LOG_FRONT).get(table, "")
    if part == CDC:
        return _SPINE_CDC.get(table, "")
    if table in spine and part != WORKER:
        return (_SPINE_API if part == API else _SPINE_FRONT).get(table, "")
    return _ALL


def creation(database: str, verifiers: Mapping[str, str], *, cdc: bool = False) -> Iterator[str]:
    """The SQL statements that create or update the roles. An administrator has to run them.

    `verifiers` are made by `scram` from the roles' passwords. A role without one keeps its password.
    """
    for role in named(database, cdc=cdc):
        replication = "REPLICATION" if role == f"{database}_{CDC}" else "NOREPLICATION"
        name = _quoted(role)
        literal = "'" + role.replace("'", "''") + "'"
        yield (
            f"DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {literal}) THEN"
            f" CREATE ROLE {name}; END IF; END $$"
        )
        password = f" PASSWORD '{verifiers[role]}'" if role in verifiers else ""
        yield (
            f"ALTER ROLE {name} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE {replication} NOBYPASSRLS{password}"
        )
    if f"{database}_{API}" in named(database):
        # A worker ends the sessions of frozen APIs. For that, PostgreSQL requires that it is a member of their role.
        yield f"GRANT {_quoted(f'{database}_{API}')} TO {_quoted(f'{database}_{WORKER}')}"


def database_creation(database: str) -> str:
    """It can't run in a transaction, and fails if the database exists."""
    return f"CREATE DATABASE {_quoted(database)} OWNER {_quoted(database)} TEMPLATE template0 ENCODING 'UTF8'"


def database_rights(database: str, *, cdc: bool = False) -> Iterator[str]:
    yield f"REVOKE ALL ON DATABASE {_quoted(database)} FROM PUBLIC"
    for role in named(database, cdc=cdc)[1:]:
        yield f"GRANT CONNECT ON DATABASE {_quoted(database)} TO {_quoted(role)}"


def scram(password: str, salt: bytes | None = None) -> str:
    """PostgreSQL's stored form of a password. With it, the password itself is never sent, and is in no log.

    Raises `ValueError` if the password is not ASCII, because it would have to be normalised first (RFC 4013).
    """
    if not password.isascii() or not password.isprintable():
        raise ValueError("a database's password must be of printable ASCII characters")
    salt = salt or os.urandom(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, _ITERATIONS)
    client = hmac.digest(salted, b"Client Key", "sha256")
    stored = hashlib.sha256(client).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    return f"SCRAM-SHA-256${_ITERATIONS}:{_b64(salt)}${_b64(stored)}:{_b64(server)}"


_MAY = """
SELECT rolsuper AS superuser,
    rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls AS administrator,
    pg_has_role(datdba, 'USAGE') OR has_database_privilege(current_database(), 'CREATE')
        OR has_schema_privilege('public', 'CREATE') AS creates
FROM pg_roles, pg_database WHERE rolname = current_user AND datname = current_database()
"""

_TOO_MUCH = {
    "superuser": "its role {role} is a superuser, who may read and change everything on that server",
    "administrator": "its role {role} may create roles or databases, replicate, or pass by row security",
    "creates": "its role {role} may create, alter and drop tables: only the owner, who migrates, may",
}


async def require_least(connection: Connection, *, owner: bool = False) -> None:
    """Raises `Unfit` if the role has more rights than its process needs."""
    with translated():
        cursor = await connection.execute(_MAY, prepare=False)
        names = [column.name for column in cursor.description or ()]
        facts: dict[str, Any] = dict(zip(names, (await cursor.fetchall())[0], strict=True))
    for name, sentence in _TOO_MUCH.items():
        if facts[name] and not (owner and name == "creates"):
            told = sentence.format(role=connection.info.user)
            raise Unfit(f"{told}; `shop roles` makes roles that do")


async def check(address: Address, *, owner: bool = False) -> None:
    """Like `require_least`, on a new connection. Also raises `Unavailable`."""
    connection = await connect(address)
    try:
        await require_least(connection, owner=owner)
    finally:
        await connection.close()


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
