"""A batch does what its commands would have done one after the other, and no command fails another."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

import psycopg
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import SecretStr

from eventspine.batching import Batcher, in_transaction
from eventspine.context import NOBODY, Context, Request
from eventspine.database import Database
from eventspine.outbox import Transaction, transaction
from shop.platform.problems import Problem
from shop.services.orders import actions as order_actions
from shop.services.orders.handlers import customers_changed
from shop.services.orders.schemas import CancelOrder, Order, PlacedOrder, PlaceOrder
from shop.services.users import actions as user_actions
from shop.services.users.schemas import CreateUser, EraseUser, HashedPassword, UpdateUser, User
from tests.support.databases import NewDatabase
from tests.support.examples import examples
from tests.support.received import heard
from tests.support.shop_events import user_created, user_erased

Action = Callable[[Transaction, Sequence[Any]], Awaitable[Sequence[Any]]]
Batch = tuple[Action, list[Any]]

ENOUGH = examples(40)


class Outcome(NamedTuple):
    """All that anybody could notice, but for the time of day."""

    results: list[Any]
    rows: list[tuple[Any, ...]]
    events: list[tuple[Any, ...]]
    head: int


class World:
    """A database that is made empty again for every run."""

    def __init__(self, database: Database, table: str, *more: str) -> None:
        """`more` are tables that are made empty, too."""
        self.database = database
        self._table = table
        self._emptied = ", ".join([table, *more, "outbox"])

    async def outcome(self, batches: Sequence[Batch]) -> Outcome:
        fetch = self.database.fetch
        async with self.database.connection() as connection:
            await connection.execute(f"TRUNCATE {self._emptied} RESTART IDENTITY")
            await connection.execute("UPDATE outbox_head SET position = 0")
        results: list[Any] = []
        for action, commands in batches:
            async with transaction(self.database) as tx:
                results += [
                    _plain(result)
                    for result in await action(tx, [Request(*command) for command in commands])
                ]
        timeless = "- 'created_at' - 'placed_at' - 'erased_at'"
        row = f"to_jsonb(t) {timeless}, to_jsonb(t)->'erased_at' = 'null'"
        rows = await fetch(f"SELECT {row} FROM {self._table} t ORDER BY id")
        events = await fetch(
            f"SELECT position, topic, key, type, schema_version, version, data {timeless}, headers "
            "FROM outbox ORDER BY position"
        )
        [(head,)] = await fetch("SELECT position FROM outbox_head")
        return Outcome(results, rows, events, head)


def _plain(result: Any) -> Any:
    if isinstance(result, Problem):
        return result.body()
    if isinstance(result, PlacedOrder):
        assert f'"id":{result.id},' in result.body.decode()
        result = Order.model_validate_json(result.body)
    return result and result.model_dump(exclude={"created_at", "placed_at"})


def one_by_one(batches: Sequence[Batch]) -> list[Batch]:
    return [(action, [command]) for action, commands in batches for command in commands]


async def assert_batches_are_their_commands(world: World, batches: Sequence[Batch]) -> None:
    together = await world.outcome(batches)
    alone = await world.outcome(one_by_one(batches))
    assert together.results == alone.results
    assert together.rows == alone.rows
    assert together.events == alone.events
    # Gapless, and the head is where the outbox ends.
    assert [event[0] for event in together.events] == list(range(1, together.head + 1))


@pytest.fixture(scope="module")
async def users_world(new_database: NewDatabase, templates: dict[str, str]) -> AsyncIterator[World]:
    database = Database(new_database(templates["users"]), size=2)
    await database.open()
    yield World(database, "users", "credentials", "access")
    await database.close()


@pytest.fixture(scope="module")
async def orders_world(
    new_database: NewDatabase, templates: dict[str, str]
) -> AsyncIterator[World]:
    """Customers 1 to 3 are known, 4 is erased, 5 is not heard of."""
    database = Database(new_database(templates["orders"]), size=2)
    await database.open()
    async with transaction(database) as tx:
        await customers_changed(tx, heard(*(user_created(id_) for id_ in (1, 2, 3, 4))))
        await customers_changed(tx, heard(user_erased(4, version=2)))
    yield World(database, "orders")
    await database.close()


traceparents = st.sampled_from([None, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"])
emails = st.sampled_from(
    ["a@example.com", "A@Example.com", "b@example.com", "B@EXAMPLE.COM", "c@c"]
)
names = st.sampled_from(["Setiadi", "Budi", 'O"Neil\\ \u2028é😀'])
ids = st.integers(1, 6)
versions = st.none() | st.lists(st.integers(1, 4), max_size=3)

contexts = traceparents.map(Context)


def requests(commands: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, Context]]:
    return st.tuples(commands, contexts)


passwords = st.sampled_from([None, HashedPassword(hash=SecretStr("hash"))])
creates = requests(st.builds(CreateUser, emails, names, passwords))
updates = requests(st.builds(UpdateUser, ids, st.none() | emails, st.none() | names, versions))
erases = requests(st.builds(EraseUser, ids, versions))
# Not `builds`, which would make up what a command need not have.
places = requests(
    st.tuples(
        st.integers(1, 5),
        names,
        st.sampled_from([1, 2, 2**31 - 1]),
        st.sampled_from([Decimal(0), Decimal("0.10"), Decimal("12.5"), Decimal("9999999999.99")]),
    ).map(lambda given: PlaceOrder(*given))
)
cancels = requests(st.builds(CancelOrder, ids, versions))


def batches_of(*kinds: tuple[Action, st.SearchStrategy[Any]]) -> st.SearchStrategy[list[Batch]]:
    """Some batches, one after the other; each of one action, with a repeated command now and then."""
    batches = [
        st.tuples(st.just(action), st.lists(commands, min_size=1, max_size=8).map(_with_a_repeat))
        for action, commands in kinds
    ]
    return st.lists(st.one_of(batches), min_size=1, max_size=5)


def _with_a_repeat(commands: list[Any]) -> list[Any]:
    return [*commands, commands[0]] if len(commands) % 3 == 0 else commands


_HANDOVER: list[tuple[Any, Sequence[Any]]] = [
    (user_actions.create, [CreateUser("a@example.com", "A"), CreateUser("b@example.com", "B")]),
    (
        user_actions.update,
        [
            # 1 gives its address up, 2 takes it, and 1 can't have it back.
            UpdateUser(1, "c@c", None, None),
            UpdateUser(2, "A@Example.com", None, [1]),
            UpdateUser(1, "a@example.com", None, None),
            UpdateUser(2, None, "Late", [1]),
        ],
    ),
    (user_actions.erase, [EraseUser(2, [1]), EraseUser(2, [2]), EraseUser(2, [2])]),
    (user_actions.create, [CreateUser("a@EXAMPLE.com", "C"), CreateUser("A@example.com", "D")]),
]
HANDOVER = [(action, [(command, NOBODY) for command in commands]) for action, commands in _HANDOVER]


@ENOUGH
@given(
    batches=batches_of(
        (user_actions.create, creates), (user_actions.update, updates), (user_actions.erase, erases)
    )
)
@example(batches=HANDOVER)
async def test_a_batch_of_the_user_service_does_what_its_commands_do_one_by_one(
    users_world: World, batches: list[Batch]
) -> None:
    await assert_batches_are_their_commands(users_world, batches)


@ENOUGH
@given(batches=batches_of((order_actions.place, places), (order_actions.cancel, cancels)))
async def test_a_batch_of_the_order_service_does_what_its_commands_do_one_by_one(
    orders_world: World, batches: list[Batch]
) -> None:
    await assert_batches_are_their_commands(orders_world, batches)


async def submit_all(batcher: Batcher[Any, Any], commands: Sequence[Any]) -> list[Any]:
    results = await asyncio.gather(
        *(batcher.submit(Request(command)) for command in commands), return_exceptions=True
    )
    await batcher.close()
    return results


@pytest.mark.parametrize("poisoned", [[0], [19], [7], [3, 4], [0, 10, 19], list(range(20))])
async def test_commands_that_raise_are_found_by_halving_and_fail_alone(
    users_world: World, poisoned: list[int]
) -> None:
    sizes: list[int] = []

    async def create(tx: Transaction, requests: Sequence[Request[CreateUser]]) -> Sequence[Any]:
        sizes.append(len(requests))
        results = await user_actions.create(tx, requests)
        # Only now, when all has been done but the commit: it must all be taken back.
        if any(request.command.name == "poison" for request in requests):
            raise RuntimeError("poison")
        return results

    await users_world.outcome([])
    commands = [
        CreateUser(f"user{n}@example.com", "poison" if n in poisoned else f"User {n}")
        for n in range(20)
    ]
    batcher = Batcher(in_transaction(users_world.database, create))
    results = await submit_all(batcher, commands)

    assert [n for n, result in enumerate(results) if isinstance(result, RuntimeError)] == poisoned
    served = [result for result in results if isinstance(result, User)]
    assert [user.email for user in served] == [c.email for c in commands if c.name != "poison"]
    assert sizes[0] == 20
    assert sizes.count(1) >= len(poisoned)
    stored = await users_world.database.fetch("SELECT id, name FROM users ORDER BY id")
    assert stored == [(user.id, user.name) for user in served]
    keys = await users_world.database.fetch("SELECT position, key FROM outbox ORDER BY position")
    assert keys == [(n, str(user.id)) for n, user in enumerate(served, 1)]


async def test_a_command_the_database_chokes_on_fails_alone(orders_world: World) -> None:
    """None that the schemas let through: this is what stands behind them."""
    await orders_world.outcome([])
    commands = [
        PlaceOrder(1, "tea", 1, Decimal(1)),
        PlaceOrder(1, "a\0b", 1, Decimal(1)),
        PlaceOrder(5, "tea", 1, Decimal(1)),
        PlaceOrder(1, "tea", 2**31, Decimal(1)),
        PlaceOrder(2, "tea", 1, Decimal(10**10)),
        PlaceOrder(3, "tea", 0, Decimal(1)),
        PlaceOrder(2, "tea", 1, Decimal(1)),
    ]
    batcher = Batcher(in_transaction(orders_world.database, order_actions.place))
    results = await submit_all(batcher, commands)
    assert [type(result).__name__ for result in results] == [
        "PlacedOrder",
        "UntranslatableCharacter",
        "UnknownCustomer",
        "NumericValueOutOfRange",
        "NumericValueOutOfRange",
        "CheckViolation",
        "PlacedOrder",
    ]
    assert all(isinstance(results[n], psycopg.Error) for n in (1, 3, 4, 5))
    placed = await orders_world.database.fetch("SELECT user_id FROM orders ORDER BY id")
    assert placed == [(1,), (2,)]
