"""Logins, sessions and refresh tokens, as clients know them."""

from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import httpx
import jwt
import pytest

from shop.services.users.identity import sessions
from shop.services.users.identity.refresh_tokens import opaque_hash
from tests.support.issuer import AUDIENCE, ISSUER, PASSWORD, Issuer
from tests.support.serving import problem, wrong_fields


def refused(answer: httpx.Response, error: str, status: int = 400) -> str:
    """The answer, which must be this error of RFC 6749; its description."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    document = answer.json()
    assert set(document) == {"error", "error_description"}
    assert document["error"] == error
    return str(document["error_description"])


def test_a_login_answers_an_access_token_as_rfc_9068_describes_it(issuer: Issuer) -> None:
    user = issuer.user()
    answer = issuer.log_in(user["email"])
    assert answer.status_code == 201
    assert answer.headers["cache-control"] == "no-store"
    session = answer.json()
    assert session["token_type"] == "Bearer"
    assert session["expires_in"] == 300
    assert session["user_id"] == user["id"]
    header = jwt.get_unverified_header(session["access_token"])
    assert header["typ"] == "at+jwt"
    assert header["alg"] == "RS256"
    claims = issuer.claims(session["access_token"])
    assert claims == {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": f"user:{user['id']}",
        "iat": claims["iat"],
        "exp": claims["iat"] + 300,
        "jti": claims["jti"],
        "client_id": "eventshop",
        "scope": "users:read users:write orders:read orders:write",
        "roles": ["customer"],
        "sid": session["session_id"],
        "gen": 0,
    }


def test_the_address_of_a_login_may_be_in_any_case(issuer: Issuer) -> None:
    user = issuer.user()
    assert issuer.log_in(user["email"].upper()).status_code == 201


def test_a_wrong_password_and_an_unknown_address_get_the_same_answer(issuer: Issuer) -> None:
    user = issuer.user()
    wrong = issuer.log_in(user["email"], "wrong password")
    unknown = issuer.log_in("nobody@example.com", "wrong password")
    without = issuer.log_in(issuer.user(password=None)["email"], "wrong password")
    problem(wrong, 401, "wrong-credentials")
    assert wrong.content == unknown.content == without.content
    assert wrong.headers["www-authenticate"] == unknown.headers["www-authenticate"]


@pytest.mark.parametrize(
    "password",
    ["1234567", "x" * 129, "with\x00nul", "two\nlines", "aaaaaaaaaa", "Password123", "\x85" * 9],
)
def test_a_password_that_is_not_taken_is_named_and_not_shown(issuer: Issuer, password: str) -> None:
    body = {"email": "new@example.com", "name": "New", "password": password}
    answer = issuer.client.post("/users", json=body)
    assert wrong_fields(problem(answer, 422, "invalid")) == [("body", "password")]
    assert password not in answer.text


def test_the_length_of_a_password_is_counted_in_characters(issuer: Issuer) -> None:
    def said(path: str, **body: str) -> str:
        answer = problem(issuer.client.post(path, json=body), 422, "invalid")
        return str(answer["errors"][0]["detail"])

    short = said("/users", email="new@example.com", name="New", password="short")
    assert short == "must have 8 to 128 characters, and has 5"
    assert said("/sessions", email="a@example.com", password="") == (
        "must have 1 to 1000 characters"
    )


@pytest.mark.parametrize("password", ["12345678x", "x1" * 64, "pässwörter 🔑 mit Leerzeichen"])
def test_a_password_of_8_to_128_characters_of_any_script_logs_in(
    issuer: Issuer, password: str
) -> None:
    user = issuer.user(password)
    assert issuer.log_in(user["email"], password).status_code == 201
    problem(issuer.log_in(user["email"], f"{password}?"), 401, "wrong-credentials")


def test_a_password_typed_in_other_code_points_is_the_same(issuer: Issuer) -> None:
    user = issuer.user("Ångström units")
    assert issuer.log_in(user["email"], "Ångström units").status_code == 201


def test_a_lone_surrogate_in_a_password_is_a_clear_422(issuer: Issuer) -> None:
    body = b'{"email":"new@example.com","name":"New","password":"abcdefgh\\ud800"}'
    answer = issuer.client.post(
        "/users", content=body, headers={"Content-Type": "application/json"}
    )
    assert wrong_fields(problem(answer, 422, "invalid")) == [("body", "password")]


def test_a_user_without_a_password_is_created_as_before(issuer: Issuer) -> None:
    user = issuer.user(password=None)
    assert set(user) == {"id", "email", "name", "version", "created_at"}


def test_a_refresh_gives_new_tokens_of_the_same_session(issuer: Issuer) -> None:
    session = issuer.session(issuer.user())
    answer = issuer.refresh(session["refresh_token"])
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store"
    tokens = answer.json()
    assert set(tokens) == {"access_token", "token_type", "expires_in", "scope", "refresh_token"}
    assert tokens["refresh_token"] != session["refresh_token"]
    assert issuer.claims(tokens["access_token"])["sid"] == session["session_id"]


def test_a_repeated_refresh_gets_the_same_answer_to_the_byte(issuer: Issuer) -> None:
    token = issuer.session(issuer.user())["refresh_token"]
    first = issuer.refresh(token)
    again = issuer.refresh(token)
    assert again.status_code == 200
    assert first.content == again.content
    # And so after the next one was used: another tab may be slow.
    assert issuer.refresh(first.json()["refresh_token"]).status_code == 200
    assert issuer.refresh(token).content == first.content


def test_many_tabs_that_refresh_at_once_get_one_answer(issuer: Issuer) -> None:
    token = issuer.session(issuer.user())["refresh_token"]
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(issuer.refresh, [token] * 12))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1


def age(issuer: Issuer, seconds: int) -> None:
    """All answers were given so long ago."""
    issuer.served.connection.execute(
        "UPDATE refresh_answers SET answered_at = answered_at - %s * interval '1 second'",
        [seconds],
    )


def test_a_token_used_again_later_ends_its_session_and_says_so(issuer: Issuer) -> None:
    user = issuer.user()
    session = issuer.session(user)
    first = issuer.refresh(session["refresh_token"]).json()
    age(issuer, 31)
    refused(issuer.refresh(session["refresh_token"]), "invalid_grant")
    # The thief's and the user's: nobody can tell which is which.
    refused(issuer.refresh(first["refresh_token"]), "invalid_grant")
    ended = issuer.published("session.ended")[-1]
    assert UUID(ended["session_id"]) == UUID(session["session_id"])
    assert ended["reason"] == "refresh_token_reused"
    changed = issuer.published("access.changed")[-1]
    assert changed["subject"] == f"user:{user['id']}"
    assert changed["generation"] == 1
    # A new login is taken again, with the new generation.
    assert issuer.claims(issuer.session(user)["access_token"])["gen"] == 1


def test_a_repeat_is_answered_although_the_clock_was_set_back(issuer: Issuer) -> None:
    token = issuer.session(issuer.user())["refresh_token"]
    first = issuer.refresh(token)
    age(issuer, -3600)
    assert issuer.refresh(token).content == first.content


def test_an_invented_token_ends_no_session(issuer: Issuer) -> None:
    session = issuer.session(issuer.user())
    token = session["refresh_token"]
    # The session's id is no secret: it stands in every access token.
    from shop.services.users.identity.refresh_tokens import first

    forged = first(UUID(session["session_id"])).text()
    for wrong in (forged, token[:-1], token + "A", "x", "eventshop_rt_" + "A" * 86):
        refused(issuer.refresh(wrong), "invalid_grant")
    assert issuer.refresh(token).status_code == 200


def test_no_secret_is_stored_as_it_is(issuer: Issuer) -> None:
    session = issuer.session(issuer.user())
    after = issuer.refresh(session["refresh_token"]).json()
    everything = str(
        [
            issuer.served.rows(f"SELECT t::text FROM {table} t")
            for (table,) in issuer.served.rows(
                "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
            )
        ]
    )
    for secret in (
        session["refresh_token"],
        after["refresh_token"],
        session["access_token"],
        after["access_token"],
        session["device_token"],
        PASSWORD,
    ):
        assert secret not in everything
        assert secret.encode().hex() not in everything


def test_a_session_that_has_ended_refreshes_no_more(issuer: Issuer) -> None:
    session = issuer.session(issuer.user())
    answer = issuer.client.delete(f"/sessions/{session['session_id']}")
    assert answer.status_code == 204
    refused(issuer.refresh(session["refresh_token"]), "invalid_grant")
    problem(issuer.client.delete(f"/sessions/{session['session_id']}"), 404, "session-not-found")
    assert issuer.published("session.ended")[-1]["reason"] == "signed_out"


def test_sessions_are_listed_and_ended_everywhere(issuer: Issuer) -> None:
    user = issuer.user()
    sessions = [issuer.session(user) for _ in range(3)]
    listed = issuer.client.get(f"/users/{user['id']}/sessions").json()["items"]
    assert {each["id"] for each in listed} == {each["session_id"] for each in sessions}
    assert listed[0]["device"].startswith("python-httpx/")
    assert issuer.client.delete(f"/users/{user['id']}/sessions").status_code == 204
    assert issuer.client.get(f"/users/{user['id']}/sessions").json() == {"items": []}
    for each in sessions:
        refused(issuer.refresh(each["refresh_token"]), "invalid_grant")
    assert issuer.published("access.changed")[-1]["reason"] == "signed_out_everywhere"
    for method in ("GET", "DELETE"):
        problem(issuer.client.request(method, "/users/999999/sessions"), 404, "user-not-found")


def test_a_session_that_was_idle_for_too_long_is_over(issuer: Issuer) -> None:
    session = issuer.session(issuer.user())
    where = f"WHERE id = '{session['session_id']}'"
    issuer.served.connection.execute(
        f"UPDATE sessions SET running_ms = running_ms - 14 * 86400000 - 1 {where}"
    )
    refused(issuer.refresh(session["refresh_token"]), "invalid_grant")
    assert issuer.client.get(f"/users/{session['user_id']}/sessions").json() == {"items": []}


def test_a_session_that_is_refreshed_very_often_is_slowed(issuer: Issuer) -> None:
    token = issuer.session(issuer.user())["refresh_token"]
    for _ in range(10):
        token = issuer.refresh(token).json()["refresh_token"]
    answer = issuer.refresh(token)
    refused(answer, "slow_down", 429)
    assert answer.headers["retry-after"] == "30"
    age(issuer, 31)
    assert issuer.refresh(token).status_code == 200


def test_a_refresh_may_ask_for_fewer_scopes_and_not_for_others(issuer: Issuer) -> None:
    token = issuer.session(issuer.user())["refresh_token"]
    refused(issuer.refresh(token, scope="orders:read keys:write"), "invalid_scope")
    tokens = issuer.refresh(token, scope="orders:read").json()
    assert tokens["scope"] == "orders:read"
    assert issuer.claims(tokens["access_token"])["scope"] == "orders:read"


def test_the_newest_devices_of_a_user_are_remembered(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "_MOST_DEVICES", 3)
    user = issuer.user()

    def remembered() -> list[str]:
        known = issuer.served.rows(f"SELECT token_hash FROM devices WHERE user_id = {user['id']}")
        return [token for token in tokens if (opaque_hash(token),) in known]

    tokens = [issuer.session(user)["device_token"] for _ in range(3)]
    assert remembered() == tokens
    issuer.served.connection.execute(
        "UPDATE devices SET running_ms = running_ms - 1000 WHERE token_hash <> %s",
        [opaque_hash(tokens[0])],
    )
    assert issuer.log_in(user["email"], device_token=tokens[0]).status_code == 201
    assert remembered() == tokens
    tokens += [issuer.session(user)["device_token"] for _ in range(2)]
    assert remembered() == [tokens[0], *tokens[3:]]
