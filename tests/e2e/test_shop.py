"""What people do with the shop, over HTTP and on the command line, while nothing goes wrong."""

import http.client
import json
import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Mapping
from contextlib import AbstractContextManager, closing
from typing import Any

import pytest

from tests.support.engines import Engine
from tests.support.folders import short_directory
from tests.support.kafka import need_kafka
from tests.support.shop import (
    PARTS,
    TRACEBACK,
    Running,
    Shop,
    environment,
    json_lines,
    new_order,
    new_user,
    run_shop,
    shop_command,
)
from tests.support.waiting import until


@pytest.fixture(scope="module", params=["postgres", pytest.param("kafka", marks=pytest.mark.kafka)])
def engine(request: pytest.FixtureRequest) -> Engine:
    """Here Kafka is a broker that `shop up` starts by itself; elsewhere one that is there."""
    if request.param == "kafka":
        need_kafka()
        return Engine("kafka", up_options=("--kafka", "local"))
    return Engine("postgres")


IN_A_ROW = int(os.environ.get("EVENTSHOP_IN_A_ROW", "150"))
"""Users whose first order comes at once; 1000 shows more, and takes longer."""

CREATE_USER = """
curl -X POST http://localhost:8001/users --header 'Accept: */*' --header 'Content: application/json' --header 'Content-Type: application/json' --data-raw '{"email":"setiadi@example.com", "name":"Setiadi"}'
"""
GET_USER = "curl -X GET  http://localhost:8001/users/1"
PLACE_ORDER = """
curl -X POST http://localhost:8002/orders --header 'Content-Type: application/json' --data-raw '{"product":"coffee","quantity":100,"total_price":50,"user_id":1}'
"""
GET_ORDER = "curl -X GET  http://localhost:8002/orders/1"


def curl(shop: Shop, typed: str) -> tuple[int, dict[str, Any]]:
    """The status and the JSON that the command answers with."""
    ports = {":8001/": f":{shop.users_port}/", ":8002/": f":{shop.orders_port}/"}
    for usual, actual in ports.items():
        typed = typed.replace(usual, actual)
    words = [*shlex.split(typed), "--silent", "--show-error", "--write-out", "\n%{http_code}"]
    answer = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True).stdout
    body, _, status = answer.rpartition("\n")
    return int(status), json.loads(body)


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_the_six_steps_as_people_type_them(shop: Shop) -> None:
    status, user = curl(shop, CREATE_USER)
    assert (status, user["id"], user["email"]) == (201, 1, "setiadi@example.com")
    assert curl(shop, GET_USER) == (200, user)

    status, order = curl(shop, PLACE_ORDER)
    assert (status, order["id"], order["status"]) == (201, 1, "placed")
    assert order["customer"] == {"name": "Setiadi", "email": "setiadi@example.com"}
    assert curl(shop, GET_ORDER) == (200, order)

    assert curl(shop, CREATE_USER)[0] == 409
    assert curl(shop, CREATE_USER.replace("setiadi@example", "SetiaDi@EXAMPLE"))[0] == 409

    status, again = curl(shop, PLACE_ORDER)
    assert (status, again["id"]) == (201, 2)


