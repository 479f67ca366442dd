"""What a database sets for its sessions changes no answer and no event."""

import asyncio
import re
from collections.abc import Iterator

import pytest
from psycopg import sql

from eventspine.backlog import following
from eventspine.context import Request
from eventspine.database import Database, connect
from eventspine.outbox import transaction
from shop.services.users import actions, queries
from shop.services.users.schemas import CreateUser, GetUser, ListUserOrders, UpdateUser
from tests.support.databases import NewDatabase
from tests.support.serving import Served, serving
from tests.support.shop_events import order_placed

# Categories of pg_settings whose settings change what a value looks like, or what a statement means.
LOOKS = (
    "Client Connection Defaults",
    "Error Handling",
    "Version and Platform Compatibility",
)

LIMIT = "300ms"
LONGER = 0.4

UNUSUAL = {
    "DateStyle": "German, DMY",
    "TimeZone": "Asia/Tokyo",
    "timezone_abbreviations": "India",
    "client_encoding": "LATIN1",
    "search_path": "nowhere, pg_catalog",
    "default_text_search_config": "pg_catalog.german",
    "lc_monetary": "C.UTF-8",
    "lc_numeric": "C.UTF-8",
    "lc_time": "C.UTF-8",
    "lc_messages": "C.UTF-8",
    "restrict_nonsystem_relation_kind": "view, foreign-table",
    "createrole_self_grant": "set, inherit",
    "application_name": "somebody's",
    "extra_float_digits": "-15",
    "IntervalStyle": "sql_standard",
    "default_transaction_isolation": "serializable",
    "idle_session_timeout": LIMIT,
    "idle_in_transaction_session_timeout": LIMIT,
    "transaction_timeout": LIMIT,
    "statement_timeout": LIMIT,
    "lock_timeout": LIMIT,
    # All of them would take all the memory of the machine.
    "work_mem": "64kB",
    "temp_buffers": "100",
    "maintenance_work_mem": "64kB",
    "logical_decoding_work_mem": "64kB",
}

NOT_SET = {
    "default_table_access_method": "there is no other",
    "default_toast_compression": "there is no other",
    "default_tablespace": "where tables are kept is the operator's choice",
    "temp_tablespaces": "likewise",
    "local_preload_libraries": "which libraries a server loads is the operator's choice",
    "session_preload_libraries": "likewise",
    "dynamic_library_path": "likewise",
    "extension_control_path": "likewise",
    "output_plugin_libraries": "likewise",
    "transaction_isolation": "of one transaction; can't be set for a database",
    "transaction_read_only": "likewise",
    "transaction_deferrable": "likewise",
    "debug_discard_caches": "makes everything a hundred times slower",
}


@pytest.fixture(scope="module")
def users(new_database: NewDatabase, templates: dict[str, str]) -> Iterator[Served]:
    with serving("users", new_database(templates["users"])) as served:
        served.hears(order_placed(1, 1), order_placed(2, 1))
        # As they were at a certain moment, so that they are the same bytes each time.
        served.rows(
            "INSERT INTO users (email, name, created_at) VALUES ('Zoë@example.com', 'Zoë ☕ \\ O''',"
            " '2026-01-02 03:04:05.678901+00'), ('second@example.com', 'S', now()) RETURNING id"
        )
        served.rows(
            "INSERT INTO outbox SELECT 1, 'users', '1', 'user.created', 1, 1,"
            ' \'2026-01-02 03:04:05.678901+00\', \'{"id": 1, "name": "Zoë"}\', NULL RETURNING 1'
        )
        served.rows("UPDATE outbox_head SET position = 1 RETURNING 1")
        yield served


def settings_of(served: Served) -> dict[str, tuple[str, str]]:
    """Those that whoever owns a database, or a superuser, may set for it: category and a value."""
    found = {}
    for name, category, setting, kind, values, low, high in served.rows(
        "SELECT name, category, setting, vartype, enumvals, min_val, max_val FROM pg_settings"
        " WHERE context IN ('user', 'superuser') ORDER BY name"
    ):
        if name in NOT_SET:
            continue
        if kind == "bool":
            value = "off" if setting == "on" else "on"
        elif kind == "enum":
            value = next(value for value in values if value != setting)
        elif kind in {"integer", "real"}:
            value = high if low == setting else low
        else:
            value = UNUSUAL.get(name, "")
        found[name] = (category, UNUSUAL.get(name, value))
    return found


