"""A million events in the log: every page is as quick as with ten, and the console's memory stays."""

import re
import time
from collections.abc import Iterator

import httpx
import psutil
import psycopg
import pytest

from tests.support.consoles import console
from tests.support.databases import Databases, NewDatabase
from tests.support.waiting import at_best

pytestmark = pytest.mark.heavy

EVENTS = 1_000_000
WITHIN_S = 0.3

# One in a hundred orders has a second event, half a million positions later.
_ORDERS = f"""
INSERT INTO orders (id, user_id, product, quantity, total_price, status, version, placed_at)
OVERRIDING SYSTEM VALUE
SELECT n, 1 + n % 1000, 'tea', 1, 2, 'placed', CASE WHEN n % 100 = 0 AND n <= {EVENTS} / 2 THEN 2 ELSE 1 END,
    timestamptz '2026-01-01' + n * interval '1 second'
FROM generate_series(1, {EVENTS}) AS n
"""
_EVENTS = f"""
SELECT n AS position, CASE WHEN again THEN n - {EVENTS} / 2 ELSE n END AS key,
    CASE WHEN again THEN 'order.cancelled' ELSE 'order.placed' END AS type,
    CASE WHEN again THEN 2 ELSE 1 END AS version, timestamptz '2026-01-01' + n * interval '1 second' AS time
FROM (SELECT n, n % 100 = 0 AND n > {EVENTS} / 2 AS again FROM generate_series(1, {EVENTS}) AS n) AS numbered
"""
_OUTBOX = f"""
INSERT INTO outbox (position, topic, key, type, schema_version, version, time, data, headers)
SELECT position, 'orders', key::text, type, 1, version, time,
    jsonb_build_object('id', key, 'version', version, 'product', 'tea', 'status', 'placed'),
    jsonb_build_object('traceparent', '00-' || md5(position::text) || '-b7ad6b7169203331-01')
FROM ({_EVENTS}) AS events
"""
_LOG = f"""
INSERT INTO log_records (topic, "partition", "offset", key, value, headers, appended_at)
SELECT 'orders', 0, position - 1, key::text,
    json_build_object('id', key, 'version', version, 'product', 'tea', 'status', 'placed')::text,
    json_build_object('ce_id', position::text, 'ce_source', '/orders', 'ce_type', type,
        'ce_time', to_char(time, 'YYYY-MM-DD"T"HH24:MI:SS"Z"')), time
FROM ({_EVENTS}) AS events
"""


@pytest.fixture(scope="module")
def served(new_database: NewDatabase, templates: dict[str, str]) -> Iterator[httpx.Client]:
    urls = Databases({name: new_database(template) for name, template in templates.items()})
    with psycopg.connect(urls.orders, autocommit=True) as connection:
        for statement in (
            _ORDERS,
            _OUTBOX,
            f"UPDATE outbox_head SET position = {EVENTS}",
            f"INSERT INTO relay (source, position, epoch) VALUES ('/orders', {EVENTS}, 1)",
            "VACUUM ANALYZE",
        ):
            connection.execute(statement.encode())
    with psycopg.connect(urls.log, autocommit=True) as connection:
        for statement in (
            f"INSERT INTO log_heads VALUES ('orders', 0, {EVENTS}), ('users', 0, 0)",
            _LOG,
            "VACUUM ANALYZE",
        ):
            connection.execute(statement.encode())
    with console(urls) as client:
        yield client


PAGES = [
    "/log",
    "/log?type=cancelled",
    "/log?text=nowhere",
    "/log?topic=orders&key=77",
    "/log?at=2026-01-05",
    "/log?before=orders:0:400000&text=nowhere",
    "/log/orders/0/654321",
    "/timeline?q=orders/1",
    "/timeline?q=orders/700001",
    "/timeline?q=orders/200000",
    "/timeline?q=orders/1000000",
    "/timeline?q=17",
    "/timeline?q=nobody@example.com",
    "/timeline?q=some%20idempotency%20key",
    f"/timeline?q={'ab' * 16}",
]


def pages(client: httpx.Client) -> list[str]:
    return [*re.findall(r'<a href="([^"]+)"', client.get("/").text), *PAGES]


def test_every_page_answers_quickly(served: httpx.Client) -> None:
    for path in pages(served):

        def took(path: str = path) -> float:
            began = time.perf_counter()
            answer = served.get(path, follow_redirects=True)
            assert answer.status_code == 200, path
            return time.perf_counter() - began

        print(f"{path}: {at_best(took, WITHIN_S, tries=15):.3f} s")


def test_what_is_far_away_is_found(served: httpx.Client) -> None:
    """Its second event is half a million positions from its first, so it takes some looks, each of them quick."""
    path, looks, found = "/timeline?q=orders/200000", 0, ""
    while path and looks < 40:
        found = served.get(path, follow_redirects=True).text
        further = re.search(r'href="(/timeline\?q=[^"]*back=[^"]+)"', found)
        path = further[1].replace("&amp;", "&") if further else ""
        looks += 1
    assert "order.cancelled, version 2" in found
    assert "order.placed, version 1" in found
    page = served.get("/log?at=2026-01-05").text
    assert 'href="/log/orders/0/345599"' in page, "the first event of that day"


def test_its_memory_stays(served: httpx.Client) -> None:
    process = psutil.Process()
    for path in pages(served):
        served.get(path, follow_redirects=True)
    before = process.memory_info().rss
    for _ in range(10):
        for path in pages(served):
            served.get(path, follow_redirects=True)
    assert process.memory_info().rss - before < 20 * 1024 * 1024