def test_a_users_first_order_may_come_at_once(shop: Shop) -> None:
    def connect(port: int) -> AbstractContextManager[http.client.HTTPConnection]:
        return closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30))

    def post(to: http.client.HTTPConnection, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        to.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        response = to.getresponse()
        answer: dict[str, Any] = json.loads(response.read())
        assert response.status == 201, answer
        return answer

    with connect(shop.users_port) as users, connect(shop.orders_port) as orders:
        for _ in range(IN_A_ROW):
            wanted = new_user()
            user = post(users, "/users", wanted)
            order = post(orders, "/orders", new_order(user["id"]))
            assert order["customer"] == {"name": wanted["name"], "email": wanted["email"]}


def test_a_users_orders_are_known_to_the_user_service_soon(shop: Shop) -> None:
    user = shop.users.post("/users", json=new_user()).json()
    placed = [
        shop.orders.post("/orders", json=new_order(user["id"], total_price=price)).json()
        for price in ("10.00", "20.50", "3.25")
    ]
    shop.orders.post(f"/orders/{placed[0]['id']}/cancel").raise_for_status()

    def caught_up() -> dict[str, Any] | None:
        answer = shop.users.get(f"/users/{user['id']}/orders").json()
        return answer if [one["version"] for one in answer["items"]] == [1, 1, 2] else None

    known = until(caught_up, "three orders, the first of them cancelled")
    assert known is not None
    assert (known["count"], known["total"]) == (3, "23.75")
    cancelled = {**placed[0], "status": "cancelled", "version": 2}
    for theirs, ours in zip(known["items"], [placed[2], placed[1], cancelled], strict=True):
        assert theirs.items() <= ours.items()


def test_a_new_name_and_an_erased_person_reach_the_order_service(shop: Shop) -> None:
    wanted = new_user()
    user = shop.users.post("/users", json=wanted).json()
    order = shop.orders.post("/orders", json=new_order(user["id"])).json()

    def customer() -> Any:
        return shop.orders.get(f"/orders/{order['id']}").json()["customer"]

    shop.users.patch(f"/users/{user['id']}", json={"name": "Wijaya"}).raise_for_status()
    renamed = {"name": "Wijaya", "email": wanted["email"]}
    until(lambda: customer() == renamed, "the new name")

    assert shop.users.delete(f"/users/{user['id']}").status_code == 204
    until(lambda: customer() is None, "the customer is erased")
    assert shop.users.get(f"/users/{user['id']}").status_code == 404
    assert shop.orders.post("/orders", json=new_order(user["id"])).status_code == 404
    assert not shop.rows("orders", "SELECT FROM customers WHERE email = %s", wanted["email"])


def test_shop_events_shows_the_log_to_programs_and_to_people(shop: Shop) -> None:
    user = shop.users.post("/users", json=new_user()).json()
    order = shop.orders.post("/orders", json=new_order(user["id"])).json()
    until(
        lambda: shop.users.get(f"/users/{user['id']}/orders").json()["count"] == 1, "the order came"
    )
    everything = shop.run("events", "--json", "--from", 0, "--no-follow")
    assert (everything.returncode, everything.stderr) == (0, "")
    events = json_lines(everything.stdout)
    for topic in ("users", "orders"):
        positions = {int(one["headers"]["ce_id"]) for one in events if one["topic"] == topic}
        assert positions == set(range(1, len(positions) + 1))
    [placed] = [
        one for one in events if one["topic"] == "orders" and one["key"] == str(order["id"])
    ]
    assert placed["headers"]["ce_type"] == "order.placed"
    assert placed["headers"]["ce_source"] == "/orders"
    assert placed["data"].items() <= order.items()

    of_users = shop.run("events", "--json", "--from", 0, "--no-follow", "--topic", "users")
    assert json_lines(of_users.stdout) == [one for one in events if one["topic"] == "users"]

    readable = shop.run("events", "--topic", "orders", "--no-follow", "--from", 0).stdout
    [line] = [line for line in readable.splitlines() if f" id={order['id']} " in line]
    assert "order.placed" in line
    assert "product=tea" in line


def test_shop_events_goes_on_as_events_come(shop: Shop) -> None:
    following = Running("events", "--json", "--topic", "users", "--data", shop.data)
    try:
        following.output.until("user.")  # the last few; it has begun
        user = shop.users.post("/users", json=new_user()).json()
        shown = json.loads(following.output.until(user["email"]))
    finally:
        status = following.stop(signal.SIGINT)
    assert (shown["key"], shown["data"]["name"]) == (str(user["id"]), user["name"])
    assert not TRACEBACK.search("\n".join(following.output.lines))
    assert status == 130


def test_shop_events_into_a_pipe_that_closes_says_nothing(shop: Shop) -> None:
    words = [*shop_command("events", "--from", 0, "--no-follow", "--data", shop.data)]
    with subprocess.Popen(
        words, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as events:
        assert events.stdout and events.stderr
        events.stdout.readline()
        events.stdout.close()
        assert events.stderr.read() == ""


def test_it_says_that_it_is_ready_on_a_terminal_of_any_encoding(shop: Shop) -> None:
    ready = shop.up.output.until("eventshop is ready")
    assert f" - data in {shop.data} - Ctrl-C stops" in ready


def test_it_says_that_nobody_is_asked_for_a_token(shop: Shop) -> None:
    assert "any request may do anything" in shop.up.output.until("no access token is required")
    for name in ("users", "orders"):
        log = shop.data.with_name("logs") / f"{name}-api.log"
        assert "api.authentication_disabled" in log.read_text()


def test_each_process_logs_json_to_a_file_of_its_own(shop: Shop) -> None:
    logs = shop.data.with_name("logs")
    assert {path.stem for path in logs.glob("*.log")} == {*PARTS, "migrate"}
    for path in logs.glob("*.log"):
        for line in json_lines(path.read_text()):
            assert line["process"].replace(" ", "-") == path.stem
            assert line.keys() >= {"event", "level", "logger", "timestamp"}


def test_a_taken_port_is_one_sentence(shop: Shop) -> None:
    with short_directory() as elsewhere:
        second = run_shop("up", "--data", elsewhere / "data", "--port", f"users={shop.users_port}")
    assert second.returncode == 1
    assert second.stdout == ""
    assert second.stderr == (
        f"eventshop did not start: port {shop.users_port}, which users wants, is in use: stop what "
        "listens there, or choose another with --port users=… or SHOP_USERS__PORT\n"
    )


def test_it_runs_on_the_log_that_was_asked_for(shop: Shop, engine: Engine) -> None:
    running = json.loads((shop.data / "running.json").read_text())
    assert running["SHOP_EVENT_LOG"] == engine.name
