"""A plan that was made while a table was small is kept, and must do when it has grown.

No autovacuum comes by in these tests, so nothing makes the sessions plan anew.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import NamedTuple

import psycopg
import pytest

from eventspine.answers import Answer, Key
from eventspine.backlog import following
from eventspine.batching import Run
from eventspine.consumer import Consumer
from eventspine.context import Request
from eventspine.database import Connection, Database, connect
from eventspine.dead_letters import held_keys, retry
from eventspine.errors import Conflict
from eventspine.event import Event
from eventspine.idempotency import once_in_transaction
from eventspine.log import Message
from eventspine.outbox import transaction
from eventspine.postgres_log import PostgresLog
from eventspine.pruning import Pruner
from shop.platform import discovery
from shop.platform.auth.known import Known
from shop.platform.auth.tokens import Issuer
from shop.platform.http.fields import MAX_BIGINT
from shop.services.orders import actions as placing
from shop.services.orders import queries as orders_read
from shop.services.orders.schemas import CancelOrder, GetOrder, ListOrders, PlaceOrder
from shop.services.users import actions as users_act
from shop.services.users import queries as users_read
from shop.services.users.schemas import (
    CreateUser,
    EraseUser,
    GetUser,
    ListUserOrders,
    ListUsers,
    UpdateUser,
)
from tests.support.databases import Databases
from tests.support.examples import heavy
from tests.support.received import heard
from tests.support.shop_events import order_placed, user_created, user_erased, user_updated

Step = Callable[[], Awaitable[object]]

OFTEN = 12
"""After five times PostgreSQL decides whether to keep a plan; before, psycopg does not prepare."""
FEW = 5
"""Rows that each step is about."""
SMALL = 40
GROWN = 10_000
AGES_AGO = datetime(2020, 1, 1, tzinfo=UTC)
READ_AT_MOST = 400
"""Rows and index entries that a step may read: some for each of its few rows, from each table."""

_GROW_ANY = """
INSERT INTO outbox SELECT n, 't', n::text, 'x', 1, 1, now(), '{"id": 1}', NULL
FROM generate_series(%(from)s::int, %(to)s) n;
UPDATE outbox_head SET position = %(to)s;
INSERT INTO idempotency_keys (key_hash, fingerprint, status, headers, body, about)
SELECT sha256(n::text::bytea), 'x', 201, '[]', 'x', n::text
FROM generate_series(%(from)s::int, %(to)s) n;
INSERT INTO parked (consumer, topic, partition, "offset", position, key, headers, value, holds_key,
    cause, error)
SELECT c, t, 7, n, 0, n::text, '{}', 'x', false, 'not an event', 'x'
FROM generate_series(%(from)s::int, %(to)s) n, (VALUES ('users', 'orders'), ('orders', 'users')) w(c, t);
INSERT INTO access SELECT 'user:' || n, '{}', false, 1, 'x', 1 FROM generate_series(%(from)s::int, %(to)s) n;
INSERT INTO ended_sessions SELECT gen_random_uuid(), n, 'x', 1 FROM generate_series(%(from)s::int, %(to)s) n;
"""
_GROW = {
    "users": _GROW_ANY
    + """
    INSERT INTO users (email, name) SELECT n || '@example.net', 'n'
    FROM generate_series(%(from)s::int, %(to)s) n;
    INSERT INTO orders SELECT n, n, 'tea', 1, 1, 'placed', 1, now()
    FROM generate_series(%(from)s::int, %(to)s) n
    """,
    "orders": _GROW_ANY
    + """
    INSERT INTO customers SELECT n, n || '@example.net', 'n', 1, false
    FROM generate_series(%(from)s::int, %(to)s) n;
    INSERT INTO orders (user_id, product, quantity, total_price, status)
    SELECT n, 'tea', 1, 1, CASE WHEN n %% 50 = 0 THEN 'cancelled' ELSE 'placed' END
    FROM generate_series(%(from)s::int, %(to)s) n
    """,
    "log": """
    INSERT INTO log_records (topic, partition, "offset", key, value, headers)
    SELECT t, 0, n - 1, n::text, '{}', '{}'
    FROM generate_series(%(from)s::int, %(to)s) n, (VALUES ('users'), ('orders')) topics(t);
    UPDATE log_heads SET next_offset = %(to)s
    """,
}

_NO_AUTOVACUUM = """
DO $$ DECLARE name text; BEGIN
    FOR name IN SELECT relname FROM pg_stat_user_tables LOOP
        EXECUTE format('ALTER TABLE %I SET (autovacuum_enabled = off)', name);
    END LOOP;
END $$
"""

_READ = """
SELECT (SELECT sum(seq_tup_read) FROM pg_stat_user_tables)
    + (SELECT sum(idx_tup_read) FROM pg_stat_user_indexes)
