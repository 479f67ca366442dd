"""How passwords are changed, reset, hashed and forgotten."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from eventspine.errors import Overloaded
from shop.services.users.identity.logins import Logins
from shop.services.users.identity.passwords import Passwords
from tests.support.issuer import PASSWORD, Issuer, issuing
from tests.support.serving import problem, wrong_fields
from tests.support.waiting import until

NEW = "another fine passphrase"


def change(issuer: Issuer, user_id: int, **body: str) -> httpx.Response:
    return issuer.client.post(f"/users/{user_id}/password", json={"new_password": NEW, **body})


def test_a_changed_password_ends_all_sessions_and_is_the_only_one(issuer: Issuer) -> None:
    user = issuer.user()
    session = issuer.session(user)
    assert change(issuer, user["id"], current_password=PASSWORD).status_code == 204
    assert issuer.refresh(session["refresh_token"]).json()["error"] == "invalid_grant"
    problem(issuer.log_in(user["email"]), 401, "wrong-credentials")
    assert issuer.claims(issuer.session(user, NEW)["access_token"])["gen"] == 1
    assert issuer.published("access.changed")[-1]["reason"] == "password_changed"


def test_a_wrong_current_password_and_a_missing_user_get_the_same_answer(issuer: Issuer) -> None:
    user = issuer.user()
    wrong = change(issuer, user["id"], current_password="wrong password")
    missing = change(issuer, 999_999, current_password="wrong password")
    problem(wrong, 401, "wrong-credentials")
    assert wrong.content == missing.content


def test_a_change_needs_one_proof(issuer: Issuer) -> None:
    user = issuer.user()
    for proofs in ({}, {"current_password": PASSWORD, "reset_token": "x"}):
        document = problem(change(issuer, user["id"], **proofs), 422, "invalid")
        assert document["errors"][0]["detail"] == "give either current_password or reset_token"
    weak = change(issuer, user["id"], current_password=PASSWORD, new_password="short")
    assert wrong_fields(problem(weak, 422, "invalid")) == [("body", "new_password")]


def test_a_reset_token_sets_a_password_once(issuer: Issuer) -> None:
    user = issuer.user(password=None)
    answer = issuer.client.post(f"/users/{user['id']}/password-reset")
    assert answer.status_code == 201
    assert answer.headers["cache-control"] == "no-store"
    token = answer.json()["reset_token"]
    assert token not in str(issuer.served.rows("SELECT t::text FROM password_resets t"))
    assert change(issuer, user["id"], reset_token=token).status_code == 204
    assert issuer.log_in(user["email"], NEW).status_code == 201
    problem(change(issuer, user["id"], reset_token=token), 401, "wrong-credentials")


def test_a_reset_token_is_only_for_its_user_and_only_the_newest_works(issuer: Issuer) -> None:
    user, other = issuer.user(), issuer.user()
    first, second = (
        issuer.client.post(f"/users/{user['id']}/password-reset").json()["reset_token"]
        for _ in range(2)
    )
    problem(change(issuer, other["id"], reset_token=second), 401, "wrong-credentials")
    problem(change(issuer, user["id"], reset_token=first), 401, "wrong-credentials")
    assert change(issuer, user["id"], reset_token=second).status_code == 204


def test_a_reset_token_works_for_an_hour(issuer: Issuer) -> None:
    user = issuer.user()
    token = issuer.client.post(f"/users/{user['id']}/password-reset").json()["reset_token"]
    issuer.served.connection.execute("UPDATE password_resets SET running_ms = running_ms - 3600001")
    problem(change(issuer, user["id"], reset_token=token), 401, "wrong-credentials")


def test_who_is_erased_has_no_password_and_no_session_left(issuer: Issuer) -> None:
    user = issuer.user()
    session = issuer.session(user)
    issuer.client.post(f"/users/{user['id']}/password-reset")
    assert issuer.client.delete(f"/users/{user['id']}").status_code == 204
    for table in ("credentials", "sessions", "devices", "password_resets"):
        rows = issuer.served.rows(f"SELECT FROM {table} WHERE user_id = {user['id']}")
        assert rows == [], table
    *_, erased, changed = ((type_, key) for _, type_, key, *_ in issuer.served.events())
    assert erased == ("user.erased", str(user["id"]))
    assert changed == ("access.changed", f"access:{user['id']}")
    assert issuer.published("access.changed")[-1]["locked"] is True
    assert issuer.refresh(session["refresh_token"]).json()["error"] == "invalid_grant"
    problem(issuer.log_in(user["email"]), 401, "wrong-credentials")
    problem(issuer.client.post(f"/users/{user['id']}/password-reset"), 404, "user-not-found")


def test_a_repeated_creation_with_a_key_is_one_although_each_hash_is_another(
    issuer: Issuer,
) -> None:
    body = {"email": "repeated@example.com", "name": "R", "password": PASSWORD}
    headers = {"Idempotency-Key": "create-with-password"}
    first, again = (issuer.client.post("/users", json=body, headers=headers) for _ in range(2))
    assert first.status_code == again.status_code == 201
    assert first.content == again.content
    assert issuer.log_in("repeated@example.com").status_code == 201


def store_weakly(issuer: Issuer, user: dict[str, Any]) -> None:
    """Store the password's hash with lower parameters, as an earlier version would have."""

    async def hashed() -> str:
        weak = Passwords(memory_kib=8 * 1024, passes=1)
        try:
            return await weak.hash(PASSWORD)
        finally:
            await weak.close()

    issuer.served.connection.execute(
        "UPDATE credentials SET password_hash = %s WHERE user_id = %s",
        [asyncio.run(hashed()), user["id"]],
    )


