"""The spans of one order, from the four processes that have to do with it, as a collector gets them."""

from collections.abc import Iterator

import pytest

from tests.support.collector import Collector, Seen, collecting
from tests.support.engines import Engine
from tests.support.folders import short_directory
from tests.support.shop import Shop, new_order, new_user

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CLIENT = "00f067aa0ba902b7"
SENT = {"traceparent": f"00-{TRACE}-{CLIENT}-01", "tracestate": "vendor=1"}


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@pytest.fixture
def shop(engine: Engine, collector: Collector) -> Iterator[Shop]:
    engine.forget()
    with short_directory() as directory:
        shop = Shop(
            directory / "data",
            engine.up_options,
            SHOP_TELEMETRY__OTLP_ENDPOINT=collector.url,
            SHOP_TELEMETRY__TRACES_RATIO=0,
        )
        try:
            shop.start()
            yield shop
        finally:
            shop.close()


@pytest.mark.heavy
def test_an_order_can_be_followed_through_four_processes(
    shop: Shop, collector: Collector, engine: Engine
) -> None:
    user = shop.users.post("/users", json=new_user(), headers=SENT).json()["id"]
    shop.users.post("/users", json=new_user())  # is not traced
    placed = shop.orders.post("/orders", json=new_order(user), headers=SENT)
    assert placed.status_code == 201, placed.text
    spans = collector.until(
        "POST /users", "append users", "process users", "POST /orders", "append orders", "process orders"
    )  # fmt: skip

    def one(name: str) -> Seen:
        found = [span for span in spans if span.name == name]
        assert len(found) == 1, found
        return found[0]

    for requested, topic, api, relay, consumer in (
        ("POST /users", "users", "users-api", "users-worker", "orders-worker"),
        ("POST /orders", "orders", "orders-api", "orders-worker", "users-worker"),
    ):
        request, append, process = one(requested), one(f"append {topic}"), one(f"process {topic}")
        assert (request.process, append.process, process.process) == (api, relay, consumer)
        assert (request.kind, append.kind, process.kind) == ("SERVER", "PRODUCER", "CONSUMER")
        # Client → request → the batches of its event.
        assert request.parent == CLIENT
        assert append.parent == process.parent == request.id
        for batch in (append, process):
            assert [(link.trace, link.span) for link in batch.links] == [(TRACE, request.id)]
            assert batch.links[0].attributes["messaging.message.id"] == "1"
            assert batch.attributes["messaging.destination.name"] == topic
            assert batch.attributes["messaging.batch.message_count"] >= 1
            system = "kafka" if engine.name == "kafka" else "postgresql"
            assert batch.attributes["messaging.system"] == system
            assert not batch.is_error
    assert {span.trace for span in spans} == {TRACE}
    assert {span.state for span in spans} == {"vendor=1"}
