"""The judge is judged: each wrong that is planted into a right history is found."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from eventspine.log import Record
from tests.support.checker import Evidence, Outbox, faults
from tests.support.load import Action, Sent

AT = datetime(2026, 1, 2, 3, 4, 5, 678, UTC)
USER = {"id": 1, "email": "ada@example.com", "name": "Ada", "version": 1}
ORDER = {
    "id": 1, "user_id": 1, "product": "tea", "quantity": 2, "total_price": Decimal("7.50"),
    "status": "placed", "version": 1, "placed_at": AT,
}  # fmt: skip
CANCELLED = {**ORDER, "status": "cancelled", "version": 2}


def sent(action: Action, status: int | None, answer: dict[str, Any], **fields: Any) -> Sent:
    return Sent(action, fields, status, answer, 0.0, 0.0)


def published(position: int, topic: str, type_: str, row: dict[str, Any]) -> tuple[Record, Any]:
    """An event as the log has it, and as the outbox does."""
    data = {**row, "created_at": "x"} if topic == "users" else dict(row)
    if topic == "orders":
        data |= {"total_price": str(row["total_price"]), "placed_at": row["placed_at"].isoformat()}
    headers = {"ce_id": str(position), "ce_source": f"/{topic}", "ce_type": type_}
    key = str(row["id"])
    record = Record(topic, 0, position - 1, key, json.dumps(data).encode(), headers)
    return record, {"position": position, "key": key, "type": type_, "data": data}


created, created_row = published(1, "users", "user.created", USER)
placed, placed_row = published(1, "orders", "order.placed", ORDER)
cancelled, cancelled_row = published(2, "orders", "order.cancelled", CANCELLED)

TEA = {"user_id": 1, "product": "tea", "quantity": 2, "total_price": "7.50"}
RIGHT = Evidence(
    sent=[
        sent("create_user", 201, {"id": 1}, email="ada@example.com", name="Ada"),
        sent("create_user", 409, {}, email="ADA@example.com", name="Twin"),
        sent("place_order", 201, {"id": 1}, **TEA),
        sent("place_order", 422, {}, **{**TEA, "product": "nothing", "quantity": 0}),
        sent("place_order", None, {}, **{**TEA, "product": "perhaps"}),
        sent("cancel_order", 200, {"id": 1}, id=1),
        sent("rename_user", None, {}, id=1, name="Ada L."),
    ],
    log={"users": [created], "orders": [placed, cancelled]},
    outboxes={
        "users": Outbox(1, 1, [created_row]),
        "orders": Outbox(2, 2, [placed_row, cancelled_row]),
    },
    users=[USER],
    customers=[USER],
    orders=[CANCELLED],
    orders_copy=[CANCELLED],
)


GREETING = {"id": 1, "user_id": 1, "text": "Hello", "version": 1}
greeted, greeted_row = published(1, "greetings", "greeting.sent", GREETING)
PERSON = {"id": 1, "name": "Ada", "version": 1}
WITH_GREETINGS = replace(
    RIGHT,
    sent=[*RIGHT.sent, sent("send_greeting", 201, {"id": 1}, user_id=1, text="Hello")],
    log={**RIGHT.log, "greetings": [greeted]},
    outboxes={**RIGHT.outboxes, "greetings": Outbox(1, 1, [greeted_row])},
    greetings=[GREETING],
    people=[PERSON],
)


def test_a_right_history_is_right() -> None:
    assert faults(RIGHT) == []
    assert faults(WITH_GREETINGS) == []


def test_a_stretch_that_is_repeated_is_right() -> None:
    again = [placed, cancelled, placed._replace(offset=2), cancelled._replace(offset=3)]
    assert faults(replace(RIGHT, log={**RIGHT.log, "orders": again})) == []


def with_log(*orders: Record) -> Evidence:
    return replace(RIGHT, log={**RIGHT.log, "orders": orders})


def with_sent(*more: Sent) -> Evidence:
    return replace(RIGHT, sent=[*RIGHT.sent, *more])


def with_orders(*rows: dict[str, Any]) -> Evidence:
    return replace(RIGHT, orders=rows, orders_copy=rows)


WRONG: dict[str, tuple[Callable[[], Evidence], str]] = {
    "an answered order is lost": (
        lambda: with_sent(sent("place_order", 201, {"id": 2}, **{**TEA, "product": "milk"})),
        "0 rows, not 1 to 1: place_order",
    ),
    "an order is there twice": (
        lambda: with_orders(CANCELLED, {**CANCELLED, "id": 2}),
        "2 rows, not 1 to 1: place_order",
    ),
    "a refused order is there": (
        lambda: with_orders(CANCELLED, {**ORDER, "id": 2, "product": "nothing"}),
        "1 rows, not 0 to 0: place_order",
    ),
    "an order that was said not to be done is there": (
        lambda: replace(
            RIGHT,
            sent=[one if one.status != 201 else replace(one, status=503) for one in RIGHT.sent],
        ),
        "1 rows, not 0 to 0: place_order",
    ),
    "an unknown order is there twice": (
        lambda: with_orders(
            CANCELLED, *({**ORDER, "id": id_, "product": "perhaps"} for id_ in (2, 3))
        ),
        "2 rows, not 0 to 1: place_order",
    ),
    "nobody placed it": (
        lambda: with_orders(CANCELLED, {**ORDER, "id": 2, "product": "gift"}),
        "nobody asked for gift",
    ),
    "an amount has changed": (
        lambda: with_orders({**CANCELLED, "total_price": Decimal("7.51")}),
        "total_price is 7.51",
    ),
    "an answer had another's id": (
        lambda: with_orders({**CANCELLED, "id": 7}),
        "id 7 was answered as 1",
    ),
    "an answered cancellation is lost": (
        lambda: with_orders(ORDER),
        "cancel_order {'id': 1} → 200",
    ),
    "a refused new name is there": (
        lambda: with_sent(sent("rename_user", 412, {}, id=1, name="Ada")),
        "rename_user {'id': 1, 'name': 'Ada'} → 412",
    ),
    "a request failed for an error of ours": (
        lambda: with_sent(sent("place_order", 500, {}, **{**TEA, "product": "milk"})),
        "answered with an error of ours",
    ),
    "an event is missing in the middle": (
        lambda: with_log(cancelled),
        "positions 1 to 1 of 2 are not logged",
    ),
    "the last event is missing": (
        lambda: with_log(placed),
        "positions 2 to 2 of 2 are not logged",
    ),
    "an event was overtaken": (
        lambda: with_log(cancelled, placed),
        "1 was overtaken by 2",
    ),
    "a repeat differs": (
        lambda: with_log(placed, cancelled, placed._replace(offset=2, value=cancelled.value)),
        "repeats 1 as another",
    ),
    "what is logged is not what was published": (
        lambda: with_log(placed._replace(value=cancelled.value), cancelled),
        "was published, and is logged as",
    ),
    "a record is nobody's event": (
        lambda: with_log(placed, cancelled, Record("orders", 0, 2, None, b"?", {})),
        "orders/0@2 is not an event",
    ),
    "an event is of another service": (
        lambda: with_log(placed, cancelled, created._replace(topic="orders", offset=2)),
        "orders/0@2 comes from /users",
    ),
    "a version is left out": (
        lambda: with_log(
            placed,
            cancelled._replace(value=json.dumps({**cancelled_row["data"], "version": 3}).encode()),
        ),
        "after version 1 of 1 in 0 came",
    ),
    "a key changes its partition": (
        lambda: with_log(placed, cancelled._replace(partition=1, offset=0)),
        "after version 1 of 1 in 0 came",
    ),
    "an order has two first events": (
        lambda: with_log(
            placed, cancelled._replace(headers={**cancelled.headers, "ce_type": "order.placed"})
        ),
        "2 × order.placed",
    ),
    "a copy of an order is lost": (
        lambda: replace(RIGHT, orders_copy=[]),
        "orders, but not in the user service's copies",
    ),
    "a copy of an order is a version behind": (
        lambda: replace(RIGHT, orders_copy=[ORDER]),
        "in the user service's copies, but not in orders",
    ),
    "a customer is a version behind": (
        lambda: replace(RIGHT, customers=[{**USER, "version": 0}]),
        "users, but not in the order service's customers",
    ),
    "a row was changed without an event": (
        lambda: replace(
            RIGHT, users=[{**USER, "name": "Eve"}], customers=[{**USER, "name": "Eve"}]
        ),
        "users, but not in the fold of their events",
    ),
    "a greeting is lost": (
        lambda: replace(WITH_GREETINGS, greetings=[]),
        "0 rows, not 1 to 1: send_greeting",
    ),
    "a greeting is not in the log": (
        lambda: replace(WITH_GREETINGS, log={**WITH_GREETINGS.log, "greetings": []}),
        "greetings: positions 1 to 1 of 1 are not logged",
    ),
    "a person has another name": (
        lambda: replace(WITH_GREETINGS, people=[{**PERSON, "name": "Eve"}]),
        "users, but not in the greeting service's people",
    ),
    "nobody is known to greet": (
        lambda: replace(WITH_GREETINGS, people=[]),
        "users, but not in the greeting service's people",
    ),
}


@pytest.mark.parametrize("planted", WRONG)
def test_a_wrong_is_found(planted: str) -> None:
    evidence, said = WRONG[planted]
    found = faults(evidence())
    assert any(said in fault for fault in found), found