def test_a_password_hashed_with_lower_parameters_is_hashed_again_at_login(
    issuer: Issuer,
) -> None:
    user = issuer.user()
    stored = f"SELECT password_hash FROM credentials WHERE user_id = {user['id']}"
    store_weakly(issuer, user)
    issuer.session(user)
    [(now,)] = issuer.served.rows(stored)
    assert now.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    issuer.session(user)
    assert issuer.served.rows(stored) == [(now,)]


def test_of_two_logins_that_hash_the_password_again_both_succeed(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = issuer.user()
    store_weakly(issuer, user)
    both_found = threading.Barrier(2)
    checked = Logins._checked

    async def after_both(self: Logins, *given: Any) -> Any:
        await asyncio.to_thread(both_found.wait, 60)
        return await checked(self, *given)

    monkeypatch.setattr(Logins, "_checked", after_both)
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(issuer.log_in, [user["email"]] * 2))
    assert [answer.status_code for answer in answers] == [201, 201]


def test_a_login_succeeds_although_there_is_no_turn_to_hash_the_password_again(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = issuer.user()
    store_weakly(issuer, user)

    async def full(*_: object) -> str:
        raise Overloaded("64 callers are waiting already")

    with monkeypatch.context() as patched:
        patched.setattr(Passwords, "hash", full)
        issuer.session(user)
    issuer.session(user)
    [(now,)] = issuer.served.rows(
        f"SELECT password_hash FROM credentials WHERE user_id = {user['id']}"
    )
    assert "m=19456" in now


def test_a_reset_that_could_not_be_tried_is_no_wrong_attempt(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = issuer.user()
    token = issuer.client.post(f"/users/{user['id']}/password-reset").json()["reset_token"]

    async def full(*_: object) -> str:
        raise Overloaded("64 callers are waiting already")

    with monkeypatch.context() as patched:
        patched.setattr(Passwords, "hash", full)
        for _ in range(6):
            problem(change(issuer, user["id"], reset_token=token), 503, "temporarily-unavailable")
    assert change(issuer, user["id"], reset_token=token).status_code == 204
    for _ in range(5):
        problem(change(issuer, user["id"], reset_token=token), 401, "wrong-credentials")
    problem(change(issuer, user["id"], reset_token=token), 429, "too-many-attempts")


@pytest.mark.parametrize("account", ["there", "without a password", "unknown"])
def test_every_login_costs_one_hash_whether_or_not_the_user_exists(
    issuer: Issuer, account: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[str] = []
    verify = Passwords._verify

    def counted(self: Passwords, stored: str, password: str) -> bool:
        compared.append(stored)
        return verify(self, stored, password)

    monkeypatch.setattr(Passwords, "_verify", counted)
    email = "unknown@example.com"
    if account != "unknown":
        email = issuer.user(PASSWORD if account == "there" else None)["email"]
    problem(issuer.log_in(email, "wrong password"), 401, "wrong-credentials")
    assert [stored.rpartition("$")[0].rpartition("$")[0] for stored in compared] == [
        "$argon2id$v=19$m=19456,t=2,p=1"
    ]


def test_one_login_too_many_is_refused_at_once_and_nothing_else_is(
    users_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    going_on = threading.Event()
    begun = threading.Semaphore(0)

    def slow(self: Passwords, stored: str, password: str) -> bool:
        begun.release()
        going_on.wait(60)
        return False

    monkeypatch.setattr(Passwords, "_verify", slow)
    with issuing(users_url, tmp_path, max_waiting_passwords=2) as issuer:
        try:
            with ThreadPoolExecutor(8) as pool:
                first = pool.submit(issuer.log_in, "a@example.com")
                assert begun.acquire(timeout=60)
                waiting = [pool.submit(issuer.log_in, f"{n}@example.com") for n in range(5)]
                until(lambda: sum(each.done() for each in waiting) >= 3, "three are refused")
                refused = [each.result() for each in waiting if each.done()]
                for answer in refused:
                    problem(answer, 503, "temporarily-unavailable")
                    assert answer.headers["retry-after"] == "1"
                assert len(refused) == 3
                # Users are created and read as ever.
                user = issuer.user(password=None)
                assert issuer.client.get(f"/users/{user['id']}").status_code == 200
                going_on.set()
                problem(first.result(), 401, "wrong-credentials")
        finally:
            going_on.set()


def test_a_login_has_one_deadline_for_all_its_steps(
    users_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with issuing(users_url, tmp_path) as issuer:
        user = issuer.user()

    def slow(self: Passwords, stored: str, password: str) -> bool:
        time.sleep(0.6)
        return True

    monkeypatch.setattr(Passwords, "_verify", slow)
    with issuing(users_url, tmp_path, request_timeout_ms=500) as issuer:
        problem(issuer.log_in(user["email"]), 503, "temporarily-unavailable")
        assert issuer.served.rows(f"SELECT FROM sessions WHERE user_id = {user['id']}") == []
