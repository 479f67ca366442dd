"""The shop with tokens required, as a person starts it and uses it: `shop up --auth`."""

import json
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.engines import Engine
from tests.support.folders import short_directory
from tests.support.shop import Shop, environment, shop_command
from tests.support.waiting import until

PASSWORD = "correct horse battery staple"


@pytest.fixture(scope="module")
def shop(engine: Engine) -> Iterator[Shop]:
    engine.forget()
    with short_directory() as directory:
        options = (*engine.up_options, "--auth")
        logs = directory / "logs"
        shop = Shop(directory / "data", options, fronts=["console"], SHOP_LOG_DIR=logs)
        try:
            shop.start()
            yield shop
        finally:
            shop.close()


def words(shop: Shop, *command: object, **more: Any) -> subprocess.CompletedProcess[str]:
    """A command beside it, with stdin and an environment."""
    stdin = more.pop("stdin", "")
    return subprocess.run(
        shop_command(*command),
        env=environment(**more),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def member(shop: Shop, name: str) -> dict[str, Any]:
    """A user who has logged in."""
    email = f"{name}@example.com"
    body = {"email": email, "name": name, "password": PASSWORD}
    user = shop.users.post("/users", json=body)
    assert user.status_code == 201, user.text
    session = shop.users.post("/sessions", json={"email": email, "password": PASSWORD})
    assert session.status_code == 201, session.text
    return dict(session.json())


def answered(response: httpx.Response, status: int) -> httpx.Response:
    assert response.status_code == status, response.text
    return response


def test_the_six_steps_with_a_token(shop: Shop) -> None:
    answered(shop.orders.get("/orders/1"), 401)
    session = member(shop, "setiadi")
    auth, user_id = bearer(session["access_token"]), session["user_id"]
    answered(shop.users.get(f"/users/{user_id}", headers=auth), 200)
    order = {"product": "coffee", "quantity": 100, "total_price": 50}
    # Its key has come to the order service by then.
    until(lambda: shop.orders.post("/orders", json=order, headers=auth).status_code == 201 or None)
    placed = answered(shop.orders.post("/orders", json=order, headers=auth), 201).json()
    assert placed["user_id"] == user_id
    answered(shop.orders.get(f"/orders/{placed['id']}", headers=auth), 200)
    body = {"email": "SETIADI@example.com", "name": "S"}
    answered(shop.users.post("/users", json=body), 409)


@pytest.mark.heavy
def test_a_person_logs_in_at_the_terminal_and_gets_fresh_tokens(shop: Shop, tmp_path: Path) -> None:
    session = member(shop, "terminal")
    env = {"XDG_STATE_HOME": tmp_path}
    # It finds the running shop in the folder of its data, whatever its ports are.
    command = ("login", "terminal@example.com", "--password-stdin", "--data", shop.data)
    wrong = words(shop, *command, stdin="wrong\n", **env)
    assert wrong.returncode == 1
    assert "is wrong" in wrong.stderr
    login = words(shop, *command, stdin=f"{PASSWORD}\n", **env)
    assert login.returncode == 0, login.stderr
    file = tmp_path / "eventshop" / "login.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    token = words(shop, "token", **env).stdout.strip()
    mine = f"/users/{session['user_id']}"
    answered(shop.users.get(mine, headers=bearer(token)), 200)
    # One that expires soon is refreshed.
    known = json.loads(file.read_text())
    file.write_text(json.dumps({**known, "until": 0}))
    fresh = words(shop, "token", **env).stdout.strip()
    assert fresh not in {"", token}
    answered(shop.users.get(mine, headers=bearer(fresh)), 200)
    assert words(shop, "logout", **env).returncode == 0
    until(lambda: shop.users.get(mine, headers=bearer(fresh)).status_code == 401 or None)
    gone = words(shop, "token", **env)
    assert gone.returncode == 1
    assert "nobody is logged in" in gone.stderr


@pytest.mark.heavy
def test_the_first_admin_is_made_by_an_operator_and_grants_and_resets(shop: Shop) -> None:
    session = member(shop, "customer")
    made = words(
        shop,
        *("users", "admin", "root@example.com", "--password-stdin", "--data", shop.data),
        stdin=f"{PASSWORD}\n",
    )
    assert made.returncode == 0, made.stderr
    login = {"email": "root@example.com", "password": PASSWORD}
    admin = answered(shop.users.post("/sessions", json=login), 201).json()
    reset = f"/users/{session['user_id']}/password-reset"
    answered(shop.users.post(reset, headers=bearer(session["access_token"])), 403)
    answered(shop.users.post(reset, headers=bearer(admin["access_token"])), 201)
    granted = shop.run("users", "grant", session["user_id"], "support")
    assert granted.stdout.strip() == f"user {session['user_id']}: customer support"
    refused = shop.run("users", "grant", session["user_id"], "service")
    assert refused.returncode == 1
    assert "support, admin" in refused.stderr
    # The old token says less than is true now, and is refused; a refresh has the role.
    mine = f"/users/{session['user_id']}"
    until(
        lambda: (
            shop.users.get(mine, headers=bearer(session["access_token"])).status_code == 401 or None
        )
    )
    form = {"grant_type": "refresh_token", "refresh_token": session["refresh_token"]}
    token = answered(shop.users.post("/token", data=form), 200).json()["access_token"]
    everybody = f"/users/{admin['user_id']}"
    answered(shop.users.get(everybody, headers=bearer(token)), 200)


def enter(console: httpx.Client, email: str, password: str = PASSWORD) -> httpx.Response:
    return console.post("/login", data={"email": email, "password": password})


@pytest.mark.heavy
def test_the_console_is_for_staff_support_looks_and_admin_acts(shop: Shop) -> None:
    [port] = shop.ports["console"]
    own = {"Sec-Fetch-Site": "same-origin"}
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20, headers=own) as console:
        for path in ("/", "/log", "/timeline", "/flow/stream", "/log/orders/0/0"):
            answer = answered(console.get(path), 303)
            assert answer.headers["location"] == "/login"
        part = answered(console.get("/log/orders/0/0", headers={"HX-Request": "true"}), 401)
        assert part.headers["hx-redirect"] == "/login"
        answered(console.get("/static/console.css"), 200)

        session = member(shop, "someone")
        assert "neither the role support nor admin" in enter(console, "someone@example.com").text
        wrong = answered(enter(console, "someone@example.com", "a wrong one"), 403)
        assert "set-cookie" not in wrong.headers
        shop.run("users", "grant", session["user_id"], "support")
        cookie = console_cookie(answered(enter(console, "someone@example.com"), 303))
        page = answered(console.get("/", headers=cookie), 200)
        assert "someone@example.com<small>support" in page.text
        refused = answered(console.post("/parked/confirm", headers=cookie), 403)
        assert "this needs the role admin" in refused.text

        shop.run("users", "grant", session["user_id"], "admin")
        # The session's token says less than is true now. It is refreshed without a login.
        admin = "someone@example.com<small>admin"
        until(lambda: admin in console.get("/", headers=cookie).text)
        assert console.post("/parked/confirm", headers=cookie).status_code != 403
        foreign = {**cookie, "Sec-Fetch-Site": "cross-site"}
        answered(console.post("/logout", headers=foreign), 403)
        answered(console.get("/", headers=cookie), 200)
        answered(console.post("/logout", headers=cookie), 303)
        answered(console.get("/", headers=cookie), 303)


