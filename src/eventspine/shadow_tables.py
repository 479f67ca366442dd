"""Tables beside those in use, which take their places in one short transaction.

They are in a schema of their own, `rebuild`, under the names they will have. So to change over is to drop the
table in use, and to move the other one into its schema: its indexes, constraints and sequences come along.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from psycopg import errors

from eventspine.database import Connection, execute
from eventspine.errors import SpineError

SCHEMA = "rebuild"

_DEPENDENTS = """
SELECT DISTINCT pg_describe_object(d.classid, d.objid, d.objsubid)
FROM pg_depend d
LEFT JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
LEFT JOIN pg_constraint c ON d.classid = 'pg_constraint'::regclass AND c.oid = d.objid
WHERE d.refobjid = %(table)s::regclass AND d.refclassid = 'pg_class'::regclass AND d.deptype = 'n'
    AND (r.ev_class <> d.refobjid OR c.confrelid = d.refobjid AND c.conrelid <> d.refobjid)
"""

_TRIGGERS = """
SELECT pg_get_triggerdef(oid) FROM pg_trigger
WHERE tgrelid = %(table)s::regclass AND NOT tgisinternal ORDER BY tgname
"""

_GRANTS = """
SELECT format('GRANT %%s ON %%s TO %%s', privilege_type, %(shadow)s::text,
    CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END)
FROM pg_class, aclexplode(relacl) WHERE oid = %(table)s::regclass AND grantee <> relowner
"""

_OPTIONS = """
SELECT quote_ident(pg_get_userbyid(relowner)), array_to_string(reloptions, ', ')
FROM pg_class WHERE oid = %(table)s::regclass
"""

_INDEXES = """
SELECT CASE WHEN i.indisunique THEN 'UNIQUE ' ELSE '' END, quote_ident(c.relname),
    pg_get_indexdef(i.indexrelid)
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE i.indrelid = %(table)s::regclass
    AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = i.indexrelid AND contype IN ('p', 'u', 'x'))
ORDER BY c.relname
"""

_CONSTRAINTS = """
SELECT quote_ident(conname), pg_get_constraintdef(oid) FROM pg_constraint
WHERE conrelid = %(table)s::regclass AND contype IN ('p', 'u', 'x', 'f')
ORDER BY contype <> 'p', conname
"""

_SEQUENCES = """
SELECT attname, pg_get_serial_sequence('public.' || quote_ident(%(name)s), attname),
    pg_get_serial_sequence('rebuild.' || quote_ident(%(name)s), attname)
FROM pg_attribute WHERE attrelid = %(table)s::regclass AND attidentity <> '' AND NOT attisdropped
"""


# A vacuum or the like, or a transaction that has lasted. Those of other roles are seen only by a role that may.
_IN_LONG_USE = """
SELECT FROM pg_locks JOIN pg_stat_activity AS session USING (pid)
WHERE relation = ANY(%(tables)s::regclass[]) AND granted AND pid <> pg_backend_pid()
    AND (mode = 'ShareUpdateExclusiveLock' OR xact_start < clock_timestamp() - interval '1s')
LIMIT 1
"""


class CannotReplace(SpineError):
    """Something in the database hangs on the table."""


def shadow(name: str) -> str:
    return f"{SCHEMA}.{name}"


def live(name: str) -> str:
    return f"public.{name}"


async def drop_all(connection: Connection) -> None:
    """What an earlier run has left."""
    await execute(connection, f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")


async def create(connection: Connection, names: Iterable[str]) -> None:
    """Without indexes: those are built when the rows are there. Raises `CannotReplace`."""
    await execute(connection, f"CREATE SCHEMA {SCHEMA}")
    for name in names:
        table = {"table": live(name), "shadow": shadow(name)}
        if dependents := await _all(connection, _DEPENDENTS, table):
            raise CannotReplace(
                f"the table {name} can't be replaced, since this depends on it:"
                f" {', '.join(what for (what,) in dependents)}; drop that, and make it again afterwards"
            )
        await execute(
            connection,
            f"CREATE TABLE {shadow(name)} (LIKE {live(name)} INCLUDING ALL EXCLUDING INDEXES)",
        )
        [(owner, options)] = await _all(connection, _OPTIONS, table)
        await execute(connection, f"ALTER TABLE {shadow(name)} OWNER TO {owner}")
        if options:
            await execute(connection, f"ALTER TABLE {shadow(name)} SET ({options})")
        for (grant,) in await _all(connection, _GRANTS, table):
            await execute(connection, grant)
        for (trigger,) in await _all(connection, _TRIGGERS, table):
            await execute(connection, _moved(trigger, name))


async def index(connection: Connection, name: str) -> None:
    table = {"table": live(name)}
    for constraint, definition in await _all(connection, _CONSTRAINTS, table):
        await execute(
            connection, f"ALTER TABLE {shadow(name)} ADD CONSTRAINT {constraint} {definition}"
        )
    for unique, index_name, definition in await _all(connection, _INDEXES, table):
        method = definition.partition(" USING ")[2]
        await execute(
            connection, f"CREATE {unique}INDEX {index_name} ON {shadow(name)} USING {method}"
        )
    await execute(connection, f"ANALYZE {shadow(name)}")


async def has_triggers(connection: Connection, name: str) -> bool:
    return bool(await _all(connection, _TRIGGERS, {"table": live(name)}))


async def require_free(connection: Connection, names: Iterable[str]) -> None:
    """Raises `LockNotAvailable` if `lock` would have to wait for long, as far as can be seen.

    All who come later would wait behind it, and for nothing.
    """
    if await _all(connection, _IN_LONG_USE, {"tables": [live(name) for name in sorted(names)]}):
        raise errors.LockNotAvailable("the tables are in use by a vacuum or a long transaction")


async def lock(connection: Connection, names: Iterable[str]) -> None:
    """Nobody reads or writes them until the transaction ends."""
    tables = ", ".join(live(name) for name in sorted(names))
    await execute(connection, f"LOCK TABLE {tables} IN ACCESS EXCLUSIVE MODE")


async def replacing(connection: Connection, names: Sequence[str]) -> str:
    """The statements that let the tables change places. `replace` runs them."""
    statements = []
    for name in names:
        place = {"name": name, "table": live(name)}
        for _, of_live, of_shadow in await _all(connection, _SEQUENCES, place):
            statements.append(
                f"SELECT setval('{of_shadow}', last_value, is_called) FROM {of_live}"  # noqa: S608 - names from the database
            )
        statements.append(f"DROP TABLE {live(name)}")
        statements.append(f"ALTER TABLE {shadow(name)} SET SCHEMA public")
    return "; ".join([*statements, f"DROP SCHEMA {SCHEMA}"])


async def replace(connection: Connection, statements: str) -> None:
    """With the tables locked, so all at once: others wait for every answer of the server."""
    await connection.execute(statements.encode(), prepare=False)


def _moved(trigger: str, name: str) -> str:
    return trigger.replace(f" ON {live(name)} ", f" ON {shadow(name)} ", 1)


async def _all(connection: Connection, sql: str, params: dict[str, Any]) -> Sequence[Any]:
    return await (await execute(connection, sql, params)).fetchall()
