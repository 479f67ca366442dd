"""Clients that take their time, or never end: they hold the gateway's memory for seconds, and no service at all."""

import resource
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from tests.support.gateway import Gateway, an_address, in_front_of_two, read_all
from tests.support.upstream import respond
from tests.support.waiting import SLOWER, at_best, until

HEAD = b"POST /orders HTTP/1.1\r\nHost: localhost\r\n"


def is_closed_within(connection: ssl.SSLSocket, seconds: float, drip: bytes = b"") -> float:
    """After how many seconds it is, while something is sent each second."""
    connection.settimeout(1.0)
    began = time.monotonic()
    while (passed := time.monotonic() - began) < seconds:
        try:
            if not connection.recv(65536):
                return time.monotonic() - began
        except TimeoutError:
            try:
                connection.sendall(drip)
            except OSError:
                return passed
        except OSError:
            return passed
    pytest.fail(f"still open after {seconds:g} s")


@contextmanager
def meanwhile(stage: Gateway) -> Iterator[None]:
    """While it lasts, others are answered."""
    with stage.client() as client:
        assert client.get("/orders").status_code == 200
        yield
        assert client.get("/orders").status_code == 200


@pytest.mark.heavy
def test_slow_heads_and_slow_bodies_are_given_up_and_reach_no_service(stage: Gateway) -> None:
    """All at once: each takes ten seconds."""
    with ExitStack() as held, meanwhile(stage):
        silent = held.enter_context(stage.connect())
        head = held.enter_context(stage.connect())
        head.sendall(HEAD)
        body = held.enter_context(stage.connect())
        body.sendall(HEAD + b"Content-Length: 10\r\n\r\n{")
        chunks = held.enter_context(stage.connect())
        chunks.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\na")
        stage.orders.received.clear()
        began = time.monotonic()
        is_closed_within(head, 13 + SLOWER, b"X: y\r\n")
        for connection in (silent, body, chunks):
            is_closed_within(connection, 13 + SLOWER)
        assert time.monotonic() - began < 15 + SLOWER
        assert not stage.orders.received


def test_an_endless_body_in_chunks_is_refused_after_64_kib_and_nothing_of_it_is_kept(stage: Gateway) -> None:  # fmt: skip
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    before = memory(stage)
    with meanwhile(stage), stage.connect() as connection:
        stage.orders.received.clear()
        connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        sent = 0
        began = time.monotonic()
        try:
            while sent < 10 * 2**30:
                connection.sendall(chunk)
                sent += len(chunk)
        except OSError:
            pass
        assert time.monotonic() - began < 10 + SLOWER
        assert not stage.orders.received
        assert memory(stage) - before < 8 * 2**20
    with stage.connect() as connection:
        connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + 2 * chunk)
        assert b"urn:eventshop:problem:body-too-large" in read_all(connection)


@pytest.mark.heavy
def test_a_client_that_does_not_read_keeps_no_service_waiting(stage: Gateway) -> None:
    """An answer is taken from the service at once, and the client is let go after ten seconds."""
    answered: list[float] = []

    def large(connection: socket.socket, _: object) -> None:
        respond(connection, body=b"x" * 200_000)
        answered.append(time.monotonic())

    stage.orders.respond = large
    context = stage.trust()
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    plain.bind((an_address(), 0))
    plain.connect(("127.0.0.1", stage.port))
    with context.wrap_socket(plain, server_hostname="localhost") as connection:
        began = time.monotonic()
        # More answers than the sockets' buffers have room for.
        connection.sendall(b"GET /orders HTTP/1.1\r\nHost: localhost\r\n\r\n" * 40)
        until(lambda: answered, "the service has answered")
        assert answered[0] - began < SLOWER
        name = connection.getsockname()
        until(lambda: len(connections_of(stage, name)) != 1, "the client is let go", 30)
        assert len(answered) < 40
    stage.orders.reset()
    with meanwhile(stage):
        pass


@pytest.mark.heavy
@pytest.mark.parametrize("asked", [False, True], ids=["nothing", "one request"])
def test_idle_connections_give_way_when_there_is_no_more_room(
    tmp_path: Path, *, asked: bool
) -> None:
    """Those of one client that said nothing yet, or keeps them after an answer: the limits count neither."""
    room = 120
    greedy = an_address()
    with in_front_of_two(tmp_path, connections=room) as stage, ExitStack() as held:
        context = stage.trust()
        for n in range(2 * room):
            connection = held.enter_context(stage.connect(context, address=greedy))
            if asked and n < room:
                connection.sendall(b"GET /orders HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert connection.recv(65536)
            if n % 30 == 0:
                with stage.client() as neighbour:
                    assert neighbour.get("/orders").status_code == 200
        assert connections_held(stage) <= room


@pytest.mark.heavy
@pytest.mark.timeout(300)
@pytest.mark.parametrize("many", [1000, pytest.param(10_000, marks=pytest.mark.alone)])
def test_others_are_answered_as_quickly_while_many_connections_say_nothing_or_half_a_head(
    stage: Gateway, many: int
) -> None:
    allow_files(many + 500)
    context = stage.trust()
    at_best(lambda: slower_among_many(stage, context, many), 0.002, tries=5)


def slower_among_many(stage: Gateway, context: ssl.SSLContext, many: int) -> float:
    """Seconds by which the median is more than half as much again as without them."""
    with ExitStack() as held, stage.client() as client:
        alone = sorted(took(client) for _ in range(60))
        for n in range(many):
            connection = socket.create_connection(
                ("127.0.0.1", stage.port), 10, source_address=(f"127.3.0.{n % 200 + 1}", 0)
            )
            held.enter_context(connection)
            if n % 10 == 0:
                tls = held.enter_context(context.wrap_socket(connection, server_hostname="localhost"))  # fmt: skip
                tls.sendall(HEAD)
        # It has let go of those that were silent for ten seconds.
        open_now = connections_held(stage)
        among_them = sorted(took(client) for _ in range(60))
    print(
        f"median alone {alone[30] * 1000:.1f} ms, among {open_now}: {among_them[30] * 1000:.1f} ms"
    )
    assert open_now > many / 2
    return among_them[30] - 1.5 * alone[30]


def took(client: httpx.Client) -> float:
    time.sleep(0.025)  # not more often than one client may
    began = time.monotonic()
    assert client.get("/orders").status_code == 200
    return time.monotonic() - began


def memory(stage: Gateway) -> int:
    """Bytes that its workers hold."""
    assert stage.nginx.pid is not None
    return sum(child.memory_info().rss for child in psutil.Process(stage.nginx.pid).children())


def connections_held(stage: Gateway) -> int:
    assert stage.nginx.pid is not None
    workers = psutil.Process(stage.nginx.pid).children()
    return sum(len(worker.net_connections("tcp")) for worker in workers)


def connections_of(stage: Gateway, client: tuple[str, int]) -> list[object]:
    """The gateway's ends of a client's connection."""
    assert stage.nginx.pid is not None
    return [
        each
        for child in psutil.Process(stage.nginx.pid).children()
        for each in child.net_connections()
        if each.raddr == client
    ]


def allow_files(wanted: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"left out, since only {hard} files may be open here, and {wanted} are needed")
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
