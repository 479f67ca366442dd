"""Odd requests, byte by byte: an answer, and a connection that is usable or cleanly closed."""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from shop.kit.web.route import MAX_BODY
from tests.shop.serving import Served

MIB = 1024 * 1024
assert MAX_BODY == MIB

BODY = b'{"email":"%s","name":"Setiadi"}'


class Raw:
    """A connection, and what comes back over it."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._read = connection.makefile("rb")

    def send(self, data: bytes) -> None:
        self._connection.sendall(data)

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        """The next answer: status, headers, body."""
        status = int(self._read.readline().split()[1])
        headers = {}
        while (line := self._read.readline().strip()) != b"":
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        return status, headers, self._read.read(int(headers.get("content-length", "0")))

    def problem(self, status: int, slug: str) -> dict[str, str]:
        got, headers, body = self.answer()
        assert got == status, body
        assert headers["content-type"] == "application/problem+json"
        assert json.loads(body)["type"] == f"urn:eventshop:problem:{slug}"
        return headers

    def is_closed(self) -> bool:
        return self._read.read(1) == b""

    def answers_on(self) -> bool:
        """The same connection takes another request."""
        self.send(request("GET", "/health/live"))
        return self.answer()[0] == 200


@contextmanager
def connected(served: Served) -> Iterator[Raw]:
    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as connection:
        yield Raw(connection)


@pytest.fixture
def raw(users: Served) -> Iterator[Raw]:
    with connected(users) as connection:
        yield connection


def request(
    method: str, path: str, *headers: str, body: bytes = b"", length: int | None = None
) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *headers]
    if body or length is not None:
        lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


JSON = "Content-Type: application/json"
CHUNKED = "Transfer-Encoding: chunked"


def chunked(body: bytes, size: int) -> bytes:
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def padded(email: bytes, size: int) -> bytes:
    body = BODY % email
    return body + b" " * (size - len(body))


def test_a_body_of_exactly_one_mebibyte_is_taken(raw: Raw) -> None:
    raw.send(request("POST", "/users", JSON, body=padded(b"mebibyte@example.com", MIB)))
    assert raw.answer()[0] == 201
    assert raw.answers_on()


def test_a_body_in_small_chunks_is_taken(raw: Raw) -> None:
    raw.send(request("POST", "/users", JSON, CHUNKED) + chunked(BODY % b"chunks@example.com", 7))
    assert raw.answer()[0] == 201
    assert raw.answers_on()


@pytest.mark.parametrize("size", [MIB + 1, 2 * MIB, 10 * MIB])
@pytest.mark.parametrize("way", ["with its length", "chunked"])
def test_a_larger_body_is_refused_and_the_connection_closed(
    users: Served, raw: Raw, size: int, way: str
) -> None:
    before = users.stored()
    body = padded(b"large@example.com", size)
    if way == "chunked":
        raw.send(request("POST", "/users", JSON, CHUNKED) + chunked(body, 64 * 1024))
    else:
        raw.send(request("POST", "/users", JSON, body=body))
    headers = raw.problem(413, "body-too-large")
    assert headers["connection"] == "close"
    assert raw.is_closed()
    assert users.stored() == before


def test_a_body_without_end_is_refused_all_the_same(users: Served, raw: Raw) -> None:
    """Nobody has to wait for the end of a body that will not be taken."""
    raw.send(request("POST", "/users", JSON, length=10**15))
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        send_for_ever(raw)


def send_for_ever(raw: Raw) -> None:
    for _ in range(2_000):
        raw.send(b" " * MIB)
    pytest.fail("two gibibytes have been taken")


def test_who_asks_first_is_told_to_go_on(raw: Raw) -> None:
    body = BODY % b"polite@example.com"
    raw.send(request("POST", "/users", JSON, "Expect: 100-continue", length=len(body)))
    assert raw.answer()[0] == 100
    raw.send(body)
    assert raw.answer()[0] == 201


def test_a_refused_request_leaves_its_connection_usable(raw: Raw) -> None:
    raw.send(request("POST", "/users", "Content-Type: text/plain", body=b"x" * 500_000))
    raw.problem(415, "unsupported-media-type")
    raw.send(request("POST", "/users", JSON, body=b"{"))
    raw.problem(400, "malformed-body")
    raw.send(request("PATCH", "/users/0", JSON, body=BODY % b"a@b"))
    raw.problem(422, "invalid")
    raw.send(request("PUT", "/users/1", JSON, body=BODY % b"a@b"))
    raw.problem(405, "method-not-allowed")
    raw.send(request("GET", "/nothing"))
    raw.problem(404, "not-found")
    assert raw.answers_on()


def test_requests_sent_ahead_are_answered_in_order(raw: Raw) -> None:
    raw.send(
        request("POST", "/users", JSON, body=BODY % b"ahead@example.com")
        + request("POST", "/users", JSON, body=BODY % b"AHEAD@example.com")
        + request("GET", "/users/0")
        + request("GET", "/health/live")
    )
    assert [raw.answer()[0] for _ in range(4)] == [201, 409, 422, 200]


def test_a_client_that_leaves_before_its_body_is_whole_has_nothing_done(users: Served) -> None:
    before = users.stored()
    body = BODY % b"cut@example.com"
    for sent in (body, body[:-1], b""):
        with connected(users) as raw:
            # What has been sent reads like all of it; two bytes of white space are still to come.
            raw.send(request("POST", "/users", JSON, length=len(body) + 2) + sent)
        with connected(users) as raw:
            raw.send(request("POST", "/users", JSON, CHUNKED) + b"%x\r\n%s\r\n" % (len(body), body))
    with connected(users) as raw:
        # Answered after those before it: what they would have done would be done.
        raw.send(request("POST", "/users", JSON, body=BODY % b"after@example.com"))
        assert raw.answer()[0] == 201
    emails = users.rows("SELECT email FROM users WHERE email LIKE 'cut@%'")
    assert emails == []
    assert len(users.stored()) == len(before) + 2  # the one after, and its event


def test_a_client_that_leaves_while_it_is_served_is_served_and_harms_nobody(users: Served) -> None:
    for n in range(20):
        with connected(users) as raw:
            raw.send(request("POST", "/users", JSON, body=BODY % b"leaves%d@example.com" % n))
    assert users.client.get("/health/ready").status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        ("X-Long: " + "x" * 30_000,),
        tuple(f"X-{n}: {n}" for n in range(300)),
        ("X-Odd: \xe4\xff\x80",),
        ("Content: application/json",),
        ("Accept: text/html",),
        ("Accept-Encoding: gzip, br",),
        ("Cookie: a=b; c",),
        ("Authorization: Bearer x",),
        ("X-Forwarded-For: 1.2.3.4", "X-Forwarded-Proto: https"),
        ("Range: bytes=0-1",),
        ("If-None-Match: *",),
    ],
    ids=lambda headers: headers[0][:30],
)
def test_odd_headers_change_nothing(users: Served, raw: Raw, headers: tuple[str, ...]) -> None:
    email = f"odd{hash(headers)}@example.com".encode()
    raw.send(request("POST", "/users", JSON, *headers, body=BODY % email))
    assert raw.answer()[0] == 201


UPGRADES = [
    ("Connection: Upgrade", "Upgrade: websocket"),
    ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"),
]


@pytest.mark.parametrize("headers", UPGRADES, ids=["websocket", "h2c"])
def test_an_upgrade_is_not_taken_up(users: Served, raw: Raw, headers: tuple[str, ...]) -> None:
    raw.send(request("GET", "/health/live", *headers))
    assert raw.answer()[0] == 200
    assert raw.answers_on()


@pytest.mark.parametrize("headers", UPGRADES, ids=["websocket", "h2c"])
def test_the_body_of_an_upgrade_is_not_half_read(
    users: Served, raw: Raw, headers: tuple[str, ...]
) -> None:
    """The server's parser gives such a body to nobody: then nothing may be done."""
    before = users.stored()
    raw.send(request("POST", "/users", JSON, *headers, body=BODY % b"upgrade@example.com"))
    raw.problem(400, "malformed-body")
    assert users.stored() == before


@pytest.mark.parametrize(
    "sent",
    [
        b"hello\r\n\r\n",
        b"GET\r\n\r\n",
        b"FOO /users/1 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /users/1 HTTP/9.9\r\nHost: x\r\n\r\n",
        b"GET /users/1 HTTP/1.1\r\nHost x\r\n\r\n",
        b"POST /users HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /users HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
        b"POST /users HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
    ids=lambda sent: sent[:24].decode("latin-1").strip(),
)
def test_what_is_no_http_is_refused_and_the_connection_closed(
    users: Served, raw: Raw, sent: bytes
) -> None:
    """Here the server answers, in plain text: no request has reached the application."""
    before = users.stored()
    raw.send(sent)
    status, _, _ = raw.answer()
    assert 400 <= status < 500
    assert raw.is_closed()
    assert users.stored() == before
