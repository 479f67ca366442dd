"""The user service, as its clients and the readers of its events know it."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from tests.support.serving import Served, problem, serving, wrong_fields
from tests.support.shop_events import order_cancelled, order_placed

_numbers = itertools.count(1)


def new_email() -> str:
    return f"person{next(_numbers)}@example.com"


def create(users: Served, email: str | None = None, name: str = "Setiadi") -> dict[str, Any]:
    response = users.client.post("/users", json={"email": email or new_email(), "name": name})
    assert response.status_code == 201, response.text
    user: dict[str, Any] = response.json()
    return user


def patch(users: Served, user_id: int, etag: str | None = None, **changes: Any) -> httpx.Response:
    headers = {} if etag is None else {"If-Match": etag}
    return users.client.patch(f"/users/{user_id}", json=changes, headers=headers)


def delete(users: Served, user_id: int, etag: str | None = None) -> httpx.Response:
    headers = {} if etag is None else {"If-Match": etag}
    return users.client.delete(f"/users/{user_id}", headers=headers)


def events_of(users: Served, user_id: int) -> list[tuple[str, int]]:
    return [
        (type_, version) for _, type_, key, version, *_ in users.events() if key == str(user_id)
    ]


def test_a_created_user_is_answered_whole_with_its_address_and_etag(users: Served) -> None:
    email = new_email()
    response = users.client.post("/users", json={"email": email, "name": "Setiadi"})
    assert response.status_code == 201
    user = response.json()
    created_at = datetime.fromisoformat(user["created_at"])
    assert abs((datetime.now(UTC) - created_at).total_seconds()) < 60
    assert user == {
        "id": user["id"],
        "email": email,
        "name": "Setiadi",
        "version": 1,
        "created_at": user["created_at"],
    }
    assert response.headers["location"] == f"/users/{user['id']}"
    assert response.headers["etag"] == '"1"'
    assert response.headers["content-type"] == "application/json"


def test_the_first_user_has_id_1_and_a_refused_one_uses_up_none(users_url: str) -> None:
    with serving("users", users_url) as users:
        curl = {"Accept": "*/*", "Content": "application/json", "Content-Type": "application/json"}
        body = b'{"email":"setiadi@example.com", "name":"Setiadi"}'
        assert users.client.post("/users", content=body, headers=curl).json()["id"] == 1
        problem(users.client.post("/users", content=body, headers=curl), 409, "email-taken")
        assert create(users)["id"] == 2


def test_a_user_is_found_by_id(users: Served) -> None:
    user = create(users)
    response = users.client.get(f"/users/{user['id']}")
    assert response.status_code == 200
    assert response.json() == user
    assert response.headers["etag"] == '"1"'


def test_a_client_with_the_newest_version_gets_304(users: Served) -> None:
    user = create(users)
    response = users.client.get(f"/users/{user['id']}", headers={"If-None-Match": '"1"'})
    assert (response.status_code, response.content) == (304, b"")
    response = users.client.get(f"/users/{user['id']}", headers={"If-None-Match": '"2"'})
    assert response.status_code == 200


def test_an_id_that_was_not_given_out_is_not_found(users: Served) -> None:
    for id_ in (999_999, 2**63 - 1):
        found = problem(users.client.get(f"/users/{id_}"), 404, "user-not-found")
        assert str(id_) in found["detail"]


def test_two_people_may_share_a_name(users: Served) -> None:
    assert create(users, name="Budi")["id"] != create(users, name="Budi")["id"]


@pytest.mark.parametrize("again", ["Same@Example.com", "same@example.com", "SAME@EXAMPLE.COM"])
def test_an_email_belongs_to_one_user_in_any_letter_case(users: Served, again: str) -> None:
    users.client.post("/users", json={"email": "Same@Example.com", "name": "First"})
    before = users.stored()
    response = users.client.post("/users", json={"email": again, "name": "Second"})
    problem(response, 409, "email-taken")
    # It is another person's, and a refusal may be stored for longer than that person is known.
    assert "example.com" not in response.text.lower()
    assert users.stored() == before


def test_an_email_is_kept_as_it_was_typed(users: Served) -> None:
    email = new_email().replace("person", "PerSon")
    assert create(users, email)["email"] == email


def test_an_email_that_many_want_at_once_goes_to_one(users: Served) -> None:
    email = new_email()
    with ThreadPoolExecutor(16) as pool:
        bodies = [{"email": email, "name": f"Number {n}"} for n in range(32)]
        answers = pool.map(lambda body: users.client.post("/users", json=body), bodies)
        statuses = [answer.status_code for answer in answers]
    assert sorted(statuses) == [201] + [409] * 31
    [(id_,)] = users.rows(f"SELECT id FROM users WHERE email = '{email}'")
    assert events_of(users, id_) == [("user.created", 1)]


def test_a_name_and_an_email_can_be_changed_together_and_alone(users: Served) -> None:
    user = create(users)
    email = new_email()
    response = patch(users, user["id"], name="Wijaya")
    assert response.status_code == 200
    assert response.json() == user | {"name": "Wijaya", "version": 2}
    assert response.headers["etag"] == '"2"'
    response = patch(users, user["id"], email=email)
    assert response.json() == user | {"name": "Wijaya", "email": email, "version": 3}
    response = patch(users, user["id"], email=user["email"], name="Setiadi")
    assert response.json() == user | {"version": 4}
    assert users.client.get(f"/users/{user['id']}").json() == user | {"version": 4}


def test_a_change_that_changes_nothing_is_no_new_version_and_no_event(users: Served) -> None:
    user = create(users)
    response = patch(users, user["id"], name=user["name"], email=user["email"])
    assert response.status_code == 200
    assert response.json() == user
    assert response.headers["etag"] == '"1"'
    assert events_of(users, user["id"]) == [("user.created", 1)]


def test_another_letter_case_of_ones_own_email_is_a_change_like_any(users: Served) -> None:
    user = create(users)
    assert patch(users, user["id"], email=user["email"].upper()).json()["version"] == 2


def test_a_change_to_anothers_email_is_refused_and_leaves_all_as_it_was(users: Served) -> None:
    first, second = create(users), create(users)
    before = users.stored()
    response = patch(users, second["id"], email=first["email"].upper(), name="Other")
    problem(response, 409, "email-taken")
    assert users.stored() == before


def test_an_email_given_up_is_free_for_others(users: Served) -> None:
    user = create(users)
    patch(users, user["id"], email=new_email())
    create(users, user["email"])


def test_a_change_needs_something_to_change(users: Served) -> None:
    user = create(users)
    found = problem(patch(users, user["id"]), 422, "invalid")
    assert "email, name, or both" in found["errors"][0]["detail"]
    for field in ("email", "name"):
        found = problem(patch(users, user["id"], **{field: None}), 422, "invalid")
        assert wrong_fields(found) == [("body", field)]


def test_an_unknown_user_cannot_be_changed_or_erased(users: Served) -> None:
    problem(patch(users, 999_999, name="Nobody"), 404, "user-not-found")
    problem(delete(users, 999_999), 404, "user-not-found")


MATCHING = ['"1"', "*", '"7", "1"', '"7","1"', 'W/"7", "1"', '"a,b", "1"']
STALE = ['"2"', '"0"', '"01"', 'W/"1"', '"2", "3"', '""', '"9999999999999999999999"', '"a,b"']
MALFORMED = ["1", '"1', "abc", '"1" "2"', '"1",', '*, "1"', "", 'w/"1"', '"1"x', "null"]


@pytest.mark.parametrize("etag", MATCHING)
def test_a_change_is_made_if_the_version_matches(users: Served, etag: str) -> None:
    user = create(users)
    assert patch(users, user["id"], etag, name="Changed").status_code == 200
    user = create(users)
    assert delete(users, user["id"], etag).status_code == 204


@pytest.mark.parametrize("etag", STALE)
def test_a_change_is_refused_if_the_version_is_another(users: Served, etag: str) -> None:
    user = create(users)
    before = users.stored()
    found = problem(patch(users, user["id"], etag, name="Changed"), 412, "precondition-failed")
    assert 'ETag "1"' in found["detail"]
    problem(delete(users, user["id"], etag), 412, "precondition-failed")
    assert users.stored() == before


@pytest.mark.parametrize("etag", MALFORMED)
def test_a_malformed_etag_is_refused_by_name(users: Served, etag: str) -> None:
    user = create(users)
    before = users.stored()
    for response in (
        patch(users, user["id"], etag, name="Changed"),
        delete(users, user["id"], etag),
    ):
        assert wrong_fields(problem(response, 422, "invalid")) == [("header", "if-match")]
    assert users.stored() == before


def test_if_match_in_two_header_lines_is_one_list(users: Served) -> None:
    user = create(users)
    lines = [("If-Match", '"7"'), ("If-Match", '"1"')]
    response = users.client.patch(f"/users/{user['id']}", json={"name": "Changed"}, headers=lines)
    assert response.status_code == 200


def test_the_second_writer_of_one_version_gets_412(users: Served) -> None:
    user = create(users)
    assert patch(users, user["id"], '"1"', name="First").status_code == 200
    problem(patch(users, user["id"], '"1"', name="Second"), 412, "precondition-failed")
    assert users.client.get(f"/users/{user['id']}").json()["name"] == "First"


def test_an_erased_user_is_gone_and_keeps_nothing_but_id_and_version(users: Served) -> None:
    user = create(users)
    response = delete(users, user["id"])
    assert (response.status_code, response.content) == (204, b"")
    for gone in (
        users.client.get(f"/users/{user['id']}"),
        users.client.get(f"/users/{user['id']}/orders"),
        patch(users, user["id"], name="Back"),
        delete(users, user["id"]),
    ):
        problem(gone, 404, "user-not-found")
    stored = users.rows(
        f"SELECT email, name, version, erased_at IS NOT NULL FROM users WHERE id = {user['id']}"
    )
    assert stored == [(None, None, 2, True)]


def test_the_email_of_an_erased_user_is_free_again(users: Served) -> None:
    user = create(users)
    delete(users, user["id"])
    again = create(users, user["email"])
    assert again["id"] > user["id"]
    assert again["version"] == 1


def test_each_change_is_published_with_the_whole_state_after_it(users: Served) -> None:
    user = create(users)
    id_ = user["id"]
    patch(users, id_, name="Wijaya")
    delete(users, id_)
    published = [event[1:5] for event in users.events() if event[2] == str(id_)]
    assert published == [
        ("user.created", str(id_), 1, user),
        ("user.updated", str(id_), 2, user | {"name": "Wijaya", "version": 2}),
        ("user.erased", str(id_), 3, {"id": id_, "version": 3, "created_at": user["created_at"]}),
    ]


def test_events_stand_in_the_outbox_without_a_hole(users: Served) -> None:
    create(users)
    positions = [event[0] for event in users.events()]
    assert positions == list(range(1, len(positions) + 1))


TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_a_trace_is_carried_on_by_the_events_it_caused(users: Served) -> None:
    traced = {"traceparent": TRACE}
    body = {"email": new_email(), "name": "Traced"}
    id_ = users.client.post("/users", json=body, headers=traced).json()["id"]
    users.client.patch(f"/users/{id_}", json={"name": "Still"}, headers=traced)
    users.client.delete(f"/users/{id_}", headers=traced)
    headers = [event[5] for event in users.events() if event[2] == str(id_)]
    assert headers == [{"traceparent": TRACE}] * 3


@pytest.mark.parametrize(
    "malformed",
    [
        "",
        "x" * 10_000,
        TRACE.upper(),
        TRACE + "-00",
        TRACE.replace("00-", "ff-", 1),
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"00-4bf92f3577b34da6a3ce929d0e0e4736-{'0' * 16}-01",
        f"{TRACE},{TRACE}",
        "00-4bf92f3577b34da6a3ce929d0e0e473\xe4-00f067aa0ba902b7-01",
        TRACE[:-1],
    ],
)
def test_a_malformed_trace_is_ignored(users: Served, malformed: str) -> None:
    response = users.client.post(
        "/users",
        json={"email": new_email(), "name": "Untraced"},
        headers=[(b"traceparent", malformed.encode("latin-1"))],
    )
    assert response.status_code == 201
    assert [event[5] for event in users.events() if event[2] == str(response.json()["id"])] == [
        None
    ]


def test_a_users_orders_are_listed_newest_first_with_count_and_total(users: Served) -> None:
    id_ = create(users)["id"]
    base = id_ * 1000
    users.hears(
        *(
            order_placed(base + n, id_, total_price="10.10", product=f"tea {n}")
            for n in range(1, 8)
        ),
        order_cancelled(base + 2, id_, total_price="10.10", product="tea 2"),
        order_placed(base + 900, user_id=10**9),
    )
    url = f"/users/{id_}/orders"
    page = users.client.get(url).json()
    assert [item["id"] - base for item in page["items"]] == [7, 6, 5, 4, 3, 2, 1]
    assert (page["count"], page["total"], page["next_cursor"]) == (7, "60.60", None)
    assert page["items"][5] == {
        "id": base + 2,
        "product": "tea 2",
        "quantity": 1,
        "total_price": "10.10",
        "status": "cancelled",
        "version": 2,
        "placed_at": "2026-01-02T03:04:05Z",
    }

    seen: list[int] = []
    params: dict[str, Any] = {"limit": 3}
    while True:
        page = users.client.get(url, params=params).json()
        seen += [item["id"] - base for item in page["items"]]
        # On every page: of all the orders, not of this page's.
        assert (page["count"], page["total"]) == (7, "60.60")
        if page["next_cursor"] is None:
            break
        params["cursor"] = page["next_cursor"]
    assert seen == [7, 6, 5, 4, 3, 2, 1]


def test_a_page_that_is_just_full_is_the_last(users: Served) -> None:
    id_ = create(users)["id"]
    users.hears(order_placed(id_ * 1000 + 1, id_), order_placed(id_ * 1000 + 2, id_))
    page = users.client.get(f"/users/{id_}/orders?limit=2").json()
    assert len(page["items"]) == 2
    assert page["next_cursor"] is None


def test_a_user_without_orders_has_an_empty_page(users: Served) -> None:
    id_ = create(users)["id"]
    page = users.client.get(f"/users/{id_}/orders").json()
    assert page == {"items": [], "next_cursor": None, "count": 0, "total": "0.00"}


def test_the_orders_of_an_unknown_user_are_not_found(users: Served) -> None:
    problem(users.client.get("/users/999999/orders"), 404, "user-not-found")
