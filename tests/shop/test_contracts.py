"""What travels between services, as it is recorded beside the contracts: an example of every version."""

import json
from typing import Any

import pytest

from eventspine.event import Event, NotAnEvent, decode
from eventspine.upcasting import read_events
from shop.contracts.orders import OrderPlaced
from shop.contracts.users import UserCreated
from shop.platform import discovery
from tests.support.golden import GOLDEN, Golden

every_version = pytest.mark.parametrize("golden", GOLDEN.values(), ids=GOLDEN)
current = pytest.mark.parametrize(
    "golden",
    [golden for golden in GOLDEN.values() if golden.is_current],
    ids=[name for name, golden in GOLDEN.items() if golden.is_current],
)


@every_version
def test_an_event_of_any_version_can_be_read(golden: Golden) -> None:
    headers = golden.record.headers
    (event,) = read_events(golden.event_class, [golden.record])
    assert type(event) is golden.event_class
    assert (event.topic, event.source, event.type) == (
        golden.record.topic, headers["ce_source"], headers["ce_type"]
    )  # fmt: skip
    assert (event.key, event.version) == (golden.record.key, golden.data["version"])


@current
def test_the_data_of_an_event_never_changes(golden: Golden) -> None:
    (event,) = read_events(golden.event_class, [golden.record])
    built = golden.event_class(**event.model_dump())
    assert built == event
    for written in (event, built):
        data = json.loads(written.as_json())
        assert {name: data[name] for name in golden.data} == golden.data


@every_version
def test_a_reader_minds_no_field_it_does_not_know(golden: Golden) -> None:
    newer = json.dumps({**golden.data, "added_later": {"x": [1]}}).encode()
    with_more = golden.record._replace(value=newer)
    assert read_events(golden.event_class, [with_more]) == read_events(
        golden.event_class, [golden.record]
    )


def test_every_event_there_is_has_an_example_of_each_version() -> None:
    defined = {
        (kind.type, version)
        for name in discovery.names()
        for kind in discovery.contracts(name)
        for version in range(1, kind.schema_version + 1)
    }
    recorded = {
        (found.record.headers["ce_type"], int(found.record.headers["ce_dataversion"]))
        for found in GOLDEN.values()
    }
    assert recorded == defined


@pytest.mark.parametrize("name", discovery.names())
def test_a_service_publishes_under_its_own_name_and_listens_to_others(name: str) -> None:
    service = discovery.load(name)
    assert (service.topic, service.source) == (name, f"/{name}")
    assert service.handlers.consumer == name
    assert service.topic not in service.handlers.topics


@pytest.mark.parametrize("name", discovery.names())
def test_a_service_answers_every_event_of_the_topics_it_listens_to(name: str) -> None:
    handlers = discovery.load(name).handlers
    for golden in GOLDEN.values():
        event = golden.event_class
        if event.topic in handlers.topics:
            assert handlers.event_class(event.topic, event.type) is event


USER, ORDER = GOLDEN["user.created 1"].data, GOLDEN["order.placed 1"].data


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
def test_a_value_that_no_column_can_hold_is_no_event_and_its_field_is_named(field: str) -> None:
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
