"""The user service is killed while it issues tokens: nobody is logged out, and nobody gets a token twice."""

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

import httpx
import jwt
import psutil
import pytest

from tests.support.folders import short_directory
from tests.support.shop import Shop
from tests.support.waiting import until

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(300)]

PASSWORD = "correct horse battery staple"


@pytest.fixture(scope="module")
def shop() -> Iterator[Shop]:
    with short_directory() as directory:
        shop = Shop(directory / "data", ("--auth",))
        try:
            shop.start()
            yield shop
        finally:
            shop.close()


def answered(shop: Shop, method: str, url: str, **what: Any) -> httpx.Response | None:
    """None without an answer, or with one that says to ask again."""
    with suppress(httpx.TransportError):
        with httpx.Client(base_url=shop.users.base_url, timeout=20) as client:
            response = client.request(method, url, **what)
            if response.status_code not in {502, 503}:
                return response
    return None


def member(shop: Shop, name: str) -> dict[str, Any]:
    body = {"email": f"{name}@example.com", "name": name, "password": PASSWORD}
    assert shop.users.post("/users", json=body).status_code == 201
    del body["name"]
    session = shop.users.post("/sessions", json=body)
    assert session.status_code == 201, session.text
    return dict(session.json())


def kill_api(shop: Shop) -> None:
    with suppress(psutil.NoSuchProcess, AssertionError):
        shop.part("users-api").kill()


def refreshed(shop: Shop, token: str) -> httpx.Response | None:
    form = {"grant_type": "refresh_token", "refresh_token": token}
    return answered(shop, "POST", "/token", data=form)


def test_a_refresh_that_is_killed_can_be_repeated_at_every_moment(shop: Shop) -> None:
    session = member(shop, "killed")
    token = session["refresh_token"]
    seeded = random.Random(5)
    lost = kills = 0
    while kills < 3 or (kills < 10 and not lost):
        kills += 1
        killing = threading.Timer(seeded.uniform(0.0, 0.03), kill_api, [shop])
        killing.start()
        first = refreshed(shop, token)
        killing.join()
        lost += first is None
        again = until(partial(refreshed, shop, token), timeout=60)
        assert again is not None
        assert again.status_code == 200, again.text
        if first is not None:
            assert again.content == first.content
        token = again.json()["refresh_token"]
        claims = jwt.decode(again.json()["access_token"], options={"verify_signature": False})
        assert claims["sid"] == session["session_id"]
    assert lost, "no answer was lost: the kills came too late"
    [(generation,)] = shop.rows(
        "users", "SELECT generation FROM sessions WHERE id = %s", session["session_id"]
    )
    assert generation == 1 + kills


def test_a_password_change_that_is_killed_is_done_as_a_whole_or_not_at_all(shop: Shop) -> None:
    seeded = random.Random(7)
    for n in range(2):
        session = member(shop, f"changing{n}")
        url = f"/users/{session['user_id']}/password"
        change = {"current_password": PASSWORD, "new_password": "four other words here"}
        killing = threading.Timer(seeded.uniform(0.05, 0.25), kill_api, [shop])
        killing.start()
        answered(shop, "POST", url, json=change)
        killing.join()
        until(partial(answered, shop, "GET", "/health/ready"), timeout=60)
        email = f"changing{n}@example.com"
        with_new = {"email": email, "password": "four other words here"}
        changed = until(partial(answered, shop, "POST", "/sessions", json=with_new), timeout=60)
        assert changed is not None
        alive = shop.rows("users", "SELECT FROM sessions WHERE id = %s", session["session_id"])
        raised = shop.rows(
            "users",
            "SELECT FROM access WHERE subject = %s AND reason = 'password_changed'",
            f"user:{session['user_id']}",
        )
        done = changed.status_code == 201
        assert (not alive, bool(raised)) == (done, done)


def test_a_flood_of_logins_refuses_no_order_and_no_look_at_a_user(shop: Shop) -> None:
    """What is refused is a login, with a time to try again; orders and users are answered, all of them."""
    session = member(shop, "buyer")
    auth = {"Authorization": f"Bearer {session['access_token']}"}
    order = {"product": "tea", "quantity": 1, "total_price": 1}
    until(lambda: shop.orders.post("/orders", json=order, headers=auth).status_code == 201 or None)
    stop = threading.Event()
    answers: list[httpx.Response] = []

    def flood(number: int) -> None:
        with httpx.Client(base_url=shop.users.base_url, timeout=30) as client:
            while not stop.is_set():
                body = {"email": f"nobody{number}@example.com", "password": "wrong password"}
                answers.append(client.post("/sessions", json=body))

    with ThreadPoolExecutor(80) as pool:
        floods = [pool.submit(flood, number) for number in range(80)]
        try:
            for _ in range(40):
                placed = shop.orders.post("/orders", json=order, headers=auth)
                assert placed.status_code == 201, placed.text
                looked = shop.users.get(f"/users/{session['user_id']}", headers=auth)
                assert looked.status_code == 200, looked.text
        finally:
            stop.set()
    for each in floods:
        each.result()
    kinds = {answer.status_code for answer in answers}
    assert kinds <= {401, 429, 503}
    assert kinds & {429, 503}, "that was no flood"
    for answer in answers:
        if answer.status_code in {429, 503}:
            assert int(answer.headers["retry-after"]) >= 1


def test_after_all_that_tables_and_log_agree(shop: Shop) -> None:
    audit = shop.run("audit")
    assert audit.returncode == 0, audit.stdout + audit.stderr
