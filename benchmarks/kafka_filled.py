"""Events of users and orders, put straight into Kafka as the relay would: for millions of them."""

from collections.abc import Iterator

from confluent_kafka import Producer

from devstack.kafka import LocalKafka
from eventspine.event import message

_TIME = "2026-11-26T12:00:00.123456+00:00"
_USER = (
    '{"id": %d, "name": "User %d", "email": "user%d@example.com", "version": 1,'
    f' "created_at": "{_TIME}"}}'
)
_ORDER = (
    '{"id": %d, "status": "placed", "product": "coffee", "user_id": %d, "version": 1,'
    ' "quantity": %d, "placed_at": "2026-11-26T12:00:00.%06d+00:00", "total_price": "%d.50"}'
)

_Event = tuple[int, int, str, str]
"""Position, key, type and data."""


def users(count: int, *, after: int = 0) -> Iterator[_Event]:
    for n in range(after + 1, after + count + 1):
        yield n, n, "user.created", _USER % (n, n, n)


def orders(count: int, *, of: int, after: int = 0, after_position: int = 0) -> Iterator[_Event]:
    """So many for `of` users. `after` is the last id, `after_position` the last position."""
    for n in range(1, count + 1):
        id_ = after + n
        data = _ORDER % (id_, n % of + 1, n % 1000 + 1, n % 1_000_000, n % 90 + 10)
        yield after_position + n, id_, "order.placed", data


def fill(kafka: LocalKafka, topic: str, events: Iterator[_Event]) -> None:
    """Returns when all are confirmed."""
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
    for position, key, type_, data in events:
        headers = message(f"/{topic}", str(position), str(key), type_, "1", _TIME, b"", None)
        packed: list[tuple[str, str | bytes | None]] = [
            (name, value.encode()) for name, value in headers.headers.items()
        ]
        while True:
            try:
                producer.produce(topic, key=str(key), value=data, headers=packed)
            except BufferError:
                producer.poll(0.1)
            else:
                break
    if left := producer.flush(60):
        raise TimeoutError(f"Kafka did not confirm {left} records")
