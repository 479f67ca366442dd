"""What becomes of a request on its way through the gateway, and of the answer on its way back."""

import json
import re

import httpx
import pytest

from tests.support.gateway import Gateway
from tests.support.serving import problem
from tests.support.upstream import Received, Upstream, respond, said
from tests.support.waiting import until


def only(upstream: Upstream) -> Received:
    [received] = upstream.received
    return received


@pytest.mark.parametrize("http2", [False, True])
@pytest.mark.parametrize(
    ("path", "owner"),
    [
        ("/users", "users"), ("/users/7?x=1", "users"), ("/sessions", "users"), ("/sessions/1", "users"),
        ("/token", "users"), ("/.well-known/jwks.json", "users"), ("/orders", "orders"), ("/orders/1/cancel", "orders"),
    ],
)  # fmt: skip
def test_a_path_belongs_to_one_service(stage: Gateway, path: str, owner: str, http2: bool) -> None:
    for name, upstream in stage.upstreams.items():
        upstream.respond = said(service=name)
    with stage.client(http2=http2) as client:
        answer = client.get(path)
    assert answer.json() == {"service": owner}
    assert answer.http_version == ("HTTP/2" if http2 else "HTTP/1.1")
    assert only(stage.upstreams[owner]).target == path


@pytest.mark.parametrize(
    "path", ["/", "/health/ready", "/docs", "/openapi.json", "/usersx", "/orders-2", "/x/orders"]
)
def test_nothing_else_can_be_reached(stage: Gateway, path: str) -> None:
    with stage.client() as client:
        problem(client.get(path), 404, "not-found")
    assert not stage.orders.received + stage.users.received