def set_for_all(served: Served, values: dict[str, str]) -> None:
    """For the sessions that begin from now on."""
    database = sql.Identifier(served.connection.info.dbname)
    with served.connection.transaction():
        for name, value in values.items():
            # A list is several values, and not one with a comma in it.
            parts = value.split(", ") if name == "search_path" else [value]
            served.connection.execute(
                sql.SQL("ALTER DATABASE {} SET {} TO {}").format(
                    database, sql.Identifier(name), sql.SQL(", ").join(map(sql.Literal, parts))
                )
            )


def reset_for_all(served: Served) -> None:
    database = sql.Identifier(served.connection.info.dbname)
    served.connection.execute(sql.SQL("ALTER DATABASE {} RESET ALL").format(database))


async def read_and_refused(url: str, *, takes: float = 0.0) -> list[str]:
    """What new sessions read, refusals, and an event: each to the byte.

    A session is idle, in a transaction, and at one statement for as many seconds as it `takes`.
    """
    database = Database(url, size=1)
    await database.open()
    connection = await connect(url)
    try:
        await asyncio.sleep(takes)
        async with transaction(database) as tx:
            await tx.execute("SELECT pg_sleep(%(takes)s)", {"takes": takes})
            await asyncio.sleep(takes)
            # By the error of an index, and by a look-up.
            refused = [
                *await actions.update(tx, [Request(UpdateUser(2, "ZOË@example.com", None, None))])
            ]
            refused += await actions.create(tx, [Request(CreateUser("zoë@EXAMPLE.com", "Zoë"))])
        users = await queries.get(database, [GetUser(1), GetUser(4294967296)])
        orders = await queries.orders_of(database, [ListUserOrders(1, 2**60, 10)])
        [messages] = (await following(connection, "/users", 0, 1)).by_topic().values()
        views = [each.model_dump_json() for each in (users[0], *orders)]  # type: ignore[union-attr]
        return [*views, *map(repr, [*refused, *users[1:], *messages])]
    finally:
        await connection.close()
        await database.close()


def answers(served: Served, number: int) -> list[bytes]:
    """The API's; of a new user, without the number and the time."""
    client, new = served.client, {"email": f"new{number}@example.com", "name": "☕"}
    key = {"Idempotency-Key": f"key-{number}"}
    first = client.post("/users", json=new, headers=key)
    assert client.post("/users", json=new, headers=key).content == first.content
    timeless = re.sub(
        rb'"created_at":"2\d{3}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{1,6}Z"', b"<time>", first.content
    )
    return [
        re.sub(rb'"(id|email)":("new\d+@|\d+,)', rb'"\1":<new>', timeless),
        *(
            b"%d %s" % (answer.status_code, answer.content)
            for answer in (
                client.post("/users", json=new),
                client.get("/users/1"),
                client.get("/users/1/orders"),
                client.get("/users/4294967296"),
            )
        ),
    ]


@pytest.mark.heavy
async def test_no_setting_of_a_database_changes_an_answer_or_an_event(users: Served) -> None:
    expected = await read_and_refused(users.database_url)
    assert "2026-01-02T03:04:05.678901Z" in "".join(expected)
    differ = {}
    for name, (category, value) in settings_of(users).items():
        if category.startswith(LOOKS):
            set_for_all(users, {name: value})
            try:
                takes = LONGER if value == LIMIT else 0.0
                found = await read_and_refused(users.database_url, takes=takes)
                if found != expected:
                    differ[f"{name} = {value}"] = found
            except Exception as error:
                differ[f"{name} = {value}"] = [repr(error)]
            finally:
                reset_for_all(users)
    assert differ == {}


async def test_all_that_a_database_can_set_at_once_changes_no_answer_and_no_event(
    users: Served,
) -> None:
    url = users.database_url
    expected = [*answers(users, 1), *await read_and_refused(url)]
    set_for_all(users, {name: value for name, (_, value) in settings_of(users).items()})
    try:
        users.rows(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        assert [*answers(users, 2), *await read_and_refused(url)] == expected
    finally:
        reset_for_all(users)


def test_settings_left_out_of_the_walk_are_known_to_postgresql(users: Served) -> None:
    [(known,)] = users.rows("SELECT array_agg(name) FROM pg_settings")
    # An older release lacks a few of them.
    assert len({*UNUSUAL, *NOT_SET} - set(known)) <= 5
