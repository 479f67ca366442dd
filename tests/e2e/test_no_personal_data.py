"""A whole run, with requests that fail, events that are parked, and a database that refuses rows.

Names, e-mail addresses, passwords and tokens are in no log, no trace and no metric of it.
"""

import base64
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.collector import Collector, collecting
from tests.support.folders import short_directory
from tests.support.living import plant
from tests.support.shop import Shop, json_lines
from tests.support.waiting import until

NAME = "Wilhelmina Plantagenet"
NEW_NAME = "Wilhelmina Lancaster"
ADDRESS = "wilhelmina@plantagenet.example"
OTHER_ADDRESS = "lancaster@plantagenet.example"
PASSWORD = "correct-horse-battery-plantagenet"
WRONG = "wrong-horse-battery-plantagenet"
PRODUCT = "a ring engraved for Wilhelmina"
KEY = "idempotency-of-wilhelmina"
PLANTED = ("ilhelmina", "lantagenet", "ancaster", "orse-battery", "never-issued")
"""Parts of the above without their first letters, whatever the case of those."""


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@pytest.fixture(scope="module")
def shop(collector: Collector) -> Iterator[Shop]:
    with short_directory() as directory:
        shop = Shop(
            directory / "data",
            ("--auth",),
            SHOP_LOG_DIR=directory / "logs",
            SHOP_LOG_LEVEL="debug",
            SHOP_ACCESS_LOG="true",
            SHOP_TELEMETRY__OTLP_ENDPOINT=collector.url,
            SHOP_TELEMETRY__TRACES_RATIO=1,
        )
        try:
            shop.start()
            yield shop
        finally:
            shop.close()


def status(response: httpx.Response, expected: int) -> Any:
    assert response.status_code == expected, response.text
    return response.json() if response.content else None


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def use(shop: Shop) -> list[str]:
    """Do what people do, and what goes wrong. Returns the secrets that were issued meanwhile."""
    users, orders = shop.users, shop.orders
    person = {"email": ADDRESS, "name": NAME, "password": PASSWORD}
    user = status(users.post("/users", json=person, headers={"Idempotency-Key": KEY}), 201)["id"]
    status(users.post("/users", json=person), 409)
    status(users.post("/users", json={**person, "email": NAME}), 422)
    status(users.post("/users", json={**person, NAME: ADDRESS}), 422)
    status(users.post("/users", content=f'{{"name": "{NAME}", '.encode(), headers={"content-type": "application/json"}), 400)  # fmt: skip
    status(users.post("/users", content=NAME.encode(), headers={"content-type": "text/plain"}), 415)
    status(users.post("/sessions", json={"email": ADDRESS, "password": WRONG}), 401)
    session = status(users.post("/sessions", json={"email": ADDRESS, "password": PASSWORD}), 201)
    form = {"grant_type": "refresh_token", "refresh_token": session["refresh_token"]}
    fresh = status(users.post("/token", data=form), 200)
    status(users.post("/token", data={**form, "refresh_token": "never-issued"}), 400)
    basic = base64.b64encode(f"{NAME}:{WRONG}".encode()).decode()
    status(users.post("/token", data={"grant_type": "client_credentials"}, headers={"Authorization": f"Basic {basic}"}), 401)  # fmt: skip
    auth = bearer(fresh["access_token"])
    mine = f"/users/{user}"
    status(users.get(mine, headers=bearer("never-issued")), 401)
    until(lambda: orders.get("/orders", headers=auth).is_success, "its key has come")
    order = {"product": PRODUCT, "quantity": 1, "total_price": 5}
    until(lambda: orders.post("/orders", json=order, headers=auth).status_code == 201)
    status(orders.get("/orders", params={"product": PRODUCT}, headers=auth), 200)
    status(orders.get("/orders", params={NAME: ADDRESS}, headers=auth), 422)
    changed = status(users.patch(mine, json={"name": NEW_NAME}, headers=auth), 200)
    assert changed["name"] == NEW_NAME
    admin = shop.run("users", "grant", user, "admin")
    assert admin.returncode == 0, admin.stderr
    session = status(users.post("/sessions", json={"email": ADDRESS, "password": PASSWORD}), 201)
    admin_auth = bearer(session["access_token"])
    status(users.get("/users", params={"email": ADDRESS}, headers=admin_auth), 200)
    # Databases that refuse rows: their errors quote them.
    plant(
        shop._url("orders"),
        "ALTER TABLE orders ADD CONSTRAINT refuses_orders CHECK (quantity <> 77) NOT VALID",
        "ALTER TABLE customers ADD CONSTRAINT refuses_names CHECK (name <> 'Wilhelmina Plantagenet') NOT VALID",
    )  # fmt: skip
    status(orders.post("/orders", json={**order, "quantity": 77}, headers=admin_auth), 500)
    status(users.patch(mine, json={"name": NAME}, headers=admin_auth), 200)
    parked = "SELECT FROM parked WHERE consumer = 'orders'"
    until(lambda: shop.rows("orders", parked), "the event is parked")
    assert shop.run("parked", "retry", "orders").returncode != 2
    status(users.patch(mine, json={"email": OTHER_ADDRESS}, headers=admin_auth), 200)
    plant(shop._url("orders"), "ALTER TABLE customers DROP CONSTRAINT refuses_names")
    assert shop.run("parked", "retry", "orders").returncode == 0
    status(users.delete(mine, headers=admin_auth), 204)
    names = ("access_token", "refresh_token", "device_token")
    return [issued[name] for issued in (session, fresh) for name in names if name in issued]


def shown(shop: Shop) -> Mapping[str, str]:
    """The metrics of each process."""
    files = [*(shop.data / "metrics").iterdir()]
    targets = {path.stem: json.loads(path.read_text())[0]["targets"][0] for path in files}
    return {name: httpx.get(f"http://{at}/metrics").text for name, at in targets.items()}


@pytest.mark.heavy
def test_nothing_that_was_planted_is_in_any_log_trace_or_metric(
    shop: Shop, collector: Collector
) -> None:
    secrets = use(shop)
    traced = {
        "POST /users",
        "PATCH /users/{user_id}",
        "POST /token",
        "POST /orders",
        "process users",
    }
    collector.until(*traced)
    metrics = shown(shop)
    assert len(metrics) >= 4
    shop.up.stop()
    logs: dict[str, str] = {"output of shop up": "\n".join(shop.up.output.lines)}
    for folder in (shop.data / "logs", shop.data.parent / "logs"):
        logs |= {str(path): path.read_text() for path in folder.iterdir()}
    spans = {f"spans {n}": body.decode("latin-1") for n, body in enumerate(collector.bodies)}
    found = [
        (where, line)
        for where, text in {**logs, **metrics, **spans}.items()
        for line in text.splitlines()
        if any(each in line for each in (*PLANTED, *secrets))
    ]
    assert found == []
    # What went wrong was logged, or this test would show nothing.
    written = json_lines((shop.data.parent / "logs" / "orders-api.log").read_text())
    [failed] = [line for line in written if line["event"] == "api.request_failed"]
    assert "refuses_orders" in failed["exception"] and failed["trace_id"]
    worker = json_lines((shop.data.parent / "logs" / "orders-worker.log").read_text())
    parked = [line for line in worker if line["event"] == "consumer.dead_lettered"]
    assert "refuses_names" in parked[0]["reason"] and parked[0]["trace_id"]
    assert any("refuses_names" in Path(path).read_text() for path in logs if "postgres" in path)