@pytest.mark.parametrize("path", ["/orders/a%2Fb", "/orders/%7e?q=%20+", "/orders//1", "/orders/./1"])  # fmt: skip
def test_a_path_reaches_the_service_as_it_was_written(stage: Gateway, path: str) -> None:
    stage.exchange(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    assert only(stage.orders).target == path


def test_body_and_headers_pass_and_what_belongs_to_a_connection_does_not(stage: Gateway) -> None:
    own = {
        "Idempotency-Key": "k", "traceparent": "00-" + "1" * 32 + "-" + "2" * 16 + "-01", "If-Match": '"3"',
        "Authorization": "Bearer abc", "Upgrade": "h2c", "TE": "trailers", "Proxy": "http://evil",
        "bad_name": "x",
    }  # fmt: skip
    with stage.client() as client:
        assert client.post("/orders", json={"a": 1}, headers=own).status_code == 200
    received = only(stage.orders)
    assert (received.method, received.body) == ("POST", b'{"a":1}')
    for name in ("Idempotency-Key", "traceparent", "If-Match", "Authorization"):
        assert received.values(name) == [own[name]]
    for name in ("Upgrade", "TE", "Proxy", "bad_name", "Transfer-Encoding"):
        assert received.values(name) == []
    assert received.values("host") == ["localhost"]


@pytest.mark.parametrize("http2", [False, True])
def test_an_address_that_a_client_claims_is_ignored(stage: Gateway, http2: bool) -> None:  # fmt: skip
    lies = {
        "X-Forwarded-For": "1.2.3.4, 5.6.7.8", "X-Real-IP": "1.2.3.4", "Forwarded": "for=1.2.3.4",
        "X-Forwarded-Host": "evil", "X-Forwarded-Proto": "http", "X-Forwarded-Port": "80", "X-Forwarded-Prefix": "/x",
    }  # fmt: skip
    with stage.client(address="127.9.9.9", http2=http2) as client:
        client.get("/orders", headers=lies)
    received = only(stage.orders)
    assert received.values("x-forwarded-for") == ["127.9.9.9"]
    assert received.values("x-forwarded-proto") == ["https"]
    for name in ("x-real-ip", "forwarded", "x-forwarded-host", "x-forwarded-port", "x-forwarded-prefix"):  # fmt: skip
        assert received.values(name) == []
    assert '"client":"127.9.9.9"' in stage.log()
    assert "1.2.3.4" not in stage.log()


def test_each_request_has_a_gateway_id_that_service_client_and_log_see(stage: Gateway) -> None:  # fmt: skip
    with stage.client() as client:
        ids = [
            client.get(path, headers={"X-Request-Id": "mine"}).headers["x-request-id"]
            for path in ("/orders", "/orders", "/nowhere")
        ]
    assert len(set(ids)) == 3
    assert all(re.fullmatch("[0-9a-f]{32}", each) for each in ids)
    assert [received.values("x-request-id") for received in stage.orders.received] == [[ids[0]], [ids[1]]]  # fmt: skip
    for each in ids:
        until(lambda each=each: f'"request_id":"{each}"' in stage.log(), "it is in the log")


def test_a_line_of_the_log_is_json_whatever_a_client_sends_and_has_no_query(stage: Gateway) -> None:
    path = '/orders/%22%0a%7b"%5c?email=someone@example.com'
    stage.exchange(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    lines = until(
        lambda: [line for line in stage.log().splitlines() if '"path":"/orders/\\' in line],
        "it is in the log",
    )
    assert json.loads(lines[0])["path"] == '/orders/"\n{"\\'
    assert "someone" not in lines[0]


def test_an_answer_passes_as_it_is_with_what_the_gateway_adds(stage: Gateway) -> None:
    problem_text = b'{"type":"urn:eventshop:problem:user-not-found","title":"x","status":404}'
    stage.users.respond = lambda connection, _: respond(
        connection, "404 Not Found", 'ETag: "5"\r\nX-Powered-By: nobody\r\n', problem_text
    )
    with stage.client() as client:
        answer = client.get("/users/1")
    assert (answer.status_code, answer.content) == (404, problem_text)
    assert answer.headers["etag"] == '"5"'
    assert answer.headers["strict-transport-security"] == "max-age=63072000"
    assert "content-encoding" not in answer.headers


@pytest.mark.parametrize(
    "path", ["/orders", "/nowhere", "/orders/" + "x" * 3000, "/orders?" + "x" * 20_000]
)
def test_no_answer_tells_a_version(stage: Gateway, path: str) -> None:
    with stage.client() as client:
        answer = client.get(path)
    assert answer.headers["server"] == "nginx"
    assert not re.search(r"nginx/|1\.\d+\.\d+", str(answer.headers) + answer.text)
    assert answer.headers["strict-transport-security"]


def test_an_upgrade_or_a_request_for_a_tunnel_leads_nowhere(stage: Gateway) -> None:
    tunnel = stage.exchange(b"CONNECT localhost:443 HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert tunnel.startswith((b"HTTP/1.1 405 ", b"HTTP/1.1 400 "))
    with stage.client() as client:
        problem(client.request("TRACE", "/orders"), 405, "method-not-allowed")
    assert not stage.orders.received


def test_a_request_that_is_too_large_gets_a_problem_and_reaches_no_service(stage: Gateway) -> None:
    with stage.client() as client:
        problem(client.post("/orders", content=b"x" * 65537), 413, "body-too-large")
        problem(client.get("/orders?" + "x" * 17_000), 431, "head-too-large")
        problem(client.get("/orders", headers={"X": "x" * 17_000}), 431, "head-too-large")
        many = {f"x-{n}": "x" * 15_000 for n in range(5)}
        problem(client.get("/orders", headers=many), 431, "head-too-large")
        assert not stage.orders.received
        assert client.post("/orders", content=b"x" * 65536).status_code == 200
    assert len(only(stage.orders).body) == 65536


def test_plain_http_on_the_port_gets_a_problem(stage: Gateway) -> None:
    answer = httpx.get(f"http://localhost:{stage.port}/orders")
    problem(answer, 400, "malformed-request")
