"""What travels between services, pinned. A change here is a change for every reader of the log, and
for every event that is already in it: add fields, but never rename, retype or take one away.
"""

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from eventspine.event import Event, NotAnEvent, decode
from shop.contracts.identity import AccessChanged, SessionEnded, SigningKeyChanged
from shop.contracts.orders import OrderCancelled, OrderPlaced
from shop.contracts.users import UserCreated, UserErased, UserUpdated
from shop.platform import discovery
from tests.more.contracts.greetings import GreetingSent

SESSION = UUID("0198e9a0-0000-7000-8000-000000000001")
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
        "users /users signing_key.changed 1",
        SigningKeyChanged(
            id="key:k1",
            version=1,
            kid="k1",
            state="initial",
            public_jwk={"kty": "RSA", "e": "AQAB"},
        ),
        (
            '{"id":"key:k1","version":1,"kid":"k1","state":"initial",'
            '"public_jwk":{"kty":"RSA","e":"AQAB"}}'
        ),
    ),
    (
        "users /users access.changed 1",
        AccessChanged(
            id="access:17",
            version=3,
            subject="user:17",
            roles=["customer", "support"],
            locked=False,
            generation=3,
            reason="role_granted",
        ),
        (
            '{"id":"access:17","version":3,"subject":"user:17","roles":["customer","support"],'
            '"locked":false,"generation":3,"reason":"role_granted"}'
        ),
    ),
    (
        "users /users session.ended 1",
        SessionEnded(
            id=f"session:{SESSION}", version=1, session_id=SESSION, user_id=17, reason="signed_out"
        ),
        (
            '{"id":"session:0198e9a0-0000-7000-8000-000000000001","version":1,'
            '"session_id":"0198e9a0-0000-7000-8000-000000000001","user_id":17,"reason":"signed_out"}'
        ),
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
    (
        "greetings /greetings greeting.sent 1",
        GreetingSent(id=7, version=1, user_id=1, text="Hello", sent_at=CREATED),
        '{"id":7,"version":1,"user_id":1,"text":"Hello","sent_at":"2026-01-02T03:04:05.678900Z"}',
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
    defined = {kind for name in discovery.names() for kind in discovery.contracts(name)}
    pinned = {type(event) for _, event, _ in GOLDEN}
    missing = ", ".join(sorted(kind.__name__ for kind in defined - pinned))
    assert not missing, f"give GOLDEN an example of {missing}"
    assert pinned == defined


@pytest.mark.parametrize("name", discovery.names())
def test_a_service_publishes_under_its_own_name_and_listens_to_others(name: str) -> None:
    service = discovery.load(name)
    assert (service.topic, service.source) == (name, f"/{name}")
    assert service.handlers.consumer == name
    assert service.topic not in service.handlers.topics


@pytest.mark.parametrize("name", discovery.names())
def test_a_service_answers_every_event_of_the_topics_it_listens_to(name: str) -> None:
    handlers = discovery.load(name).handlers
    for _, event, _ in GOLDEN:
        if event.topic in handlers.topics:
            assert handlers.event_class(event.topic, event.type) is type(event)


USER, ORDER = (
    json.loads(GOLDEN[0][2]),
    next(json.loads(data) for _, event, data in GOLDEN if isinstance(event, OrderPlaced)),
)

IMPOSSIBLE: dict[str, list[Any]] = {
    "id": [2**63, "7", 7.0, True, None],
    "version": [0, 2**63, "1", 1.0],
    "user_id": [0, -1, 2**63, "1", 1.0, True],
    "product": ["", "x" * 201, "te\x00a", 1, "\ud800"],
    "quantity": [0, 2**31, "1", 1.0, True],
    "total_price": [
        "10000000000.00", "1.505", "-1.00", "NaN", "1E+9", "1E-999999999", " 1", "1_0", 1.5, "",
    ],
    "status": ["lost", 1],
    "placed_at": [
        "2026-01-02T03:04:05", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00",
        1_767_322_000, "yesterday",
    ],
    "email": ["", "x" * 255, "a@b\x00c.de"],
    "name": ["", "x" * 201, "\x00"],
    "created_at": ["2026-01-02T03:04:05", "0001-01-01T00:00:00Z", 1],
}  # fmt: skip


@pytest.mark.parametrize("field", IMPOSSIBLE)
def test_what_no_column_can_hold_is_no_event_and_the_field_is_named(field: str) -> None:
    kind, data = (OrderPlaced, ORDER) if field in ORDER else (UserCreated, USER)
    for value in IMPOSSIBLE[field]:
        with pytest.raises(NotAnEvent) as refused:
            decode(kind, [json.dumps({**data, field: value}).encode()])
        if not isinstance(value, str) or not {"\x00", "\ud800"} & set(value):
            assert f": {field}: " in str(refused.value)


WIDEST: list[tuple[type[Event], dict[str, Any]]] = [
    (UserCreated, {"id": 2**63 - 1, "version": 2**63 - 1, "email": "x" * 254, "name": "é" * 200}),
    (UserCreated, {"email": "a@b", "name": " x"}),
    (OrderPlaced, {"user_id": 2**63 - 1, "quantity": 2**31 - 1, "total_price": "9999999999.99"}),
    (OrderPlaced, {"product": "😀" * 200, "total_price": "0.00"}),
]


@pytest.mark.parametrize(("kind", "fields"), WIDEST)
def test_whatever_a_schema_takes_can_be_published_and_read(
    kind: type[Event], fields: dict[str, Any]
) -> None:
    data = {**(USER if kind is UserCreated else ORDER), **fields}
    (event,) = decode(kind, [json.dumps(data).encode()])
    assert json.loads(event.as_json()) == data
    assert kind(**event.model_dump()) == event