def console_cookie(answer: httpx.Response) -> dict[str, str]:
    """What the browser sends from now on."""
    said = answer.headers["set-cookie"]
    name_and_value, *attributes = said.split("; ")
    assert name_and_value.startswith("__Host-console=")
    assert {each.lower() for each in attributes} >= {
        "httponly",
        "secure",
        "samesite=strict",
        "path=/",
    }
    return {"Cookie": name_and_value}


@pytest.mark.heavy
def test_a_service_gets_tokens_with_either_of_two_secrets(shop: Shop) -> None:
    first = shop.run("clients", "new", "billing", "--scope", "orders:read").stdout.strip()
    second = shop.run("clients", "new", "billing").stdout.strip()
    third = shop.run("clients", "new", "billing")
    assert third.returncode == 1
    assert "--oldest-secret" in third.stderr
    form = {"grant_type": "client_credentials"}
    for secret in (first, second):
        answered(shop.users.post("/token", data=form, auth=("billing", secret)), 200)
    assert shop.run("clients", "retire", "billing", "--oldest-secret").returncode == 0
    refused = answered(shop.users.post("/token", data=form, auth=("billing", first)), 401)
    assert refused.headers["www-authenticate"].startswith("Basic ")
    token = shop.users.post("/token", data=form, auth=("billing", second)).json()["access_token"]
    answered(shop.orders.get("/orders", headers=bearer(token)), 200)
    assert "billing [orders:read] secrets: 1" in shop.run("clients", "list").stdout
    assert shop.run("clients", "retire", "billing").returncode == 0
    until(lambda: shop.orders.get("/orders", headers=bearer(token)).status_code == 401 or None)


