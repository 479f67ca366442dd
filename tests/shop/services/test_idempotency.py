"""`Idempotency-Key`: a request sent again is done once, and answered the same."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from typing import Any
from uuid import uuid4

import httpx
import pytest

from eventspine.answers import FORM
from eventspine.idempotency import canonical
from shop.services.users.schemas import CreateUser
from tests.support.databases import NewDatabase
from tests.support.serving import Served, problem, serving
from tests.support.shop_events import user_created, user_erased


@pytest.fixture(scope="module")
def users(new_database: NewDatabase, templates: dict[str, str]) -> Iterator[Served]:
    """The user service, which knows its callers."""
    url = new_database(templates["users"])
    with serving("users", url, interceptors="tests.support.callers:interceptors") as served:
        yield served


def key() -> dict[str, str]:
    return {"Idempotency-Key": uuid4().hex}


def same(first: httpx.Response, again: httpx.Response) -> None:
    """To the byte, and in every header but the time of day."""
    assert again.status_code == first.status_code
    assert again.content == first.content
    assert {**again.headers, "date": ""} == {**first.headers, "date": ""}


def new_user() -> dict[str, str]:
    return {"email": f"{uuid4().hex}@example.com", "name": "Somebody"}


def order_of(user_id: int) -> dict[str, Any]:
    return {"user_id": user_id, "product": "tea", "quantity": 1, "total_price": "1.50"}


def test_a_post_sent_again_is_given_the_first_answer_and_does_nothing(users: Served) -> None:
    headers, body = key(), new_user()
    first = users.client.post("/users", json=body, headers=headers)
    assert first.status_code == 201
    stored = users.stored()
    for _ in range(3):
        same(first, users.client.post("/users", json=body, headers=headers))
    assert users.stored() == stored


def test_each_kind_of_write_keeps_its_first_answer(users: Served, orders: Served) -> None:
    created = users.client.post("/users", json=new_user()).json()
    url = f"/users/{created['id']}"
    for method, body in (("PATCH", {"name": "Another"}), ("DELETE", None)):
        headers = key()
        first = users.client.request(method, url, json=body, headers=headers)
        assert first.is_success
        same(first, users.client.request(method, url, json=body, headers=headers))
    assert users.client.get(url).status_code == 404
    orders.hears(user_created(9001))
    placing, cancelling = key(), key()
    placed = orders.client.post("/orders", json=order_of(9001), headers=placing)
    same(placed, orders.client.post("/orders", json=order_of(9001), headers=placing))
    url = f"/orders/{placed.json()['id']}/cancel"
    cancelled = orders.client.post(url, headers=cancelling)
    same(cancelled, orders.client.post(url, headers=cancelling))
    assert len(orders.rows("SELECT FROM orders WHERE user_id = 9001")) == 1


def test_a_refusal_is_an_answer_too_and_is_kept(users: Served) -> None:
    body = new_user()
    users.client.post("/users", json=body)
    headers = key()
    refused = users.client.post("/users", json=body, headers=headers)
    assert refused.status_code == 409
    # Its reason has gone; the answer stays, or two repeats could be told different things.
    [(id_,)] = users.rows(f"SELECT id FROM users WHERE email = '{body['email']}'")
    users.client.delete(f"/users/{id_}")
    same(refused, users.client.post("/users", json=body, headers=headers))


def test_a_refusal_that_may_pass_does_not_use_up_the_key(orders: Served) -> None:
    headers = key()
    unknown = orders.client.post("/orders", json=order_of(9002), headers=headers)
    problem(unknown, 404, "unknown-customer")
    orders.hears(user_created(9002))
    placed = orders.client.post("/orders", json=order_of(9002), headers=headers)
    assert placed.status_code == 201
    same(placed, orders.client.post("/orders", json=order_of(9002), headers=headers))


def test_a_caller_with_a_fresh_token_is_the_same_caller(users: Served) -> None:
    headers, body = key(), new_user()
    old, fresh = ({**headers, "Authorization": f"Bearer somebody.{n}"} for n in (1, 2))
    first = users.client.post("/users", json=body, headers=old)
    same(first, users.client.post("/users", json=body, headers=fresh))


@pytest.mark.parametrize("again", [50, 50.0, "50", "50.0", "50.00"])
def test_a_price_written_otherwise_is_the_same_price(orders: Served, again: object) -> None:
    headers = key()
    orders.hears(user_created(9005))
    first = orders.client.post(
        "/orders", json=order_of(9005) | {"total_price": 50}, headers=headers
    )
    body = order_of(9005) | {"total_price": again}
    same(first, orders.client.post("/orders", json=body, headers=headers))


def test_an_invalid_request_does_not_use_up_its_key(users: Served) -> None:
    headers = key()
    assert users.client.post("/users", json={"name": "x"}, headers=headers).status_code == 422
    assert users.client.post("/users", json=new_user(), headers=headers).status_code == 201


@pytest.mark.parametrize("other", ["body", "route", "caller"])
def test_a_key_is_refused_for_anything_else(users: Served, other: str) -> None:
    headers, body = key(), new_user()
    first = users.client.post("/users", json=body, headers=headers)
    stored = users.stored()
    if other == "body":
        again = users.client.post("/users", json={**body, "name": "x"}, headers=headers)
    elif other == "route":
        url = first.headers["location"]
        again = users.client.patch(url, json={"name": "x"}, headers=headers)
    else:
        headers = {**headers, "Authorization": "Bearer another.1"}
        again = users.client.post("/users", json=body, headers=headers)
    problem(again, 422, "idempotency-key-reused")
    assert users.stored() == stored


@pytest.mark.parametrize("bad", ["", "x" * 256, "two words", "caf\xe9"])
def test_a_key_that_is_none_is_refused_by_name(users: Served, bad: str) -> None:
    headers = [(b"idempotency-key", bad.encode("latin-1"))]
    refused = users.client.post("/users", json=new_user(), headers=headers)
    document = problem(refused, 422, "invalid")
    assert [error["field"] for error in document["errors"]] == ["idempotency-key"]


def test_white_space_and_member_order_are_no_other_body(users: Served) -> None:
    headers, body = {**key(), "Content-Type": "application/json"}, new_user()
    first = users.client.post("/users", json=body, headers=headers)
    text = f'{{ "name": "{body["name"]}",\n  "email": "{body["email"]}" }}'
    same(first, users.client.post("/users", content=text, headers=headers))


def test_a_trace_is_no_part_of_the_request(users: Served) -> None:
    headers, body = key(), new_user()
    first = users.client.post("/users", json=body, headers=headers)
    traced = {**headers, "traceparent": f"00-{'1' * 32}-{'2' * 16}-01"}
    same(first, users.client.post("/users", json=body, headers=traced))


def test_two_at_once_do_it_once_even_from_two_processes(
    new_database: NewDatabase, templates: dict[str, str]
) -> None:
    """Two applications on one database know no more of each other than two processes do."""
    url = new_database(templates["orders"])
    with serving("orders", url) as one, serving("orders", url) as other:
        one.hears(user_created(1))
        for _ in range(12):
            headers = key()
            with ThreadPoolExecutor(8) as pool:
                answers = list(
                    pool.map(
                        lambda n, headers=headers: (one, other)[n % 2].client.post(
                            "/orders", json=order_of(1), headers=headers
                        ),
                        range(8),
                    )
                )
            assert {answer.status_code for answer in answers} == {201}
            assert len({answer.content for answer in answers}) == 1
        assert len(one.rows("SELECT FROM orders")) == 12
        assert len(one.events()) == 12


def test_a_key_outlives_the_process(new_database: NewDatabase, templates: dict[str, str]) -> None:
    url, headers, body = new_database(templates["users"]), key(), new_user()
    with serving("users", url) as before:
        first = before.client.post("/users", json=body, headers=headers)
    with serving("users", url) as after:
        same(first, after.client.post("/users", json=body, headers=headers))
        assert len(after.events()) == 1


def test_keyed_and_unkeyed_requests_share_a_batch(users: Served) -> None:
    headers, body = key(), new_user()
    with ThreadPoolExecutor(16) as pool:
        keyed = [
            pool.submit(users.client.post, "/users", json=body, headers=headers) for _ in range(8)
        ]
        plain = [pool.submit(users.client.post, "/users", json=new_user()) for _ in range(8)]
        ids = {future.result().json()["id"] for future in keyed}
        others = {future.result().json()["id"] for future in plain}
    assert len(ids) == 1 and len(others) == 8 and not ids & others


def kept(served: Served) -> str:
    """Everything that is stored of answers, as text."""
    return str(served.rows("SELECT k::text FROM idempotency_keys k"))


def test_no_answer_holds_an_erased_users_data_and_its_key_stays_taken(users: Served) -> None:
    body, other = new_user(), new_user()
    creating, renaming, refused, erasing, others = (key() for _ in range(5))
    created = users.client.post("/users", json=body, headers=creating)
    url = created.headers["location"]
    name = uuid4().hex
    users.client.patch(url, json={"name": name}, headers=renaming).raise_for_status()
    assert users.client.post("/users", json=body, headers=refused).status_code == 409
    of_other = users.client.post("/users", json=other, headers=others)
    assert body["email"] in kept(users) and name in kept(users)
    erased = users.client.delete(url, headers=erasing)
    assert erased.status_code == 204
    assert body["email"] not in kept(users) and name not in kept(users)
    stored = users.stored()
    problem(users.client.post("/users", json=body, headers=creating), 410, "user-erased")
    problem(users.client.patch(url, json={"name": name}, headers=renaming), 410, "user-erased")
    same(erased, users.client.delete(url, headers=erasing))
    same(of_other, users.client.post("/users", json=other, headers=others))
    assert users.stored() == stored


def test_a_stored_key_does_not_reveal_the_request(users: Served) -> None:
    """Not by who was erased, nor by who was refused, whom no erasure finds."""
    creating, refused, body = key(), key(), new_user()
    created = users.client.post("/users", json=body, headers=creating)
    assert users.client.post("/users", json=body, headers=refused).status_code == 409
    users.client.delete(created.headers["location"])
    left = kept(users)
    guess = canonical(CreateUser(body["email"], body["name"]), None)
    for headers in (creating, refused):
        text = headers["Idempotency-Key"]
        # Who knows the key can tell, but the key is not there.
        assert (FORM + sha256(text.encode() + b" " + guess).digest()).hex() in left
        assert text not in left
    assert body["email"] not in left
    assert sha256(guess).hexdigest() not in left


@pytest.mark.parametrize("other", ["body", "route", "caller"])
def test_after_an_erasure_too_a_key_is_refused_for_anything_else(users: Served, other: str) -> None:
    headers, body = key(), new_user()
    created = users.client.post("/users", json=body, headers=headers)
    users.client.delete(created.headers["location"])
    stored = users.stored()
    match other:
        case "body":
            again = users.client.post("/users", json=new_user(), headers=headers)
        case "route":
            again = users.client.delete(created.headers["location"], headers=headers)
        case _:
            headers_of_other = {**headers, "Authorization": "Bearer another.1"}
            again = users.client.post("/users", json=body, headers=headers_of_other)
    problem(again, 422, "idempotency-key-reused")
    assert users.stored() == stored
    problem(users.client.post("/users", json=body, headers=headers), 410, "user-erased")


def test_no_answer_about_orders_holds_an_erased_customers_data(orders: Served) -> None:
    email = f"{uuid4().hex}@example.com"
    orders.hears(user_created(9003, email=email), user_created(9004))
    placing, cancelling, others = key(), key(), key()
    placed = orders.client.post("/orders", json=order_of(9003), headers=placing)
    url = f"/orders/{placed.json()['id']}/cancel"
    orders.client.post(url, headers=cancelling).raise_for_status()
    of_other = orders.client.post("/orders", json=order_of(9004), headers=others)
    assert email in kept(orders)
    orders.hears(user_erased(9003, 2))
    assert email not in kept(orders)
    stored = orders.stored()
    problem(orders.client.post("/orders", json=order_of(9003), headers=placing), 410, "user-erased")
    problem(orders.client.post(url, headers=cancelling), 410, "user-erased")
    same(of_other, orders.client.post("/orders", json=order_of(9004), headers=others))
    assert orders.stored() == stored
