"""The page of a story: what it finds, in which order, what it says of each step, and what it does not know."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from html import unescape

import httpx
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from eventspine.context import Context, Request
from eventspine.outbox import transaction
from shop.services.console import outboxes
from shop.services.console.journeys import changes
from shop.services.console.outboxes import Published
from shop.services.console.questions import Entity, meaning
from shop.services.console.reading import Reading
from shop.services.orders import actions as orders
from shop.services.orders.schemas import PlaceOrder
from tests.support.consoles import console, console_settings
from tests.support.databases import Databases, NewDatabase
from tests.support.living import living
from tests.support.waiting import until

TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture(scope="module")
def served(settled: Databases, new_database: NewDatabase) -> Iterator[httpx.Client]:
    # Of a copy, because nobody may be connected to what others copy.
    names = {name: str(conninfo_to_dict(url)["dbname"]) for name, url in settled.items()}
    with console(Databases({name: new_database(own) for name, own in names.items()})) as client:
        yield client


def events(page: str) -> list[str]:
    """Each event's type and version, in the order of the page."""
    return re.findall(r'<article class="card journey" aria-label="([^"]+)"', page)


def steps(page: str) -> list[tuple[str, str]]:
    """Name and sentence of each step."""
    found = re.findall(
        r"<li[^>]*>\s*<b>([^<]+)</b>.*?<span class=\"says\">(.*?)</span>\s*</li>", page, re.DOTALL
    )
    return [(name, unescape(re.sub(r"<[^>]+>|\s+", " ", said))) for name, said in found]


def test_the_story_of_an_order_is_complete_and_in_order(served: httpx.Client) -> None:
    page = served.get("/timeline?q=orders/5").text
    assert events(page) == ["order.placed, version 1", "order.cancelled, version 2"]
    names = [name for name, _ in steps(page)]
    assert names[:4] == ["request", "commit", "append", "users applies"]
    assert "What it began with" in page
    changed = page.split("<h3>What changed")[1]
    assert re.search(r"<td>status</td><td class=\"old\">placed</td><td>cancelled</td>", changed)
    assert "searched back" not in page


def test_what_is_not_recorded_is_said(served: httpx.Client) -> None:
    said = dict(steps(served.get("/timeline?q=orders/6").text))
    assert "when it came is not recorded" in said["request"]
    assert "the caller is not recorded" in said["request"]
    assert "when is not recorded: the console did not watch then" in said["users applies"]


@pytest.mark.parametrize("q", ["user 3", "users/3", "USERS#3"])
def test_a_user_is_found_by_its_id(served: httpx.Client, q: str) -> None:
    page = served.get("/timeline", params={"q": q}).text
    assert events(page) == ["user.created, version 1", "user.updated, version 2"]


def test_a_user_is_found_by_its_address_in_any_case(
    served: httpx.Client, settled: Databases
) -> None:
    with psycopg.connect(settled.users) as connection:
        [(email,)] = connection.execute("SELECT email FROM users WHERE id = 7").fetchall()
    page = served.get("/timeline", params={"q": email.upper()}).text
    assert events(page) == ["user.created, version 1"]
    assert "users 7" in page


def test_an_id_that_several_have_is_a_choice(served: httpx.Client) -> None:
    page = served.get("/timeline?q=5").text
    assert "/timeline?q=orders/5" in page
    assert "/timeline?q=users/5" in page
    assert not events(page)


@pytest.mark.parametrize(
    "q",
    [
        "999999",
        "9" * 40,
        "nobody@example.com",
        "'; DROP TABLE orders",
        "orders/x",
        "users/" + "7" * 25,
        "\x00",
    ],
)
def test_what_nobody_has_is_said(served: httpx.Client, q: str) -> None:
    answer = served.get("/timeline", params={"q": q})
    assert answer.status_code == 200
    assert not events(answer.text)
    assert re.search(
        "No service knows it|Nobody has it|has no row|Nothing was published", answer.text
    )


