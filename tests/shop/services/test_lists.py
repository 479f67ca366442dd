"""Lists of users and of orders: what is in them, in which order, page by page."""

import itertools
from typing import Any

import pytest

from tests.support.serving import Served, problem, wrong_fields
from tests.support.shop_events import user_created

_numbers = itertools.count(1)
# Times that no order of another test has.
NINE, TEN, ELEVEN = ("2026-01-05T09:00:00Z", "2026-01-05T10:00:00Z", "2026-01-05T11:00:00Z")


def listed(served: Served, **params: Any) -> list[int]:
    """The ids of all pages."""
    ids: list[int] = []
    while True:
        response = served.client.get(f"/{served.name}", params=params)
        assert response.status_code == 200, response.text
        page = response.json()
        assert set(page) == {"items", "next_cursor"}
        ids += [item["id"] for item in page["items"]]
        if page["next_cursor"] is None:
            return ids
        params["cursor"] = page["next_cursor"]


def create(users: Served, email: str | None = None) -> dict[str, Any]:
    body = {"email": email or f"listed{next(_numbers)}@example.com", "name": "Setiadi"}
    response = users.client.post("/users", json=body)
    assert response.status_code == 201, response.text
    user: dict[str, Any] = response.json()
    return user


@pytest.fixture
def customer(orders: Served) -> int:
    id_ = next(_numbers)
    orders.hears(user_created(id_))
    return id_


@pytest.fixture
def product() -> str:
    """One that no other test orders."""
    return f"product {next(_numbers)}"


def place(orders: Served, customer: int, product: str, at: str | None = None) -> int:
    """The new order's id. `at` is when it was placed, if not now."""
    body = {"user_id": customer, "product": product, "quantity": 1, "total_price": 1}
    id_: int = orders.client.post("/orders", json=body).json()["id"]
    if at is not None:
        orders.connection.execute("UPDATE orders SET placed_at = %s WHERE id = %s", [at, id_])
    return id_


def test_users_are_listed_newest_first_over_pages_without_the_erased(users: Served) -> None:
    ids = [create(users)["id"] for _ in range(5)]
    users.client.delete(f"/users/{ids[2]}").raise_for_status()
    wanted = [ids[4], ids[3], ids[1], ids[0]]
    for limit in (1, 2, 4, 100):
        assert listed(users, limit=limit)[:4] == wanted


def test_a_listed_user_is_whole(users: Served) -> None:
    user = create(users)
    page = users.client.get("/users", params={"email": user["email"]}).json()
    assert page == {"items": [user], "next_cursor": None}


def test_a_user_is_found_by_email_in_any_letter_case(users: Served) -> None:
    user = create(users, "Some.Body@Example.com")
    for email in ("Some.Body@Example.com", "some.body@example.com", "SOME.BODY@EXAMPLE.COM"):
        assert listed(users, email=email) == [user["id"]]
    assert listed(users, email="some_body@example.com") == []


def test_an_email_finds_no_user_once_it_is_erased_or_changed(users: Served) -> None:
    erased, moved = create(users), create(users)
    users.client.delete(f"/users/{erased['id']}").raise_for_status()
    new = f"new-{moved['email']}"
    users.client.patch(f"/users/{moved['id']}", json={"email": new}).raise_for_status()
    assert listed(users, email=erased["email"]) == []
    assert listed(users, email=moved["email"]) == []
    assert listed(users, email=new) == [moved["id"]]


def test_a_page_after_the_user_with_an_email_is_empty(users: Served) -> None:
    user = create(users)
    create(users)
    first = users.client.get("/users", params={"limit": 2}).json()
    assert first["items"][1]["id"] == user["id"]
    cursor = first["next_cursor"]
    assert cursor is None or listed(users, email=user["email"], cursor=cursor) == []


@pytest.mark.parametrize("email", ["", "nobody", "a@b\x00.example"])
def test_a_malformed_email_is_refused_by_name(users: Served, email: str) -> None:
    found = problem(users.client.get("/users", params={"email": email}), 422, "invalid")
    assert wrong_fields(found) == [("query", "email")]


def test_orders_are_listed_by_product_to_the_letter(
    orders: Served, customer: int, product: str
) -> None:
    ids = [place(orders, customer, product) for _ in range(3)]
    place(orders, customer, product.upper())
    place(orders, customer, f"{product} ")
    for limit in (1, 3, 100):
        assert listed(orders, product=product, limit=limit) == ids[::-1]
    assert listed(orders, product=f"{product}?") == []