@pytest.mark.heavy
def test_the_keys_are_rotated_and_nobody_is_refused(shop: Shop) -> None:
    first = shop.run("keys", "rotate")
    assert first.returncode == 0, first.stderr
    assert "may sign in 600 s" in first.stdout
    early = shop.run("keys", "rotate")
    assert early.returncode == 1, early.stdout
    assert "run this again then" in early.stderr
    [active, following] = [line.split()[0] for line in shop.run("keys", "list").stdout.splitlines()]
    session = member(shop, "rotating")
    auth = bearer(session["access_token"])
    url = f"/users/{session['user_id']}"
    rotated = shop.run("keys", "rotate", "--now")
    assert f"{following} active" in rotated.stdout
    answered(shop.users.get(url, headers=auth), 200)
    refused = shop.run("keys", "retire", active)
    assert refused.returncode == 1
    assert "--now" in refused.stderr
    fresh = member(shop, "after")
    answered(
        shop.users.get(f"/users/{fresh['user_id']}", headers=bearer(fresh["access_token"])), 200
    )
    published = {key["kid"] for key in shop.users.get("/.well-known/jwks.json").json()["keys"]}
    assert {active, following} < published


def test_the_key_encryption_key_is_for_its_owner_alone(shop: Shop) -> None:
    file = shop.data / "keys" / "key-encryption-key"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_no_secret_is_in_any_log_nor_in_any_argument(shop: Shop) -> None:
    session = member(shop, "planted")
    wrong = {"email": "planted@example.com", "password": "a wrong secret that I planted"}
    answered(shop.users.post("/sessions", json=wrong), 401)
    form = {"grant_type": "refresh_token", "refresh_token": session["refresh_token"]}
    fresh = shop.users.post("/token", data=form).json()
    secrets = [
        PASSWORD,
        wrong["password"],
        (shop.data / "keys" / "key-encryption-key").read_text().strip(),
        *(session[name] for name in ("access_token", "refresh_token", "device_token")),
        *(fresh[name] for name in ("access_token", "refresh_token")),
    ]
    logs = [*shop.data.glob("logs/*"), *shop.data.parent.glob("logs/*")]
    assert logs
    said = "".join(log.read_text(errors="replace") for log in logs if log.is_file())
    said += " ".join(" ".join(process.cmdline()) for process in shop.processes())
    said += "".join(
        "\n".join(f"{k}={v}" for k, v in process.environ().items()) for process in shop.processes()
    )
    for secret in secrets:
        assert secret not in said


@pytest.mark.heavy
def test_the_audit_holds_with_keys_and_revocations(shop: Shop) -> None:
    audit = shop.run("audit")
    assert audit.returncode == 0, audit.stdout + audit.stderr
