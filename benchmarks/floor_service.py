"""The floors of `benchmarks/floors.py`: the least that a request and an event cost with the same libraries.

`app` is bare uvicorn with Pydantic: it checks the same body with the same model, and sends the same bytes.
`python -m benchmarks.floor_service sql`, `producer` and `copy` do the work of the other side without the shop. Each
reads its input as JSON from stdin, and prints the CPU time and the time that it took, in seconds, as JSON.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import psycopg
import uvloop
from psycopg import AsyncClientCursor, AsyncConnection
from starlette.types import Receive, Scope, Send

from eventspine.idempotency import _STORE, _STORING
from eventspine.outbox import _WRITE
from eventspine.session import SESSION_SETTINGS, pinned
from shop.services.orders.actions import _PLACE
from shop.services.orders.queries import _MANY
from shop.services.orders.schemas import NewOrder, Order

_ORDER = Order.model_validate_json(
    """{"id": 123456, "user_id": 123, "product": "coffee", "quantity": 100, "total_price": "42.50",
    "status": "placed", "version": 1, "placed_at": "2026-01-01T12:30:15.123456Z",
    "customer": {"name": "Customer 123", "email": "customer123@example.com"}}"""
)
_READ = [(b"etag", b'"1"'), (b"content-type", b"application/json")]
_PLACED = [_READ[0], (b"location", b"/orders/123456"), _READ[1]]


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Bare uvicorn and Pydantic, as ASGI."""
    if scope["type"] != "http":
        return
    if scope["method"] == "POST":
        NewOrder.__pydantic_validator__.validate_json((await receive())["body"])
        status, headers = 201, _PLACED
    else:
        status, headers = 200, _READ
    body = _ORDER.__pydantic_serializer__.to_json(_ORDER)
    headers = [*headers, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def sql(given: Mapping[str, Any]) -> dict[str, float]:
    """The statements of `kind`, with `batch` orders in each transaction, until `operations` are done."""
    kind, batch = given["kind"], given["batch"]
    connection = await AsyncConnection.connect(given["database"], autocommit=True)
    await connection.execute(*pinned(SESSION_SETTINGS), prepare=False)
    wanted = [
        {"user_id": n + 1, "product": "coffee", "quantity": n + 1, "total_price": "42.50"}
        for n in range(batch)
    ]
    event = _ORDER.model_dump(mode="json", exclude={"customer"})
    events = json.dumps(
        [
            {
                "t": "orders",
                "k": "123456",
                "y": "order.placed",
                "s": 1,
                "v": 1,
                "d": event,
                "h": None,
            }
            for _ in range(batch)
        ]
    )
    commands = json.dumps(wanted)
    headers = [
        ["etag", '"1"'],
        ["location", "/orders/123456"],
        ["content-type", "application/json"],
    ]
    body = _ORDER.model_dump_json()

    async def read(number: int) -> None:
        ids = [(number * batch + n) % given["orders"] + 1 for n in range(batch)]
        cursor = await connection.execute(_MANY.sql, {**_MANY.constants, "ids": ids})
        await cursor.fetchall()

    async def place(number: int) -> None:
        begin = f"BEGIN; {_STORING}" if kind == "key" else "BEGIN; "
        await connection.execute(begin.encode(), prepare=False)
        cursor = await connection.execute(_PLACE.encode(), {"commands": commands})
        await cursor.fetchall()
        if kind == "key":
            answers = [
                {
                    "key_hash": f"{given['seed']:032x}{number * batch + n:032x}",
                    "fingerprint": "00" * 33,
                    "status": 201, "headers": headers, "body": body, "about": "123",
                }
                for n in range(batch)
            ]  # fmt: skip
            await connection.execute(_STORE.encode(), {"answers": json.dumps(answers)})
        await AsyncClientCursor(connection).execute(
            f"{_WRITE}; COMMIT".encode(), {"count": batch, "events": events}
        )

    once = read if kind == "GET" else place
    for number in range(20):  # until both sides have prepared
        await once(number)
    before = time.process_time()
    began = time.perf_counter()
    times = given["operations"] // batch
    for number in range(20, 20 + times):
        await once(number)
    return {
        "cpu": (time.process_time() - before) / (times * batch),
        "took": (time.perf_counter() - began) / (times * batch),
    }


def producer(given: Mapping[str, Any]) -> dict[str, float]:
    """Send `events` records with keys and headers, flushed every `flush`."""
    from confluent_kafka import Producer  # noqa: PLC0415 - it starts threads

    from eventspine.kafka_log.appender import _SAFE, _TUNED  # noqa: PLC0415

    settings = {**_TUNED, **_SAFE, "bootstrap.servers": given["kafka"]}
    client = Producer(settings)
    records: list[tuple[bytes, bytes, list[tuple[str, str | bytes | None]]]] = [
        (key.encode(), value.encode(), [(name, text.encode()) for name, text in headers])
        for key, value, headers in given["records"]
    ]
    client.list_topics(given["topic"], timeout=10)
    before, began = time.process_time(), time.perf_counter()
    sent = 0
    while sent < given["events"]:
        for key, value, headers in records[: given["flush"]]:
            client.produce(given["topic"], value, key, headers=headers)
            sent += 1
        if client.flush(60):
            raise RuntimeError("Kafka did not confirm in a minute")
    return {
        "cpu": (time.process_time() - before) / sent,
        "took": (time.perf_counter() - began) / sent,
    }


def copy(given: Mapping[str, Any]) -> dict[str, float]:
    """COPY the rows of `customers` from the first database into the second."""
    with psycopg.connect(given["source"]) as source:
        with source.cursor().copy("COPY customers TO STDOUT") as rows:
            data = b"".join(bytes(part) for part in rows)
    count = data.count(b"\n")
    with psycopg.connect(given["database"], autocommit=True) as target:
        before, began = time.process_time(), time.perf_counter()
        with target.cursor().copy("COPY customers FROM STDIN") as into:
            into.write(data)
        return {
            "cpu": (time.process_time() - before) / count,
            "took": (time.perf_counter() - began) / count,
        }


_FLOORS: dict[str, Callable[[Mapping[str, Any]], dict[str, float]]] = {
    "sql": lambda given: uvloop.run(sql(given)),
    "producer": producer,
    "copy": copy,
}

if __name__ == "__main__":
    print(json.dumps(_FLOORS[sys.argv[1]](json.load(sys.stdin))))