def test_a_range_of_time_has_its_beginning_and_not_its_end(
    orders: Served, customer: int, product: str
) -> None:
    nine, ten, eleven = (place(orders, customer, product, at) for at in (NINE, TEN, ELEVEN))
    for of in (
        {"product": product},
        {"user_id": customer},
        {"product": product, "user_id": customer},
    ):
        assert listed(orders, placed_from=NINE, placed_before=ELEVEN, **of) == [ten, nine]
        assert listed(orders, placed_from=TEN, **of) == [eleven, ten]
        assert listed(orders, placed_before=TEN, **of) == [nine]
        assert listed(orders, placed_from=TEN, placed_before=TEN, **of) == []
        assert listed(orders, placed_from=ELEVEN, placed_before=NINE, **of) == []
    # The same moment in another zone, and the one after it.
    noon = "2026-01-05T12:00:00+02:00"
    assert listed(orders, placed_from=noon, placed_before=ELEVEN, product=product) == [ten]
    just_after = "2026-01-05T10:00:00.000001Z"
    assert listed(orders, placed_from=TEN, placed_before=just_after, product=product) == [ten]


def test_orders_of_a_range_of_time_are_listed_by_time_and_then_by_id(
    orders: Served, customer: int, product: str
) -> None:
    start, end = "2025-03-01T00:00:00Z", "2025-03-02T00:00:00Z"
    at = [f"2025-03-01T{hour:02}:00:00Z" for hour in (3, 1, 2, 2, 2)]
    three, one, *two = (place(orders, customer, product, each) for each in at)
    cancelled = two[1]
    orders.client.post(f"/orders/{cancelled}/cancel").raise_for_status()
    wanted = [three, *two[::-1], one]
    for limit in (1, 2, 3, 5):
        params = {"placed_from": start, "placed_before": end, "limit": limit}
        assert listed(orders, **params) == wanted
        assert listed(orders, **params, product=product) == wanted
        assert listed(orders, **params, status="cancelled") == [cancelled]
        assert listed(orders, **params, status="placed") == [
            id_ for id_ in wanted if id_ != cancelled
        ]
        # A user's are few, and listed by id, as they always are.
        assert listed(orders, **params, user_id=customer) == sorted(wanted, reverse=True)


def test_an_order_placed_between_two_pages_of_a_product_shifts_nothing(
    orders: Served, customer: int, product: str
) -> None:
    ids = [place(orders, customer, product) for _ in range(4)]
    params: dict[str, Any] = {"product": product, "limit": 2}
    first = orders.client.get("/orders", params=params).json()
    place(orders, customer, product)
    second = orders.client.get("/orders", params={**params, "cursor": first["next_cursor"]}).json()
    seen = [item["id"] for page in (first, second) for item in page["items"]]
    assert seen == ids[::-1]


def test_a_cursor_of_a_newer_page_does_not_lead_out_of_a_range_of_time(
    orders: Served, customer: int, product: str
) -> None:
    old = place(orders, customer, product, NINE)
    for _ in range(2):
        place(orders, customer, product)
    newest = orders.client.get("/orders", params={"product": product, "limit": 1}).json()
    assert listed(
        orders, product=product, placed_before=TEN, cursor=newest["next_cursor"]
    ) == [old]  # fmt: skip


@pytest.mark.parametrize(
    "time",
    [
        *("", "2026-01-05", "2026-01-05T09:00:00", "1767603600", "2026-01-05 09:00:00Z"),
        *("2026-02-30T09:00:00Z", "2026-01-05T25:00:00Z", "now", "infinity"),
        "2026-01-05T09:00:00 02:00",  # a plus sign that was not escaped
    ],
)
def test_a_malformed_time_is_refused_by_name(orders: Served, time: str) -> None:
    for name in ("placed_from", "placed_before"):
        found = problem(orders.client.get("/orders", params={name: time}), 422, "invalid")
        assert wrong_fields(found) == [("query", name)]


@pytest.mark.parametrize(
    "time",
    [
        "0001-01-01T00:00:00+23:59",
        "9999-12-31T23:59:59.999999-23:59",
        "2026-01-05t09:00:00.1234567z",
    ],
)
def test_any_time_that_can_be_written_can_be_asked_for(orders: Served, time: str) -> None:
    for name in ("placed_from", "placed_before"):
        assert orders.client.get("/orders", params={name: time}).status_code == 200
