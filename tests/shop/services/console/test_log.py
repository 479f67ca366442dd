"""The page of the log: what is shown, in which order, how far it looked, and what comes."""

import itertools
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta

import httpx
import psycopg
import pytest

from eventspine.log import Message
from eventspine.postgres_log import PostgresLog
from eventspine.seeking import offsets_at
from shop.services.console.records import (
    Filter,
    ends,
    following,
    newest,
    places_of,
    places_text,
)
from shop.services.console.tailing import Tail
from tests.support.consoles import console
from tests.support.databases import Databases
from tests.support.living import living
from tests.support.waiting import at_best_async

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
async def log(log_url: str) -> AsyncIterator[PostgresLog]:
    made = PostgresLog(log_url)
    yield made
    await made.close()


async def fill(log: PostgresLog, count: int, *, partitions: int = 3) -> None:
    """Events a second apart, and now and then a foreign record."""
    await log.create_topic("notes", partitions)
    messages = []
    for number in range(count):
        at = (BEGAN + timedelta(seconds=number)).isoformat()
        headers = {
            "ce_time": at,
            "ce_type": "note.taken" if number % 2 else "note.dropped",
            "ce_id": str(number + 1),
        }
        messages.append(
            Message(str(number % 17), b'{"id": %d}' % number, {} if number % 50 == 7 else headers)
        )
    await log.append("notes", messages)


@pytest.mark.parametrize(
    "wanted", [Filter(), Filter(type="taken"), Filter(key="5"), Filter(text="no such")]
)
async def test_look_after_look_shows_each_matching_record_once_newest_first(
    log: PostgresLog, wanted: Filter
) -> None:
    await fill(log, 1000)
    before = await ends(log, ["notes"])
    seen: list[tuple[int, int]] = []
    times: list[datetime] = []
    looks = 0
    while any(before.values()):
        found = await newest(log, wanted, before, 40)
        seen += [(each.record.partition, each.record.offset) for each in found.events]
        times += [each.time for each in found.events if each.time]
        assert found.places != before, "each look goes further"
        before = found.places
        looks += 1
    expected = [
        (record.partition, record.offset)
        for partition in range(3)
        for record in await log.read("notes", partition, 0, 1000)
        if wanted.matches(record)
    ]
    assert sorted(seen) == sorted(expected)
    assert times == sorted(times, reverse=True)
    assert looks < 60


@pytest.mark.parametrize("second", [0, 1, 123, 300, 599, 700])
async def test_from_a_time_on_each_record_is_shown_once_oldest_first(
    log: PostgresLog, second: int
) -> None:
    await fill(log, 600)
    places = await offsets_at(log, await ends(log, ["notes"]), BEGAN + timedelta(seconds=second))
    numbers: list[int] = []
    more = True
    while more:
        found = await following(log, Filter(), places, 50)
        numbers += [int(each.id) for each in found.events if each.id]
        places, more = found.places, found.more
    assert numbers == [number + 1 for number in range(second, 600) if number % 50 != 7]


def test_places_in_an_address_are_read_back_and_others_are_left_out() -> None:
    places = {("orders", 0): 7, ("a:b", 11): 0}
    assert places_of(places_text(places), ["orders", "a:b"]) == places
    assert places_of("orders:x:1,orders:1,users:0:5,orders:0:" + "9" * 30, ["orders"]) == {}


@pytest.fixture(scope="module")
def served(settled: Databases) -> Iterator[httpx.Client]:
    with console(settled) as client:
        yield client


def rows(page: str) -> list[tuple[str, str]]:
    """Place and type of each event on a page."""
    found = re.findall(
        r'<a class="event" href="/log/([^"]+)".*?<span class="type">([^<]+)<', page, re.DOTALL
    )
    return [(place, type_) for place, type_ in found]


def test_filters_stay_in_the_address_and_in_the_form(served: httpx.Client) -> None:
    page = served.get("/log?type=cancelled&topic=orders&key=5").text
    assert [type_ for _, type_ in rows(page)] == ["order.cancelled"]
    assert 'name="type" list="types" value="cancelled"' in page
    assert "<option selected>orders</option>" in page
    assert "topic=orders" in page.split('hx-sse:connect="')[1].split('"')[0]
    assert rows(served.get("/log?header=ce_id=3&topic=users").text)
    assert not rows(served.get("/log?header=ce_id=nothing").text)


