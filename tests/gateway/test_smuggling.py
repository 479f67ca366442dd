"""Requests that two readers would read in two ways. Whatever the gateway makes of one, the service is sent
exactly that: as many requests as the gateway logged, and each whole.
"""

import json
from collections.abc import Iterable

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, ResponseReceived, StreamReset

from tests.support.gateway import Gateway
from tests.support.waiting import until

HIDDEN = b"GET /users/hidden HTTP/1.1\r\nHost: localhost\r\n\r\n"
"""What an attacker wants the service to take for a request of its own."""

HEAD = b"POST /orders HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
IN_A_CHUNK = b"%x\r\n%b\r\n0\r\n\r\n" % (len(HIDDEN), HIDDEN)

REFUSED = {
    "CL.TE": HEAD + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "TE.CL": HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n" + IN_A_CHUNK,
    "TE.TE, an unknown one": HEAD
    + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n"
    + IN_A_CHUNK,
    "TE.TE, twice": HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n" + IN_A_CHUNK,
    "TE: xchunked": HEAD + b"Transfer-Encoding: xchunked\r\n\r\n" + IN_A_CHUNK,
    "TE: chunked, identity": HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n" + IN_A_CHUNK,
    "TE: identity": HEAD + b"Transfer-Encoding: identity\r\n\r\n" + HIDDEN,
    "TE with a blank before the colon": HEAD + b"Transfer-Encoding : chunked\r\n\r\n" + IN_A_CHUNK,
    "TE after a vertical tab": HEAD + b"Transfer-Encoding:\x0bchunked\r\n\r\n" + IN_A_CHUNK,
    "TE folded": HEAD + b"Transfer-Encoding:\r\n chunked\r\n\r\n" + IN_A_CHUNK,
    "a folded line": HEAD + b"X: a\r\n b: c\r\n\r\n",
    "CL twice": HEAD + b"Content-Length: 0\r\nContent-Length: 47\r\n\r\n" + HIDDEN,
    "CL twice, the same": HEAD + b"Content-Length: 0\r\nContent-Length: 0\r\n\r\n",
    "CL as a list": HEAD + b"Content-Length: 0, 0\r\n\r\n",
    "CL with a sign": HEAD + b"Content-Length: +0\r\n\r\n",
    "CL negative": HEAD + b"Content-Length: -1\r\n\r\n",
    "CL as hexadecimal": HEAD + b"Content-Length: 0x2f\r\n\r\n" + HIDDEN,
    "CL beyond 64 bits": HEAD + b"Content-Length: 18446744073709551663\r\n\r\n" + HIDDEN,
    "a bare CR": HEAD + b"X: a\rTransfer-Encoding: chunked\r\n\r\n" + IN_A_CHUNK,
    "a NUL": HEAD + b"X: a\0b\r\n\r\n",
    "chunked in HTTP/1.0": b"POST /orders HTTP/1.0\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" + IN_A_CHUNK,
    "two Hosts": b"GET /orders HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\nConnection: close\r\n\r\n",
    "HTTP/3.0": b"GET /orders HTTP/3.0\r\nHost: localhost\r\n\r\n",
    "a blank in the path, and no version": b"GET /orders x\r\n\r\n",
}  # fmt: skip
BROKEN_CHUNKS = {
    "a size in hexadecimal with 0x": b"0x5\r\nabcde\r\n0\r\n\r\n",
    "a negative size": b"-5\r\nabcde\r\n0\r\n\r\n",
    "a size beyond 64 bits": b"1000000000000000f\r\nabcde\r\n0\r\n\r\n",
    "more than its size": b"3\r\nabcde\r\n0\r\n\r\n",
    "no size": b"\r\nabcde\r\n0\r\n\r\n",
}


def check_that_each_was_seen(stage: Gateway) -> None:
    """By the gateway, as one request, with the id that it gave it. One that was smuggled has none."""
    received = [each for upstream in stage.upstreams.values() for each in upstream.received]
    for each in received:
        [own_id] = each.values("x-request-id")
        line = until(lambda own_id=own_id: logged(stage, own_id), f"{own_id} is in the log")
        assert line is not None
        assert (line["method"], line["path"]) == (each.method, each.target)
        assert b"\n" not in each.head.replace(b"\r\n", b"")
        assert len(each.values("content-length")) <= 1
        assert each.values("host") == ["localhost"]
    assert len({tuple(each.values("x-request-id")) for each in received}) == len(received)


def logged(stage: Gateway, request_id: str) -> dict[str, str] | None:
    lines = [json.loads(line) for line in stage.log().splitlines() if request_id in line]
    assert len(lines) <= 1
    return lines[0] if lines else None


@pytest.mark.parametrize("name", REFUSED)
def test_what_can_be_read_in_two_ways_is_refused(stage: Gateway, name: str) -> None:
    answer = stage.exchange(REFUSED[name])
    assert answer.startswith(b"HTTP/1.1 400 "), answer
    assert b"urn:eventshop:problem:malformed-request" in answer
    assert answer.count(b"HTTP/1.1 ") == 1
    assert not stage.orders.received + stage.users.received
    check_that_each_was_seen(stage)


def test_a_request_without_a_host_is_nobodys(stage: Gateway) -> None:
    answer = stage.exchange(b"GET /orders HTTP/1.1\r\nConnection: close\r\n\r\n")
    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 421 ")), answer
    assert not stage.orders.received


@pytest.mark.parametrize("name", BROKEN_CHUNKS)
def test_a_body_in_broken_chunks_reaches_nobody(stage: Gateway, name: str) -> None:
    answer = stage.exchange(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + BROKEN_CHUNKS[name])
    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 413 ")), answer
    assert not stage.orders.received + stage.users.received


