"""No request that may have been done is sent twice, and a client can tell what came of it."""

import socket
from pathlib import Path

import httpx
import pytest

from devstack import gateway
from tests.support.gateway import Gateway, standing
from tests.support.serving import problem
from tests.support.shop import free_ports
from tests.support.upstream import Received, Upstream, hang_up, respond, said

WRITES = ("POST", "PUT", "PATCH", "DELETE")


@pytest.mark.parametrize("http2", [False, True])
@pytest.mark.parametrize("method", WRITES)
def test_a_write_that_a_service_has_read_is_not_sent_again(
    stage: Gateway, method: str, http2: bool
) -> None:
    stage.orders.respond = hang_up
    with stage.client(http2=http2) as client:
        answer = client.request(method, "/orders/1", content=b"{}")
    problem(answer, 503, "unknown-outcome")
    assert answer.headers["retry-after"] == "1"
    assert [each.method for each in stage.orders.received] == [method]


@pytest.mark.parametrize("method", WRITES)
def test_a_commit_into_a_stale_connection_is_not_done_twice(stage: Gateway, method: str) -> None:
    with stage.client() as client:
        for _ in range(10):  # each worker of nginx has connections of its own
            assert client.get("/orders").status_code == 200
        stage.orders.received.clear()
        stage.orders.respond = hang_up
        problem(client.request(method, "/orders/1"), 503, "unknown-outcome")
    assert [each.method for each in stage.orders.received] == [method]


def test_an_answer_that_breaks_off_is_no_whole_answer(stage: Gateway) -> None:
    def half(connection: socket.socket, _: Received) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
        connection.shutdown(socket.SHUT_RDWR)

    stage.orders.respond = half
    with stage.client() as client, pytest.raises(httpx.RemoteProtocolError):
        client.post("/orders")
    assert len(stage.orders.received) == 1


def test_a_service_that_refuses_connections_has_done_nothing(tmp_path: Path) -> None:
    [nobody] = free_ports(1)
    apis = gateway.upstreams({"orders": f"127.0.0.1:{nobody}", "users": f"127.0.0.1:{nobody}"})
    with standing(tmp_path, apis, {}) as stage, stage.client() as client:
        for method in (*WRITES, "GET"):
            answer = client.request(method, "/orders/1")
            problem(answer, 503, "temporarily-unavailable")
            assert answer.headers["retry-after"] == "1"


def test_a_service_that_is_back_is_found_at_once(tmp_path: Path) -> None:
    with Upstream() as orders:
        port = orders.port
    apis = gateway.upstreams({"orders": f"127.0.0.1:{port}", "users": f"127.0.0.1:{port}"})
    with standing(tmp_path, apis, {}) as stage, stage.client() as client:
        for _ in range(5):
            problem(client.post("/orders"), 503, "temporarily-unavailable")
        with Upstream(port=port):
            assert client.post("/orders").status_code == 200


def test_a_read_is_tried_again_at_another_process_and_a_write_is_not(tmp_path: Path) -> None:
    with Upstream() as dying, Upstream() as healthy:
        dying.respond, healthy.respond = hang_up, said(by="healthy")
        apis = gateway.upstreams({"users": f"127.0.0.1:{healthy.port}"})
        apis += (
            f"upstream orders {{ zone orders 64k; server 127.0.0.1:{dying.port} max_fails=0;"
            f" server 127.0.0.1:{healthy.port} max_fails=0; }}\n"
        )
        with standing(tmp_path, apis, {}) as stage, stage.client() as client:
            for _ in range(10):
                assert client.get("/orders").json() == {"by": "healthy"}
            assert dying.received
            for method in WRITES:
                dying.received.clear()
                healthy.received.clear()
                answers = [client.request(method, "/orders") for _ in range(10)]
                lost = [answer for answer in answers if answer.status_code == 503]
                assert len(dying.received) + len(healthy.received) == 10
                assert len(lost) == len(dying.received) > 0
                for answer in lost:
                    problem(answer, 503, "unknown-outcome")


def test_a_services_own_503_passes_as_it_is(stage: Gateway) -> None:
    document = b'{"type":"urn:eventshop:problem:unknown-outcome","title":"x","status":503}'
    stage.orders.respond = lambda connection, _: respond(
        connection, "503 Service Unavailable", "Retry-After: 7\r\n", document
    )
    with stage.client() as client:
        answer = client.get("/orders")
    assert (answer.content, answer.headers["retry-after"]) == (document, "7")
    assert len(stage.orders.received) == 1
