"""A million events, for the tests of the console: in the databases, in the log, and the pages that show them."""

import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import httpx
import psutil
import psycopg
from confluent_kafka import Producer

from devstack.kafka import LocalKafka
from tests.support.databases import Databases
from tests.support.waiting import at_best

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

_FIRST = datetime(2026, 1, 1, tzinfo=UTC)


def fill_orders(urls: Databases) -> None:
    """A million orders and their events in the outbox, all of them relayed."""
    with psycopg.connect(urls.orders, autocommit=True) as connection:
        for statement in (
            _ORDERS,
            _OUTBOX,
            f"UPDATE outbox_head SET position = {EVENTS}",
            f"INSERT INTO relay (source, position, epoch) VALUES ('/orders', {EVENTS}, 1)",
            "VACUUM ANALYZE",
        ):
            connection.execute(statement.encode())


def fill_log(urls: Databases) -> None:
    """The events in the log that is a table, in one partition."""
    with psycopg.connect(urls.log, autocommit=True) as connection:
        for statement in (
            f"INSERT INTO log_heads VALUES ('orders', 0, {EVENTS}), ('users', 0, 0)",
            _LOG,
            "VACUUM ANALYZE",
        ):
            connection.execute(statement.encode())


def fill_kafka(kafka: LocalKafka) -> None:
    """The same events in Kafka. They are appended now, long after their times, as those of a copied log are."""
    producer = Producer(
        {
            "bootstrap.servers": kafka.bootstrap_servers,
            "enable.idempotence": True,
            "compression.type": "lz4",
            "linger.ms": 50,
            "partitioner": "murmur2_random",
            "queue.buffering.max.messages": 200_000,
        }
    )
    for position, key, type_, data in _events():
        headers: list[tuple[str, str | bytes | None]] = [
            ("ce_id", str(position)),
            ("ce_source", "/orders"),
            ("ce_type", type_),
            ("ce_time", (_FIRST + timedelta(seconds=position)).isoformat()),
        ]
        while True:
            try:
                producer.produce("orders", key=str(key), value=data, headers=headers)
            except BufferError:
                producer.poll(0.1)
            else:
                break
    assert producer.flush(60) == 0


def _events() -> Iterator[tuple[int, int, str, str]]:
    for position in range(1, EVENTS + 1):
        again = position % 100 == 0 and position > EVENTS // 2
        key = position - EVENTS // 2 if again else position
        type_, version = ("order.cancelled", 2) if again else ("order.placed", 1)
        data = f'{{"id": {key}, "version": {version}, "product": "tea", "status": "placed"}}'
        yield position, key, type_, data


PAGES = [
    "/log",
    "/log?type=cancelled",
    "/log?text=nowhere",
    "/log?topic=orders&key=77",
    "/log?at=2026-01-05",
    "/log?before=orders:0:60000&text=nowhere",
    "/log/orders/0/54321",
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


def look_at_every_page(client: httpx.Client, **within: float) -> None:
    """Prints the seconds of each. Fails if one is never quicker than `WITHIN_S`, or `within` if its path is there."""
    for path in pages(client):

        def took(path: str = path) -> float:
            began = time.perf_counter()
            answer = client.get(path, follow_redirects=True)
            assert answer.status_code == 200, path
            return time.perf_counter() - began

        print(f"{path}: {at_best(took, within.get(path, WITHIN_S), tries=15):.3f} s")


def memory_gained(client: httpx.Client) -> int:
    """By this process, in which the console is served, in ten rounds through all pages. Bytes."""
    process = psutil.Process()
    for path in pages(client):
        client.get(path, follow_redirects=True)
    before: int = process.memory_info().rss
    for _ in range(10):
        for path in pages(client):
            client.get(path, follow_redirects=True)
    return int(process.memory_info().rss) - before
