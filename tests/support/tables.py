"""All that is in a database, to be compared."""

import psycopg

# What the log can't say.
PIPELINE = (
    "outbox_marks",
    "running_time",
    "idempotency_keys",
    "outbox",
    "earlier_cursors",
    "relay",
)
STAMPS = ("changed_in", "changed_ms", "erased_at", "running_ms")


def tables(url: str) -> dict[str, list[tuple[object, ...]]]:
    """All rows of all tables, but for what the log can't say."""
    with psycopg.connect(url, autocommit=True) as connection:
        names = connection.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"
        ).fetchall()
        found = {}
        for (name,) in names:
            if name in PIPELINE or name.startswith("alembic"):
                continue
            columns = connection.execute(
                "SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute"
                " WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped"
                " AND NOT attname = ANY(%s)",
                [name, list(STAMPS)],
            ).fetchall()[0][0]
            found[name] = connection.execute(
                f"SELECT {columns} FROM {name} ORDER BY ROW({columns})::text".encode()
            ).fetchall()
        return found


def rows(url: str, sql: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(sql.encode()).fetchall()
