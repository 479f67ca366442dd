"""`POST /token`: every error body is that of RFC 6749, and secrets of clients can be replaced."""

import threading
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from shop.services.users.identity import clients
from shop.services.users.identity.clients import ClientRefused
from tests.support.issuer import Issuer, issuing
from tests.support.serving import stalled
from tests.support.shop import run_shop
from tests.support.waiting import until

GRANT = {"grant_type": "client_credentials"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.fixture(scope="module")
def secret(issuer: Issuer) -> str:
    return issuer.do(lambda tx: clients.new(tx, "billing", ["orders:read", "users:read"]))


def refused(answer: httpx.Response, status: int, error: str) -> dict[str, str]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    document: dict[str, str] = answer.json()
    assert sorted(document) == ["error", "error_description"]
    assert document["error"] == error
    assert document["error_description"].isascii()
    return document


@pytest.mark.parametrize(
    ("form", "status", "error"),
    [
        ({}, 400, "invalid_request"),
        ({"grant_type": ""}, 400, "invalid_request"),
        ({"grant_type": "password", "username": "a", "password": "b"}, 400, "unsupported_grant_type"),
        ({"grant_type": "authorization_code"}, 400, "unsupported_grant_type"),
        ({"grant_type": "refresh_token"}, 400, "invalid_request"),
        ({"grant_type": "refresh_token", "refresh_token": "x"}, 400, "invalid_grant"),
        ({"grant_type": "refresh_token", "refresh_token": "x", "client_id": "y"}, 401, "invalid_client"),
        ({"grant_type": "refresh_token", "refresh_token": "x", "client_secret": "y"}, 401, "invalid_client"),
        (GRANT, 401, "invalid_client"),
        ({**GRANT, "client_id": "billing"}, 401, "invalid_client"),
        ({**GRANT, "client_id": "billing", "client_secret": "wrong"}, 401, "invalid_client"),
        ({**GRANT, "client_id": "nobody", "client_secret": "wrong"}, 401, "invalid_client"),
        ({**GRANT, "client_id": "a\x00b", "client_secret": "wrong"}, 401, "invalid_client"),
        ({**GRANT, "client_id": "x", "client_secret": "y", "scope": "a  b"}, 400, "invalid_scope"),
    ],
)  # fmt: skip
def test_a_wrong_form_gets_the_error_of_rfc_6749(
    issuer: Issuer, form: dict[str, Any], status: int, error: str
) -> None:
    answer = issuer.client.post("/token", data=form, headers=FORM)
    refused(answer, status, error)
    assert "www-authenticate" not in answer.headers


@pytest.mark.parametrize(
    ("content", "headers"),
    [
        (b"grant_type=refresh_token&grant_type=refresh_token", FORM),
        (b"grant_type=%ff", FORM),
        (b"&".join(b"a%d=1" % n for n in range(101)), FORM),
        (b"x=" + b"y" * 70_000, FORM),
        (b'{"grant_type":"refresh_token"}', {"Content-Type": "application/json"}),
        (b"grant_type=refresh_token", {}),
    ],
    ids=["twice", "no UTF-8", "too many", "too large", "JSON", "no type"],
)
def test_what_is_no_form_is_an_invalid_request(
    issuer: Issuer, content: bytes, headers: dict[str, str]
) -> None:
    refused(issuer.client.post("/token", content=content, headers=headers), 400, "invalid_request")


def test_unknown_and_empty_parameters_are_ignored(issuer: Issuer, secret: str) -> None:
    form = {**GRANT, "scope": "", "resource": "x", "client_id": ""}
    answer = issuer.client.post("/token", data=form, auth=("billing", secret))
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("by_header", [True, False])
def test_a_client_gets_a_token_of_its_own_and_no_refresh_token(
    issuer: Issuer, secret: str, *, by_header: bool
) -> None:
    given: dict[str, Any] = {"data": GRANT, "auth": ("billing", secret)}
    if not by_header:
        given = {"data": {**GRANT, "client_id": "billing", "client_secret": secret}}
    answer = issuer.client.post("/token", **given)
    assert answer.status_code == 200, answer.text
    assert sorted(answer.json()) == ["access_token", "expires_in", "scope", "token_type"]
    claims = issuer.claims(answer.json()["access_token"])
    assert claims["sub"] == "service_account:billing"
    assert claims["client_id"] == "billing"
    assert claims["roles"] == ["service"]
    assert claims["scope"] == "orders:read users:read"
    assert "sid" not in claims


@pytest.mark.parametrize("authorization", ["Basic", "Basic !", "Basic YQ==", "Bearer x", ""])
def test_a_client_that_comes_with_a_header_is_challenged(
    issuer: Issuer, authorization: str
) -> None:
    headers = {"Authorization": authorization}
    answer = issuer.client.post("/token", data=GRANT, headers=headers)
    refused(answer, 401, "invalid_client")
    assert answer.headers["www-authenticate"].startswith('Basic realm="eventshop"')


def test_a_client_may_ask_for_less_and_not_for_more(issuer: Issuer, secret: str) -> None:
    asks = {"auth": ("billing", secret)}
    less = issuer.client.post("/token", data={**GRANT, "scope": "users:read"}, **asks)  # type: ignore[arg-type]
    assert less.json()["scope"] == "users:read"
    more = issuer.client.post("/token", data={**GRANT, "scope": "users:write"}, **asks)  # type: ignore[arg-type]
    refused(more, 400, "invalid_scope")


def test_two_secrets_work_until_the_older_one_is_dropped(issuer: Issuer) -> None:
    first = issuer.do(lambda tx: clients.new(tx, "shipping", ["orders:read"]))
    second = issuer.do(lambda tx: clients.new(tx, "shipping", []))
    with pytest.raises(ClientRefused, match="--oldest-secret"):
        issuer.do(lambda tx: clients.new(tx, "shipping", []))

    def code(secret: str) -> int:
        return issuer.client.post("/token", data=GRANT, auth=("shipping", secret)).status_code

    assert (code(first), code(second)) == (200, 200)
    issuer.do(lambda tx: clients.retire(tx, "shipping", oldest_secret=True))
    assert (code(first), code(second)) == (401, 200)
    issuer.do(lambda tx: clients.retire(tx, "shipping"))
    assert code(second) == 401
    changed = issuer.published("access.changed")[-1]
    assert changed["id"] == "access:client:shipping"
    assert changed["subject"] == "service_account:shipping"
    assert changed["locked"] is True
    # Made again, it may come in, with tokens of a later generation alone.
    third = issuer.do(lambda tx: clients.new(tx, "shipping", ["orders:read"]))
    token = issuer.client.post("/token", data=GRANT, auth=("shipping", third)).json()
    assert issuer.claims(token["access_token"])["gen"] == 2


@pytest.mark.heavy
def test_a_clients_secret_is_replaced_under_load_and_no_request_is_refused(
    users_url: str, tmp_path: Path
) -> None:
    auth = {"required": True, "service_requests_a_second": 100_000}
    with issuing(users_url, tmp_path, auth=auth) as issuer:
        user = issuer.user()["id"]

        def command(*words: str) -> str:
            done = run_shop("clients", *words, SHOP_USERS__DATABASE_URL=issuer.served.database_url)
            assert done.returncode == 0, done.stderr
            return done.stdout.strip()

        old = command("new", "shipping", "--scope", "users:read")
        given = [old]
        """What the service has been given last."""
        codes: set[int] = set()
        served: list[Counter[str]] = [Counter(), Counter()]
        """How often each process of the service was served, by its secret."""
        stop = threading.Event()

        def use(count: Counter[str]) -> None:
            with httpx.Client(base_url=issuer.client.base_url, timeout=20) as client:
                while not stop.is_set():
                    [secret] = given
                    granted = client.post("/token", data=GRANT, auth=("shipping", secret))
                    token = granted.json().get("access_token")
                    headers = {"Authorization": f"Bearer {token}"}
                    read = client.get(f"/users/{user}", headers=headers)
                    codes.update([granted.status_code, read.status_code])
                    count[secret] += 1

        def more(secret: str) -> None:
            """Wait until each has been served by this secret some more times."""
            goals = [count[secret] + 10 for count in served]
            until(
                lambda: all(count[secret] >= goal for count, goal in zip(served, goals, strict=True))
                or codes - {200},
                "answers", 60,
            )  # fmt: skip
            assert codes == {200}

        loads = [threading.Thread(target=use, args=[count]) for count in served]
        for load in loads:
            load.start()
        try:
            # The steps of docs/operations.md.
            more(old)
            new = command("new", "shipping")
            more(old)
            given[:] = [new]
            more(new)
            command("retire", "shipping", "--oldest-secret")
            more(new)
        finally:
            stop.set()
            for load in loads:
                load.join(30)
        assert codes == {200}
        refused(
            issuer.client.post("/token", data=GRANT, auth=("shipping", old)), 401, "invalid_client"
        )


def test_a_secret_is_not_stored(issuer: Issuer, secret: str) -> None:
    stored = str(issuer.served.rows("SELECT t::text FROM client_secrets t"))
    assert secret not in stored
    assert secret.encode().hex() not in stored


def test_while_the_database_hangs_the_answer_says_to_ask_again(issuer: Issuer) -> None:
    """What ended a session must be published, which waits here, until PostgreSQL ends it."""
    token = issuer.session(issuer.user())["refresh_token"]
    issuer.refresh(token)
    issuer.served.connection.execute(
        "UPDATE refresh_answers SET answered_at = answered_at - interval '31 seconds'"
    )
    url = issuer.served.database_url
    with stalled(url), httpx.Client(base_url=issuer.client.base_url, timeout=0.3) as client:
        form = {"grant_type": "refresh_token", "refresh_token": token}
        with pytest.raises(httpx.ReadTimeout):
            client.post("/token", data=form)
    # The session is ended once, although nobody heard of it.
    refused(issuer.refresh(token), 400, "invalid_grant")
    ended = [each["id"] for each in issuer.published("session.ended")]
    assert len(ended) == len(set(ended))
