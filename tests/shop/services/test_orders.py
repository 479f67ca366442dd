"""The order service, as its clients and the readers of its events know it."""

import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from eventspine.errors import MissingEvents
from tests.support.serving import Served, problem, serving, wrong_fields
from tests.support.shop_events import user_created, user_erased, user_updated
from tests.support.waiting import SLOWER

_numbers = itertools.count(1)

COFFEE = {"product": "coffee", "quantity": 100, "total_price": 50}


@pytest.fixture
def customer(orders: Served) -> int:
    """The id of a customer whom the order service has just heard of."""
    id_ = next(_numbers)
    orders.hears(user_created(id_, name="Setiadi", email="setiadi@example.com"))
    return id_


def place(orders: Served, customer: int, **fields: Any) -> dict[str, Any]:
    response = orders.client.post("/orders", json={**COFFEE, "user_id": customer, **fields})
    assert response.status_code == 201, response.text
    order: dict[str, Any] = response.json()
    return order


def cancel(orders: Served, order_id: int, etag: str | None = None) -> httpx.Response:
    headers = {} if etag is None else {"If-Match": etag}
    return orders.client.post(f"/orders/{order_id}/cancel", headers=headers)


def listed(orders: Served, **params: Any) -> list[int]:
    """The ids of all pages."""
    ids: list[int] = []
    while True:
        response = orders.client.get("/orders", params=params)
        assert response.status_code == 200, response.text
        page = response.json()
        assert set(page) == {"items", "next_cursor"}
        ids += [item["id"] for item in page["items"]]
        if page["next_cursor"] is None:
            return ids
        params["cursor"] = page["next_cursor"]


def test_a_placed_order_is_answered_whole_with_its_customer_address_and_etag(
    orders: Served, customer: int
) -> None:
    response = orders.client.post("/orders", json={**COFFEE, "user_id": customer})
    assert response.status_code == 201
    order = response.json()
    placed_at = datetime.fromisoformat(order["placed_at"])
    assert abs((datetime.now(UTC) - placed_at).total_seconds()) < 60
    assert order == {
        "id": order["id"],
        "user_id": customer,
        "product": "coffee",
        "quantity": 100,
        "total_price": "50.00",
        "status": "placed",
        "version": 1,
        "placed_at": order["placed_at"],
        "customer": {"name": "Setiadi", "email": "setiadi@example.com"},
    }
    assert response.headers["location"] == f"/orders/{order['id']}"
    assert response.headers["etag"] == '"1"'
    response = orders.client.get(f"/orders/{order['id']}")
    assert (response.status_code, response.json()) == (200, order)
    assert response.headers["etag"] == '"1"'


def test_the_same_order_again_is_another_order(orders: Served, customer: int) -> None:
    assert place(orders, customer)["id"] + 1 == place(orders, customer)["id"]


@pytest.mark.parametrize(
    ("given", "answered"),
    [
        (50, "50.00"),
        (0, "0.00"),
        (12.5, "12.50"),
        (0.1, "0.10"),
        (9999999999.99, "9999999999.99"),
        ("12.50", "12.50"),
        ("0", "0.00"),
        ("9999999999.99", "9999999999.99"),
    ],
)
def test_a_price_may_be_a_number_or_a_string_and_is_answered_as_a_string(
    orders: Served, customer: int, given: object, answered: str
) -> None:
    order = place(orders, customer, total_price=given)
    assert order["total_price"] == answered
    assert orders.client.get(f"/orders/{order['id']}").json()["total_price"] == answered
    assert orders.events()[-1][4]["total_price"] == answered


def test_an_order_id_that_was_not_given_out_is_not_found(orders: Served) -> None:
    for id_ in (999_999, 2**63 - 1):
        problem(orders.client.get(f"/orders/{id_}"), 404, "order-not-found")
        problem(cancel(orders, id_), 404, "order-not-found")


def test_an_unknown_customer_places_no_order_and_uses_up_no_id(
    orders: Served, customer: int
) -> None:
    first = place(orders, customer)
    before = orders.stored()
    for id_ in (999_999, 2**63 - 1):
        response = orders.client.post("/orders", json={**COFFEE, "user_id": id_})
        assert str(id_) in problem(response, 404, "unknown-customer")["detail"]
    assert orders.stored() == before
    assert place(orders, customer)["id"] == first["id"] + 1


def test_an_erased_customer_places_no_order(orders: Served, customer: int) -> None:
    orders.hears(user_erased(customer, version=2))
    response = orders.client.post("/orders", json={**COFFEE, "user_id": customer})
    problem(response, 404, "unknown-customer")


