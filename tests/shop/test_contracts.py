"""What travels between services, pinned. A change here is a change for every reader of the log, and
for every event that is already in it: add fields, but never rename, retype or take one away.
"""

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from eventspine.event import Event, decode
from shop import services
from shop.contracts import orders, users
from shop.contracts.orders import OrderCancelled, OrderEvent, OrderPlaced
from shop.contracts.users import UserCreated, UserErased, UserEvent, UserUpdated

CREATED = datetime(2026, 1, 2, 3, 4, 5, 678900, tzinfo=UTC)

_ORDER: dict[str, Any] = {
    "id": 7,
    "user_id": 1,
    "product": "coffee",
    "quantity": 100,
    "total_price": Decimal("50.00"),
    "placed_at": CREATED,
}

GOLDEN: list[tuple[str, Event, str]] = [
    (
        "users /users user.created 1",
        UserCreated(
            id=1, version=1, email="setiadi@example.com", name="Setiadi", created_at=CREATED
        ),
        (
            '{"id":1,"version":1,"created_at":"2026-01-02T03:04:05.678900Z",'
            '"email":"setiadi@example.com","name":"Setiadi"}'
        ),
    ),
    (
        "users /users user.updated 1",
        UserUpdated(
            id=1, version=2, email="s@example.com", name="S. Wijaya é😀", created_at=CREATED
        ),
        (
            '{"id":1,"version":2,"created_at":"2026-01-02T03:04:05.678900Z",'
            '"email":"s@example.com","name":"S. Wijaya é😀"}'
        ),
    ),
    (
        "users /users user.erased 1",
        UserErased(id=1, version=3, created_at=CREATED),
        '{"id":1,"version":3,"created_at":"2026-01-02T03:04:05.678900Z"}',
    ),
    (
        "orders /orders order.placed 1",
        OrderPlaced(version=1, status="placed", **_ORDER),
        (
            '{"id":7,"version":1,"user_id":1,"product":"coffee","quantity":100,"total_price":"50.00",'
            '"status":"placed","placed_at":"2026-01-02T03:04:05.678900Z"}'
        ),
    ),
    (
        "orders /orders order.cancelled 1",
        OrderCancelled(version=2, status="cancelled", **_ORDER),
        (
            '{"id":7,"version":2,"user_id":1,"product":"coffee","quantity":100,"total_price":"50.00",'
            '"status":"cancelled","placed_at":"2026-01-02T03:04:05.678900Z"}'
        ),
    ),
]

pinned = pytest.mark.parametrize(
    ("names", "event", "data"), GOLDEN, ids=[event.type for _, event, _ in GOLDEN]
)


@pinned
def test_the_names_of_an_event_never_change(names: str, event: Event, data: str) -> None:
    assert f"{event.topic} {event.source} {event.type} {event.schema_version}" == names


@pinned
def test_the_data_of_an_event_never_changes(names: str, event: Event, data: str) -> None:
    assert json.loads(event.model_dump_json()) == json.loads(data)


@pinned
def test_an_event_written_long_ago_can_be_read(names: str, event: Event, data: str) -> None:
    assert decode(type(event), [data.encode()]) == [event]


@pinned
def test_a_reader_minds_no_field_it_does_not_know(names: str, event: Event, data: str) -> None:
    newer = data.removesuffix("}") + ',"added_later":{"x":[1]}}'
    assert decode(type(event), [newer.encode()]) == [event]


@pinned
def test_an_event_is_keyed_by_what_it_is_about(names: str, event: Event, data: str) -> None:
    assert event.key == str(json.loads(data)["id"])


def test_every_event_there_is_is_pinned() -> None:
    defined = {
        kind
        for module in (users, orders)
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, Event)
    }
    assert {type(event) for _, event, _ in GOLDEN} == defined - {Event, UserEvent, OrderEvent}


@pytest.mark.parametrize("name", services.NAMES)
def test_a_service_publishes_under_its_own_name_and_listens_to_others(name: str) -> None:
    service = services.load(name)
    assert (service.topic, service.source) == (name, f"/{name}")
    assert service.handlers.consumer == name
    assert service.topic not in service.handlers.topics


@pytest.mark.parametrize("name", services.NAMES)
def test_a_service_answers_every_event_of_the_topics_it_listens_to(name: str) -> None:
    handlers = services.load(name).handlers
    for _, event, _ in GOLDEN:
        if event.topic in handlers.topics:
            assert handlers.event_class(event.topic, event.type) is type(event)