def test_a_body_in_chunks_is_passed_on_with_its_length_and_without_trailers(stage: Gateway) -> None:
    chunks = b"5;x=y\r\nabcde\r\n2\r\nfg\r\n0\r\nIf-Match: 1\r\n\r\n"
    answer = stage.exchange(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunks)
    assert answer.startswith(b"HTTP/1.1 200 ")
    [received] = stage.orders.received
    assert (received.body, received.values("content-length")) == (b"abcdefg", ["7"])
    assert received.values("if-match") == []


def test_lines_that_end_with_a_bare_lf_are_passed_on_as_lines_that_do_not(stage: Gateway) -> None:
    sent = HEAD.replace(b"\r\n", b"\n") + b"Content-Length: %d\n\n" % len(HIDDEN) + HIDDEN
    assert stage.exchange(sent).startswith(b"HTTP/1.1 200 ")
    [received] = stage.orders.received
    assert received.body == HIDDEN
    check_that_each_was_seen(stage)


def test_what_follows_a_request_is_a_request_of_its_own_in_the_log_too(stage: Gateway) -> None:
    first = b"GET /orders HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
    answers = stage.exchange(first + HIDDEN.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    assert answers.count(b"HTTP/1.1 200 ") == 2
    assert len(stage.orders.received) == len(stage.users.received) == 1
    check_that_each_was_seen(stage)


Headers = Iterable[tuple[bytes, bytes]]
PSEUDO = [(b":method", b"POST"), (b":scheme", b"https"), (b":authority", b"localhost"), (b":path", b"/orders")]  # fmt: skip


def over_http_2(stage: Gateway, headers: Headers, body: bytes = b"") -> str:
    """These frames, as no client would send them; the status, or how the gateway broke it off."""
    context = stage.trust()
    context.set_alpn_protocols(["h2"])
    h2 = H2Connection(
        H2Configuration(
            header_encoding=None, validate_outbound_headers=False, normalize_outbound_headers=False
        )
    )
    with stage.connect(context) as connection:
        h2.initiate_connection()
        h2.send_headers(1, list(headers), end_stream=not body)
        if body:
            h2.send_data(1, body, end_stream=True)
        connection.sendall(h2.data_to_send())
        while received := connection.recv(65536):
            for event in h2.receive_data(received):
                if isinstance(event, ResponseReceived):
                    return dict(event.headers)[b":status"].decode()
                if isinstance(event, (StreamReset, ConnectionTerminated)):
                    return "broken off"
            connection.sendall(h2.data_to_send())
    return "closed"


def instead(name: bytes, value: bytes) -> list[tuple[bytes, bytes]]:
    return [(each, value if each == name else before) for each, before in PSEUDO]


DOWNGRADES: dict[str, tuple[Headers, bytes]] = {
    "TE": ([*PSEUDO, (b"transfer-encoding", b"chunked")], IN_A_CHUNK),
    "CL shorter than the body": ([*PSEUDO, (b"content-length", b"0")], HIDDEN),
    "CL longer than the body": ([*PSEUDO, (b"content-length", b"100")], HIDDEN),
    "CL twice": ([*PSEUDO, (b"content-length", b"47"), (b"content-length", b"0")], HIDDEN),
    "CRLF in a value": ([*PSEUDO, (b"x", b"a\r\nTransfer-Encoding: chunked")], IN_A_CHUNK),
    "LF in a value": ([*PSEUDO, (b"x", b"a\nTransfer-Encoding: chunked")], IN_A_CHUNK),
    "NUL in a value": ([*PSEUDO, (b"x", b"a\0b")], b""),
    "CRLF in a name": ([*PSEUDO, (b"x: a\r\ntransfer-encoding", b"chunked")], IN_A_CHUNK),
    "a colon in a name": ([*PSEUDO, (b"transfer-encoding: chunked\r\nx", b"")], IN_A_CHUNK),
    "CRLF in the path": (instead(b":path", b"/orders HTTP/1.1\r\nX: y\r\n\r\n" + HIDDEN), b""),
    "a blank in the path": (instead(b":path", b"/orders HTTP/1.1"), b""),
    "CRLF in the method": (instead(b":method", b"GET /users/hidden HTTP/1.1\r\nX: "), b""),
    "CRLF in the authority": (instead(b":authority", b"localhost\r\nX: y"), b""),
    "another Host": ([*PSEUDO, (b"host", b"evil")], b""),
    "two paths": ([*PSEUDO, (b":path", b"/users/hidden")], b""),
    "no path": ([each for each in PSEUDO if each[0] != b":path"], b""),
    "an upper-case name": ([*PSEUDO, (b"Transfer-Encoding", b"chunked")], IN_A_CHUNK),
    "Connection": ([*PSEUDO, (b"connection", b"close, x")], b""),
    "Upgrade": ([*PSEUDO, (b"upgrade", b"websocket")], b""),
}


def test_ordinary_frames_are_answered(stage: Gateway) -> None:
    """So that what follows is refused for what is wrong with it."""
    for headers in (PSEUDO, [*PSEUDO, (b"content-length", b"%d" % len(HIDDEN)), (b"x", b"a: b")]):
        assert over_http_2(stage, headers, HIDDEN) == "200"
    check_that_each_was_seen(stage)


@pytest.mark.parametrize("name", DOWNGRADES)
def test_http_2_is_not_made_two_requests_of_http_1(stage: Gateway, name: str) -> None:
    headers, body = DOWNGRADES[name]
    became = over_http_2(stage, headers, body)
    print(f"{name}: {became}")
    assert not stage.users.received
    assert len(stage.orders.received) == (became == "200")
    for received in stage.orders.received:
        assert received.body in {b"", body}
        assert received.values("transfer-encoding") == []
        assert received.values("upgrade") == received.values("x") == []
    check_that_each_was_seen(stage)