"""


def _fill(urls: dict[str, str], first: int, last: int) -> None:
    for name, url in urls.items():
        with psycopg.connect(url) as connection:
            psycopg.ClientCursor(connection).execute(_GROW[name], {"from": first, "to": last})


def _execute(urls: dict[str, str], sql: str) -> None:
    for url in urls.values():
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(sql.encode())


class _Sessions(NamedTuple):
    """Of one database: a pool's only one, and one outside it."""

    url: str
    database: Database
    relaying: Connection | None

    async def read_by(self, step: Step) -> int:
        """How many rows and index entries."""
        before = await self._so_far()
        await step()
        return await self._so_far() - before

    async def _so_far(self) -> int:
        async with self.database.connection() as only:
            for session in filter(None, (only, self.relaying)):
                await session.execute("SELECT pg_stat_force_next_flush()")
                await session.execute("SELECT 1")
        with psycopg.connect(self.url) as connection:
            [(count,)] = connection.execute(_READ).fetchall()
        return int(count)


class Steps:
    """What each service does with its database, a few rows at a time, each by the code that does it."""

    def __init__(self, users: Database, orders: Database, log: PostgresLog) -> None:
        self.users, self.orders, self.log = users, orders, log
        self.count = 0
        self.place: Run[Request[PlaceOrder], object] = once_in_transaction(orders, placing.place)

    def new(self) -> int:
        self.count += 1
        return self.count

    def of_orders(self, relaying: Connection | None) -> dict[str, Step]:
        ids = list(range(1, FEW + 1))

        async def in_transaction(
            action: Callable[..., Awaitable[object]], commands: list[object]
        ) -> None:
            async with transaction(self.orders) as tx:
                await action(tx, commands)

        async def again_under_one_key() -> None:
            key = Key("the same", b"f", lambda _: Answer(201, (), b"x"))
            once = Request(PlaceOrder(1, "tea", 1, Decimal(1)), key=key)
            try:
                await self.place([once])
            except Conflict:
                await self.place([once])

        async def under_keys() -> None:
            def key() -> Key:
                return Key(f"key {self.new()}", b"f", lambda _: Answer(201, (), b"x", "77777777"))

            await self.place(
                [Request(PlaceOrder(id_, "tea", 1, Decimal(1)), key=key()) for id_ in ids]
            )

        lists: dict[str, Step] = {
            f"a list of orders (user {user_id}, {status})": lambda user_id=user_id, status=status: (
                orders_read.pages(self.orders, [ListOrders(user_id, status, 2**60, FEW)])
            )
            for user_id in (None, 3)
            for status in ("placed", "cancelled", None)
        }
        asked = ListOrders(None, None, MAX_BIGINT, FEW)
        lists |= {
            f"a list of orders ({' '.join(what)})": lambda what=what: orders_read.pages(
                self.orders, [asked._replace(**what)]
            )
            for what in (
                {"product": "rare"},
                {"product": "tea"},
                {"product": "rare", "status": "cancelled"},
                {"placed_from": AGES_AGO},
                {"placed_before": AGES_AGO},
                {"placed_from": AGES_AGO, "product": "tea", "below": 7},
                {"placed_from": AGES_AGO, "user_id": 3},
                {"product": "tea", "user_id": 3},
            )
        }
        return {
            **lists,
            **self._of_any("orders", "users", self.orders, relaying),
            "placing": lambda: in_transaction(
                placing.place, [Request(PlaceOrder(id_, "tea", 1, Decimal(1))) for id_ in ids]
            ),
            "placing under keys": under_keys,
            "placing again": again_under_one_key,
            "cancelling": lambda: in_transaction(
                placing.cancel, [Request(CancelOrder(id_, None)) for id_ in ids]
            ),
            "cancelling own ones": lambda: in_transaction(
                placing.cancel, [Request(CancelOrder(id_, None, id_)) for id_ in ids]
            ),
            "orders by id": lambda: orders_read.get(self.orders, [*map(GetOrder, ids)]),
            "own orders by id": lambda: orders_read.get(
                self.orders, [GetOrder(id_, id_ % 2 or None) for id_ in ids]
            ),
            "customers known": lambda: orders_read.known(self.orders, ids),
            "customers changed": lambda: self._hear(
                self.orders, "orders",
                *(user_updated(id_, 2) for id_ in ids), user_created(1_000_000 + self.new()),
            ),
            "a customer erased": lambda: self._hear(
                self.orders, "orders", user_created(id_ := 1_000_000 + self.new()), user_erased(id_, 2)
            ),
        }  # fmt: skip

    def of_users(self, relaying: Connection | None) -> dict[str, Step]:
        ids = list(range(1, FEW + 1))

        async def create() -> None:
            async with transaction(self.users) as tx:
                new = [Request(CreateUser(f"new{self.new()}@example.com", "N")) for _ in ids]
                await users_act.create(tx, [*new, Request(CreateUser("1@example.net", "N"))])

        async def update() -> None:
            async with transaction(self.users) as tx:
                name = f"N {self.new()}"
                await users_act.update(
                    tx, [Request(UpdateUser(id_, None, name, None)) for id_ in ids]
                )

        async def erase() -> None:
            async with transaction(self.users) as tx:
                await users_act.erase(tx, [Request(EraseUser(self.new(), None))])

        return {
            **self._of_any("users", "orders", self.users, relaying),
            "creating": create,
            "updating": update,
            "erasing": erase,
            "a list of users": lambda: users_read.pages(
                self.users, [ListUsers(None, MAX_BIGINT, FEW)]
            ),
            "a user by address": lambda: users_read.pages(
                self.users, [ListUsers("17@EXAMPLE.NET", MAX_BIGINT, FEW)]
            ),
            "oneself": lambda: users_read.pages(self.users, [ListUsers(None, MAX_BIGINT, FEW, 3)]),
            "oneself by address": lambda: users_read.pages(
                self.users, [ListUsers("17@EXAMPLE.NET", MAX_BIGINT, FEW, 17)]
            ),
            "users by id": lambda: users_read.get(self.users, [*map(GetUser, ids)]),
            "a user's orders": lambda: users_read.orders_of(
                self.users, [ListUserOrders(3, 2**60, FEW)]
            ),
            "orders changed": lambda: self._hear(
                self.users, "users",
                *(order_placed(id_, id_) for id_ in ids), order_placed(1_000_000 + self.new(), 3),
            ),
        }  # fmt: skip

    def of_log(self) -> dict[str, Step]:
        message = Message("k", b"{}", {})
        return {
            "appending": lambda: self.log.append("users", [message] * FEW),
            "reading": lambda: self.log.read("users", 0, 3, FEW),
            "where it ends": lambda: self.log.end_offsets("users"),
        }

    def _of_any(
        self, name: str, topic: str, database: Database, relaying: Connection | None
    ) -> dict[str, Step]:
        handlers = discovery.load(name).handlers
        pruner = Pruner(database, outbox_seconds=1e6, key_seconds=1e6, parked_seconds=1e6)
        consumer = Consumer(database, self.log, handlers)

        async def keys_held() -> None:
            async with transaction(database) as tx:
                await held_keys(tx, name)

        known = Known(database, Issuer("", "", own=True))

        async def look() -> None:
            now = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint"
            [(known._since,)] = await database.fetch(now)
            await known.look()

        assert relaying
        return {
            "keys and revocations": look,
            "what is to be relayed": lambda: following(relaying, f"/{name}", 3, FEW),
            "pruning": pruner.prune,
            "held keys": keys_held,
            "retrying": lambda: retry(database, handlers, topic, "no such key"),
            "where to read": lambda: consumer._start_at(topic, 0),
        }

    async def _hear(self, database: Database, name: str, *events: Event) -> None:
        async with transaction(database) as tx:
            tx.accepts_gaps = True
            await discovery.load(name).handlers.apply(tx, heard(*events))