def test_one_record_has_a_page_of_its_own_with_all_that_it_holds(served: httpx.Client) -> None:
    [(place, _), *_] = rows(served.get("/log?type=placed&key=3").text)
    page = served.get(f"/log/{place}")
    assert page.status_code == 200
    for held in (
        "ce_specversion",
        "order.placed",
        "&#34;product&#34;: &#34;tea&#34;",
        "/timeline?q=orders/3",
    ):
        assert held in page.text
    part = served.get(f"/log/{place}", headers={"HX-Request": "true"})
    assert "<html" not in part.text
    assert served.get("/log/orders/0/999999").status_code == 404
    assert served.get("/log/nothing/0/0").status_code == 404
    assert served.get("/log/orders/0/99999999999999999999").status_code == 404


def test_a_time_that_can_not_be_read_is_said_and_the_page_stays(served: httpx.Client) -> None:
    page = served.get("/log?at=yesterday")
    assert page.status_code == 200
    assert "is not a time like" in page.text
    assert rows(page.text)


def test_what_a_record_holds_is_shown_as_text(databases: Databases) -> None:
    evil = "<script>alert(1)</script>"
    with psycopg.connect(databases.log, autocommit=True) as connection:
        connection.execute("INSERT INTO log_heads VALUES ('orders', 0, 2)")
        connection.execute(
            "INSERT INTO log_records VALUES ('orders', 0, 0, %s, %s, %s), ('orders', 0, 1, NULL, NULL, '{}')",
            [evil, f'{{"product": "{evil}"}}', f'{{"ce_type": "{evil}"}}'],
        )
    with console(databases) as client:
        for path in ("/log", "/log/orders/0/0", "/log/orders/0/1"):
            page = client.get(path)
            assert page.status_code == 200
            assert evil not in page.text
        assert "a tombstone" in client.get("/log/orders/0/1").text


async def test_an_order_that_is_placed_is_in_the_stream_within_a_second(
    databases: Databases,
) -> None:
    async with living(databases) as system, system.moving():
        await system.create(1)
        await system.settled()
        with console(databases) as client:
            page = client.get("/log?topic=orders").text
            url = page.split('hx-sse:connect="')[1].split('"')[0].replace("&amp;", "&")
            # Placed after the page, before its stream: it is not missed.
            await system.place(1)
            await system.settled()
            async with (
                httpx.AsyncClient(base_url=client.base_url, timeout=60) as browser,
                browser.stream("GET", url) as answer,
            ):
                lines = answer.aiter_lines()
                assert await until_line(lines, "orders/0@0")
                offsets = itertools.count(1)

                async def took() -> float:
                    await system.place(1)
                    began = time.monotonic()
                    assert await until_line(lines, f"orders/0@{next(offsets)}")
                    return time.monotonic() - began

                await at_best_async(took, 1.0)


async def until_line(lines: AsyncIterator[str], text: str) -> bool:
    async for line in lines:
        if text in line:
            return True
    return False


async def test_the_log_is_read_only_while_somebody_watches(log: PostgresLog) -> None:
    await fill(log, 10)
    tail = Tail(log, ["notes"])

    def reads() -> bool:
        return tail._task is not None and not tail._task.done()

    assert not reads()
    async with aclosing(tail.news({})) as first:
        await anext(first)
        async with aclosing(tail.news(await ends(log, ["notes"]))) as second:
            await anext(second)
            assert reads()
        assert reads(), "the other still watches"
    assert not reads()


async def test_what_comes_too_fast_is_skipped_and_counted(log: PostgresLog) -> None:
    await fill(log, 2000, partitions=1)
    tail = Tail(log, ["notes"])
    news = await anext(tail.news({("notes", 0): 0}))
    assert news is not None
    assert (len(news.records), news.skipped) == (500, 1500)
    assert news.records[-1].offset == 1999
    await tail.close()