def test_an_order_shows_its_customer_as_last_heard_of(orders: Served, customer: int) -> None:
    order = place(orders, customer)
    orders.hears(user_updated(customer, version=2, name="Wijaya", email="wijaya@example.com"))
    shown = orders.client.get(f"/orders/{order['id']}").json()
    assert shown == order | {"customer": {"name": "Wijaya", "email": "wijaya@example.com"}}


def test_erasing_a_customer_erases_them_from_their_orders(orders: Served, customer: int) -> None:
    order = place(orders, customer)
    orders.hears(user_erased(customer, version=2))
    for shown in (
        orders.client.get(f"/orders/{order['id']}").json(),
        orders.client.get("/orders", params={"user_id": customer}).json()["items"][0],
        cancel(orders, order["id"]).json(),
    ):
        assert shown["customer"] is None
    stored = orders.rows(
        f"SELECT email, name, version, erased FROM customers WHERE id = {customer}"
    )
    assert stored == [(None, None, 2, True)]


def test_a_late_event_does_not_bring_an_erased_customer_back(orders: Served, customer: int) -> None:
    orders.hears(user_erased(customer, version=2))
    orders.hears(user_created(customer))
    response = orders.client.post("/orders", json={**COFFEE, "user_id": customer})
    problem(response, 404, "unknown-customer")


def test_a_hole_in_a_customers_versions_is_an_alarm(orders: Served, customer: int) -> None:
    with pytest.raises(MissingEvents, match="version 3 arrived after version 1"):
        orders.hears(user_updated(customer, version=3))


def test_customers_it_knows_are_served_by_its_own_database_alone(orders_url: str) -> None:
    """No user service, no log and no worker is anywhere near."""
    with serving("orders", orders_url, event_log_url="") as orders:
        orders.hears(user_created(1))
        order = place(orders, 1)
        assert orders.client.get(f"/orders/{order['id']}").json() == order
        assert listed(orders, user_id=1) == [order["id"]]
        assert cancel(orders, order["id"]).status_code == 200


def test_a_customer_who_arrives_in_time_is_waited_for(orders_url: str) -> None:
    with serving("orders", orders_url, customer_grace_ms=10_000) as orders:
        arrival = threading.Timer(0.3, orders.hears, [user_created(1)])
        started = time.monotonic()
        arrival.start()
        response = orders.client.post("/orders", json={**COFFEE, "user_id": 1})
        took = time.monotonic() - started
        arrival.join()
    assert response.status_code == 201
    assert response.json()["customer"] == {"name": "User 1", "email": "user1@example.com"}
    assert 0.25 < took < 8


def test_a_customer_who_does_not_arrive_in_time_is_unknown(orders_url: str) -> None:
    with serving("orders", orders_url, customer_grace_ms=300) as orders:
        started = time.monotonic()
        response = orders.client.post("/orders", json={**COFFEE, "user_id": 1})
        took = time.monotonic() - started
        assert orders.stored() == []
    problem(response, 404, "unknown-customer")
    assert 0.3 <= took < 0.3 + SLOWER


def test_waiting_for_one_customer_keeps_no_other_waiting(orders_url: str) -> None:
    with serving("orders", orders_url, customer_grace_ms=10_000) as orders:
        orders.hears(user_created(1))
        body = {**COFFEE, "user_id": 2}
        with ThreadPoolExecutor(8) as pool:
            waiting = [pool.submit(orders.client.post, "/orders", json=body) for _ in range(8)]
            for _ in range(5):
                place(orders, 1)
            assert not any(future.done() for future in waiting)
            orders.hears(user_created(2))
            assert [future.result().status_code for future in waiting] == [201] * 8


def test_an_order_is_cancelled_once_and_again_is_the_same_answer(
    orders: Served, customer: int
) -> None:
    order = place(orders, customer)
    first = cancel(orders, order["id"])
    assert first.status_code == 200
    assert first.json() == order | {"status": "cancelled", "version": 2}
    assert first.headers["etag"] == '"2"'
    stored = orders.stored()
    again = cancel(orders, order["id"])
    assert (again.status_code, again.json(), again.headers["etag"]) == (200, first.json(), '"2"')
    assert orders.stored() == stored
    assert orders.client.get(f"/orders/{order['id']}").json() == first.json()


def test_an_order_cancelled_by_many_at_once_is_cancelled_once(
    orders: Served, customer: int
) -> None:
    order = place(orders, customer)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: cancel(orders, order["id"]), range(16)))
    assert {(answer.status_code, answer.text) for answer in answers} == {(200, answers[0].text)}
    types = [event[1] for event in orders.events() if event[2] == str(order["id"])]
    assert types == ["order.placed", "order.cancelled"]


@pytest.mark.parametrize("etag", ['"1"', "*", '"7", "1"'])
def test_an_order_is_cancelled_if_its_version_matches(
    orders: Served, customer: int, etag: str
) -> None:
    assert cancel(orders, place(orders, customer)["id"], etag).status_code == 200