@asynccontextmanager
async def _steps(urls: dict[str, str]) -> AsyncIterator[dict[str, tuple[Step, "_Sessions"]]]:
    """By name; with each the sessions that it uses, all of them opened here."""
    async with AsyncExitStack() as held:
        databases = {}
        sessions = {}
        for name in discovery.names():
            databases[name] = Database(urls[name], size=1)
            await databases[name].open()
            held.push_async_callback(databases[name].close)
            relaying = await connect(urls[name])
            held.push_async_callback(relaying.close)
            sessions[name] = _Sessions(urls[name], databases[name], relaying)
        log = PostgresLog(urls["log"])
        held.push_async_callback(log.close)
        for name in discovery.names():
            await log.create_topic(name)
        sessions["log"] = _Sessions(urls["log"], log._database, None)
        steps = Steps(databases["users"], databases["orders"], log)
        found = {
            "users": steps.of_users(sessions["users"].relaying),
            "orders": steps.of_orders(sessions["orders"].relaying),
            "log": steps.of_log(),
        }
        yield {
            f"{name}: {what}": (step, sessions[name])
            for name, each in found.items()
            for what, step in each.items()
        }


@pytest.mark.usefixtures("only_shipped_services")
@pytest.mark.parametrize("planned", ["small", *heavy("empty and analysed", "small and analysed")])
async def test_no_statement_reads_a_table_whole_that_has_grown_since_it_was_planned(
    databases: Databases, planned: str
) -> None:
    urls = {"users": databases.users, "orders": databases.orders, "log": databases.log}
    _execute(urls, _NO_AUTOVACUUM)
    async with _steps(urls) as steps:
        if planned.startswith("small"):
            _fill(urls, 1, SMALL)
        if planned.endswith("analysed"):
            _execute(urls, "VACUUM ANALYZE")
        for step, _ in steps.values():
            for _ in range(OFTEN):
                await step()
        _fill(urls, GROWN, 2 * GROWN)
        read = {what: await sessions.read_by(step) for what, (step, sessions) in steps.items()}
    assert {what: rows for what, rows in read.items() if rows > READ_AT_MOST} == {}
    # Nor has nothing been counted.
    assert sum(read.values()) > 5 * FEW
