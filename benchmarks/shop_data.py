"""Data that the shop's databases need before a measurement."""

import psycopg

_CUSTOMERS = """
INSERT INTO customers (id, email, name, version, erased)
SELECT n, 'customer' || n || '@example.com', 'Customer ' || n, 1, false
FROM generate_series(1, %(count)s) n
"""


def add_customers(orders_database: str, count: int) -> None:
    """Insert customers that the order service knows, with ids from 1."""
    with psycopg.connect(orders_database, autocommit=True) as connection:
        connection.execute(_CUSTOMERS, {"count": count})
        connection.execute("VACUUM ANALYZE customers")


# The same rows as the user service's transaction writes, in one statement.
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
    """Insert users with their events in the outbox, without a notification. Returns the last position.

    No other events may be in this database, because a user's id is also its event's position.
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


# The same for orders. Every fifth order has an Idempotency-Key.
_ORDERS = """
WITH head AS (
    UPDATE outbox_head SET position = position + %(count)s RETURNING position - %(count)s AS base
), placed AS (
    INSERT INTO orders (user_id, product, quantity, total_price)
    SELECT n %% %(customers)s + 1, 'coffee', n %% 1000 + 1, n %% 90 + 10.5
    FROM generate_series(1, %(count)s) n
    RETURNING id, user_id, product, quantity, total_price, status, version, placed_at
), told AS (
    SELECT id, version, row_number() OVER (ORDER BY id) AS n,
        jsonb_build_object('id', id, 'version', version, 'user_id', user_id, 'product', product,
            'quantity', quantity, 'total_price', total_price::text, 'status', status,
            'placed_at', placed_at) AS data
    FROM placed
), keys AS (
    INSERT INTO idempotency_keys (key_hash, fingerprint, status, headers, body)
    SELECT sha256(uuid_send(gen_random_uuid())), sha256(id::text::bytea), 201,
        jsonb_build_array(jsonb_build_array('etag', '"1"'),
            jsonb_build_array('location', '/orders/' || id),
            jsonb_build_array('content-type', 'application/json')),
        data
    FROM told WHERE n %% 5 = 0
), written AS (
    INSERT INTO outbox (position, topic, key, type, schema_version, version, time, data)
    SELECT base + n, 'orders', id::text, 'order.placed', 1, version, clock_timestamp(), data
    FROM head, told
)
SELECT pg_notify('outbox', '')
"""


def add_orders(orders_database: str, count: int, *, customers: int) -> None:
    """Insert orders with their events in the outbox, and some keys. The service may be running."""
    with psycopg.connect(orders_database, autocommit=True) as connection:
        connection.execute(_ORDERS, {"count": count, "customers": customers})
