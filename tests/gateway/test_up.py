"""`shop up --gateway`: the shop behind a real nginx, from one command."""

import json
import os
import signal
import ssl
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest

from devstack.certificate import Certificate
from tests.support.serving import problem
from tests.support.shop import WITHOUT_FRONTS, Running, free_ports, json_lines, run_shop
from tests.support.waiting import until

PORTS = free_ports(3)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("up") / "data"


@pytest.fixture(scope="module")
def shop(data: Path) -> Iterator[Running]:
    users, orders, gateway = PORTS
    running = Running(
        "up", "--data", data, "--gateway", "--gateway-port", gateway,
        "--port", f"users={users}", "--port", f"orders={orders}", *WITHOUT_FRONTS,
        SHOP_ACCESS_LOG="true",
    )  # fmt: skip
    try:
        running.output.until("eventshop is ready", timeout=90)
        yield running
    finally:
        running.process.send_signal(signal.SIGINT)
        running.process.wait(60)
        running.output.close()


@pytest.fixture
def client(shop: Running, data: Path) -> Iterator[httpx.Client]:
    trust = ssl.create_default_context(cafile=str(data / "gateway" / "certificate" / "ca.pem"))
    url = f"https://localhost:{PORTS[2]}"
    transport = httpx.HTTPTransport(verify=trust, http2=True)
    with httpx.Client(base_url=url, transport=transport, timeout=30) as client:
        yield client


def lines_about(data: Path, process: str, request_id: str) -> list[dict[str, object]]:
    text = (data / "logs" / f"{process}.log").read_text()
    return [line for line in json_lines(text) if line.get("request_id") == request_id]


@pytest.mark.heavy
def test_the_six_steps_work_through_it(client: httpx.Client) -> None:
    user = client.post("/users", json={"email": "ada@example.com", "name": "Ada"})
    assert user.status_code == 201
    order = client.post(
        "/orders",
        json={"user_id": user.json()["id"], "product": "tea", "quantity": 1, "total_price": "2.50"},
        headers={"Idempotency-Key": "one"},
    )
    assert order.status_code == 201, order.text
    assert client.get(order.headers["location"]).json() == order.json()


@pytest.mark.heavy
def test_a_request_has_one_id_in_the_answer_and_in_both_logs(client: httpx.Client, data: Path) -> None:  # fmt: skip
    answer = client.get("/users/999999", headers={"X-Request-Id": "mine"})
    problem(answer, 404, "user-not-found")
    own_id = answer.headers["x-request-id"]
    for process in ("gateway", "users-api"):
        [line] = until(lambda process=process: lines_about(data, process, own_id), process)
        assert "/users/999999" in json.dumps(line)


@pytest.mark.heavy
def test_a_service_that_is_killed_amid_a_request_is_an_unknown_outcome_and_soon_back(
    client: httpx.Client, shop: Running
) -> None:
    api = next(
        child
        for child in psutil.Process(shop.process.pid).children(recursive=True)
        if child.cmdline()[-2:] == ["api", "users"]
    )
    api.suspend()
    killer = threading.Timer(1.5, api.kill)  # by then the request is under way
    killer.start()
    answer = client.post("/users", json={"email": "eve@example.com", "name": "Eve"})
    problem(answer, 503, "unknown-outcome")
    killer.join()
    until(lambda: client.get("/users/1").status_code == 200, "it is back", timeout=60)


@pytest.mark.heavy
def test_a_gateway_that_is_killed_is_started_again(client: httpx.Client, shop: Running) -> None:
    def masters() -> list[psutil.Process]:
        return [
            child
            for child in psutil.Process(shop.process.pid).children()
            if "nginx" in child.name() and child.status() != psutil.STATUS_ZOMBIE
        ]

    [master] = masters()
    workers = master.children()
    os.kill(master.pid, signal.SIGKILL)
    shop.output.until("gateway is ready again", timeout=60)
    until(lambda: not any(each.is_running() for each in workers), "the old workers are gone")

    def answered() -> httpx.Response | None:
        with suppress(httpx.TransportError):
            return client.get("/users/1")
        return None

    answer = until(answered, "the gateway answers")
    assert answer is not None and answer.status_code == 200


@pytest.mark.heavy
def test_signing_in_has_its_routes_too(client: httpx.Client) -> None:
    assert client.get("/.well-known/jwks.json").json()["keys"] is not None
    assert client.post("/sessions", json={}).status_code == 422
    assert client.post("/token", data={"grant_type": "x"}).status_code in {400, 401}


@pytest.mark.heavy
def test_its_port_must_be_free(shop: Running, tmp_path: Path) -> None:
    free = free_ports(2)
    done = run_shop(
        "up", "--data", tmp_path / "other", "--gateway", "--gateway-port", PORTS[2],
        "--port", f"users={free[0]}", "--port", f"orders={free[1]}", *WITHOUT_FRONTS,
    )  # fmt: skip
    assert done.returncode == 1
    assert f"port {PORTS[2]}, which the gateway wants, is in use" in done.stderr
    assert "choose another with --gateway-port" in done.stderr


def test_a_certificate_is_made_by_one_command_for_more_names(tmp_path: Path) -> None:
    done = run_shop("certificate", "shop.test", "192.0.2.7", "--data", tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "gateway" / "certificate"
    assert f"curl --cacert {folder / 'ca.pem'}" in done.stdout
    made = Certificate(folder)
    assert made.is_good() and made.names() == ["localhost", "shop.test"]
    assert oct(made.key.stat().st_mode)[-3:] == "600"
    refused = run_shop("certificate", "not a name", "--data", tmp_path)
    assert refused.returncode == 2 and "not a name" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
