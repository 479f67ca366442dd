"""What has to be in the shop's databases before something can be measured."""

import psycopg

_CUSTOMERS = """
INSERT INTO customers (id, email, name, version, erased)
SELECT n, 'customer' || n || '@example.com', 'Customer ' || n, 1, false
FROM generate_series(1, %(count)s) n
"""


def add_customers(orders_database: str, count: int) -> None:
    """Customers whom the order service has heard of, ids from 1."""
    with psycopg.connect(orders_database, autocommit=True) as connection:
        connection.execute(_CUSTOMERS, {"count": count})
        connection.execute("VACUUM ANALYZE customers")


# As the user service's transaction would have written them, in one go.
_USERS = """
WITH head AS (
    UPDATE outbox_head SET position = position + %(count)s RETURNING position - %(count)s AS base
), created AS (
    INSERT INTO users (id, email, name)
    SELECT base + n, 'user' || base + n || '@example.com', 'User ' || base + n
    FROM head, generate_series(1, %(count)s) n
    RETURNING id, email, name, version, created_at
)
INSERT INTO outbox (position, topic, key, type, schema_version, version, time, data)
SELECT id, 'users', id::text, 'user.created', 1, version, clock_timestamp(),
    jsonb_build_object('id', id, 'version', version, 'email', email, 'name', name,
        'created_at', created_at)
FROM created
"""


def add_users(users_database: str, count: int) -> int:
    """Users with their events in the outbox, and nobody told; the outbox's last position.

    Nothing else may have published in this database: a user's id is its event's position.
    """
    with psycopg.connect(users_database, autocommit=True) as connection:
        connection.execute(_USERS, {"count": count})
        connection.execute("VACUUM ANALYZE outbox")
        row = connection.execute("SELECT position FROM outbox_head").fetchone()
    assert row is not None
    return int(row[0])


def wake_relay(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("SELECT pg_notify('outbox', '')")