@pytest.mark.parametrize("etag", ['"2"', 'W/"1"', '"2", "3"'])
def test_an_order_is_not_cancelled_if_its_version_is_another(
    orders: Served, customer: int, etag: str
) -> None:
    order = place(orders, customer)
    problem(cancel(orders, order["id"], etag), 412, "precondition-failed")
    assert orders.client.get(f"/orders/{order['id']}").json() == order


def test_a_cancelled_order_is_cancelled_again_only_with_its_version(
    orders: Served, customer: int
) -> None:
    order = place(orders, customer)
    cancel(orders, order["id"], '"1"')
    problem(cancel(orders, order["id"], '"1"'), 412, "precondition-failed")
    assert cancel(orders, order["id"], '"2"').status_code == 200


def test_a_malformed_etag_is_refused_by_name(orders: Served, customer: int) -> None:
    order = place(orders, customer)
    found = problem(cancel(orders, order["id"], "1"), 422, "invalid")
    assert wrong_fields(found) == [("header", "if-match")]


def test_each_change_is_published_with_the_whole_state_after_it(
    orders: Served, customer: int
) -> None:
    order = place(orders, customer)
    cancel(orders, order["id"])
    # The customer is another service's to tell of.
    del order["customer"]
    key = str(order["id"])
    assert [event[1:5] for event in orders.events() if event[2] == key] == [
        ("order.placed", key, 1, order),
        ("order.cancelled", key, 2, order | {"status": "cancelled", "version": 2}),
    ]


def test_a_trace_is_carried_on_by_the_events_it_caused(orders: Served, customer: int) -> None:
    trace = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}
    body = {**COFFEE, "user_id": customer}
    order = orders.client.post("/orders", json=body, headers=trace).json()
    orders.client.post(f"/orders/{order['id']}/cancel", headers=trace)
    assert [event[5] for event in orders.events() if event[2] == str(order["id"])] == [trace] * 2


def test_orders_are_listed_newest_first_over_pages(orders: Served, customer: int) -> None:
    ids = [place(orders, customer)["id"] for _ in range(7)]
    newest_first = ids[::-1]
    for limit in (1, 3, 7, 100):
        assert listed(orders, user_id=customer, limit=limit) == newest_first
    page = orders.client.get("/orders", params={"user_id": customer, "limit": 7}).json()
    assert page["next_cursor"] is None
    assert listed(orders, limit=100)[:7] == newest_first


def test_an_order_placed_between_two_pages_shifts_nothing(orders: Served, customer: int) -> None:
    ids = [place(orders, customer)["id"] for _ in range(4)]
    first = orders.client.get("/orders", params={"user_id": customer, "limit": 2}).json()
    place(orders, customer)
    params = {"user_id": customer, "limit": 2, "cursor": first["next_cursor"]}
    second = orders.client.get("/orders", params=params).json()
    seen = [item["id"] for page in (first, second) for item in page["items"]]
    assert seen == ids[::-1]


def test_orders_are_listed_by_customer_and_by_status(orders: Served, customer: int) -> None:
    other = next(_numbers)
    orders.hears(user_created(other))
    mine = [place(orders, customer)["id"] for _ in range(3)]
    others = [place(orders, other)["id"] for _ in range(3)]
    cancel(orders, mine[1])
    cancel(orders, others[1])
    assert listed(orders, user_id=customer, status="cancelled", limit=1) == [mine[1]]
    assert listed(orders, user_id=customer, status="placed", limit=1) == [mine[2], mine[0]]
    assert listed(orders, status="cancelled", limit=1)[:2] == [others[1], mine[1]]
    assert listed(orders, status="placed", limit=2)[:4] == [others[2], others[0], mine[2], mine[0]]


def test_a_page_has_50_orders_unless_asked_for_otherwise(orders: Served, customer: int) -> None:
    for _ in range(51):
        place(orders, customer)
    page = orders.client.get("/orders", params={"user_id": customer}).json()
    assert len(page["items"]) == 50
    assert len(listed(orders, user_id=customer)) == 51


def test_a_customer_without_orders_has_an_empty_page(orders: Served) -> None:
    page = orders.client.get("/orders", params={"user_id": 2**63 - 1}).json()
    assert page == {"items": [], "next_cursor": None}


def test_an_address_with_a_line_feed_behind_it_cancels_nothing(
    orders: Served, customer: int
) -> None:
    order = place(orders, customer)
    response = orders.client.post(f"/orders/{order['id']}/cancel%0A")
    problem(response, 404, "not-found")
    assert orders.client.get(f"/orders/{order['id']}").json()["status"] == "placed"