async def test_a_request_is_found_by_its_trace_and_its_idempotency_key(
    databases: Databases,
) -> None:
    async with living(databases) as system:
        await system.create(2)
        async with system.moving():
            await system.settled()
            context = Context(
                f"00-{TRACE}-b7ad6b7169203331-01", caller="user:1", idempotency_key="my key"
            )
            async with transaction(system.orders) as tx:
                await orders.place(tx, [Request(PlaceOrder(1, "tea", 1, Decimal(3)), context)])
                await tx.execute(
                    "INSERT INTO idempotency_keys (key_hash, fingerprint, status, headers, body)"
                    " VALUES (sha256('my key'), '', 201, '[]', '{}')"
                )
            await system.settled()
        with console(databases) as client:
            for q in (TRACE, f"00-{TRACE}-b7ad6b7169203331-01", "my key"):
                page = client.get("/timeline", params={"q": q}).text
                assert events(page) == ["order.placed, version 1"], q
            said = dict(steps(page))
            assert "answered with 201" in said["request"]
            assert "by user:1" in said["request"]
            assert f'data-copy="{TRACE}"' in page
            assert page.count('class="took">+') == 2, (
                "from the request to the commit, and from it to the append"
            )


async def test_an_event_that_is_under_way_waits_and_then_is_seen_to_arrive(
    databases: Databases,
) -> None:
    async with living(databases) as system:
        await system.create(1)
        with console(databases) as client:
            said = dict(steps(client.get("/timeline?q=users/1").text))
            assert "it waits in the outbox" in said["append"]
            assert "it is not in the log yet" in said["orders applies"]
            until(lambda: "The first look" not in client.get("/").text)
            async with system.moving():
                await system.settled()

            def watched() -> str:
                return client.get("/timeline?q=users/1").text

            until(lambda: "between two looks" in dict(steps(watched()))["orders applies"])
            assert "≤ " in watched()


def test_a_parked_event_says_why(copied: Databases) -> None:
    with psycopg.connect(copied.users, autocommit=True) as connection:
        connection.execute(
            'INSERT INTO parked (consumer, topic, "partition", "offset", position, key, headers, holds_key,'
            " cause, error) SELECT 'users', 'orders', 0, 3, 4, '4', '{}', true, 'ValueError', 'it is broken'"
        )
    with console(copied) as client:
        page = client.get("/timeline?q=orders/4").text
    assert "ValueError: it is broken" in dict(steps(page))["users applies"]
    assert '<span class="tag bad">stuck</span>' in page


def test_a_log_that_is_away_leaves_the_rest_of_the_story(
    settled: Databases, tmp_path_factory: pytest.TempPathFactory
) -> None:
    gone = f"postgresql://nobody@/gone?host={tmp_path_factory.mktemp('gone')}"
    with console(settled.but(log=gone)) as client:
        page = client.get("/timeline?q=orders/5").text
    assert events(page) == ["order.placed, version 1", "order.cancelled, version 2"]
    assert "the log can't be read" in dict(steps(page))["append"]


async def test_a_search_goes_back_step_by_step_until_all_is_found(
    settled: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With steps so small that some are needed."""
    monkeypatch.setattr(outboxes, "_CHUNK", 2)
    monkeypatch.setattr(outboxes, "_BUDGET_S", 1e-6)
    reading = Reading(console_settings(settled))
    await reading.open()
    try:
        database = reading.database("orders")
        within = await outboxes.bounds(database)
        wanted = outboxes.of_key("orders", "1")
        found, before, looks = [], within.last + 1, 0
        while before > within.first:
            of_look, before = await outboxes.back(
                database, "orders", wanted, before, within.first, 100
            )
            found += of_look
            looks += 1
            assert looks < 100
    finally:
        await reading.close()
    assert [each.version for each in found] == [2, 1]


def published(version: int, **data: object) -> Published:
    data |= {"id": 1, "version": version}
    return Published("x", version, "x", "1", "x", 1, version, datetime.now(UTC), data, {})


def test_changes_are_those_of_one_version_to_the_next() -> None:
    first, second = published(1, a=1, b=None), published(2, a=2)
    assert changes(second, first) == [("a", 1, 2)]
    assert changes(first, None) == [("a", None, 1)]
    assert changes(second, None) is None
    assert changes(published(3, a=1), first) is None, "the one between is not known"


async def test_what_a_text_may_mean(settled: Databases) -> None:
    reading = Reading(console_settings(settled))
    await reading.open()
    try:
        assert (await meaning(reading, "order 5")).entities == [Entity("orders", "5")]
        assert (await meaning(reading, TRACE)).trace == TRACE
        assert (await meaning(reading, "0" * 32)).trace == ""
        assert (await meaning(reading, "whatever")).said == ""
    finally:
        await reading.close()
