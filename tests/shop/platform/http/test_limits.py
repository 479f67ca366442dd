"""What one client may take of a server: bytes of a head, time, requests, connections."""

import json
import socket
import time
from collections.abc import Iterator
from uuid import uuid4

import pytest

from shop.platform.http import protocol
from shop.platform.http.protocol import MAX_AHEAD, MAX_HEAD
from tests.support.raw_http import ALIVE, BODY, CHUNKED, JSON, Raw, chunked, connected, request
from tests.support.serving import Served, stalled, waits_for_locks
from tests.support.waiting import until


@pytest.fixture
def raw(users: Served) -> Iterator[Raw]:
    with connected(users) as connection:
        yield connection


def head(size: int, headers: int = 1) -> bytes:
    """A whole one of so many bytes."""
    start, end = ALIVE[:-2], b"\r\n"
    size -= len(start) + len(end)
    length = size // headers
    lines = [b"x-%05d: " % n for n in range(headers)]
    lengths = [length] * (headers - 1) + [size - length * (headers - 1)]
    padded = [line + b"a" * (n - 11) + b"\r\n" for line, n in zip(lines, lengths, strict=True)]
    return start + b"".join(padded) + end


@pytest.mark.parametrize("headers", [1, 60])
@pytest.mark.parametrize("piece", [997, MAX_HEAD])
def test_a_head_of_64_kibibytes_is_taken(raw: Raw, headers: int, piece: int) -> None:
    sent = head(MAX_HEAD, headers)
    assert len(sent) == MAX_HEAD
    for _ in range(2):
        for start in range(0, MAX_HEAD, piece):
            raw.send(sent[start : start + piece])
        assert raw.answer()[0] == 200
    assert raw.answers_on()


@pytest.mark.parametrize("headers", [1, 60])
def test_a_larger_head_is_refused_in_so_many_words_and_the_connection_closed(
    raw: Raw, headers: int
) -> None:
    assert raw.answers_on()
    raw.send(head(2 * MAX_HEAD, headers)[:-2])
    headers_ = raw.problem(431, "head-too-large")
    assert headers_["connection"] == "close"
    assert raw.is_closed()


def test_a_refused_request_is_not_refused_once_more(
    users: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """When the head that was too large would have been too late as well."""
    monkeypatch.setattr(protocol, "_HEAD_WITHIN", 0.2)
    monkeypatch.setattr(protocol, "LINGER", 0.4)
    others = set(users.server.server_state.connections)
    with connected(users) as raw:
        raw.send(head(2 * MAX_HEAD)[:-2])
        raw.problem(431, "head-too-large")
        assert raw.is_closed()
        until(lambda: users.server.server_state.connections <= others, "the server has closed it")
    assert faults(caplog) == []


def for_ever(raw: Raw, piece: bytes) -> None:
    """Until nobody takes any more, which must be soon."""
    for _ in range(10_000):
        raw.send(piece)
    pytest.fail("it was taken")


@pytest.mark.parametrize(
    "beginning",
    [
        ALIVE[:-2],
        ALIVE[:-2] + b"x: ",
        b"GET /",
        request("POST", "/users", JSON, CHUNKED) + b"0\r\n",
        request("POST", "/users", JSON, CHUNKED) + b"0\r\nx: ",
        request("GET", "/health/live", CHUNKED) + b"0\r\nx: ",
    ],
    ids=["headers", "a header", "an address", "trailers", "a trailer", "a trailer nobody reads"],
)
def test_a_request_without_end_is_cut_off(users: Served, beginning: bytes) -> None:
    piece = b"a" * 50_000 if not beginning.endswith(b"\r\n") else b"x: a\r\n" * 8_000
    with connected(users) as raw:
        raw.send(beginning)
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            for_ever(raw, piece)


def test_a_trailer_is_not_taken_for_a_header(raw: Raw) -> None:
    sent = request("POST", "/users", JSON, CHUNKED) + chunked(BODY % b"trailer@example.com", 40)
    raw.send(sent[:-2] + b"Idempotency-Key: this is no key\r\n\r\n")
    assert raw.answer()[0] == 201
    assert raw.answers_on()


@pytest.mark.parametrize("before", [b"", ALIVE])
def test_a_head_that_does_not_come_is_refused_in_time(
    users: Served, monkeypatch: pytest.MonkeyPatch, before: bytes
) -> None:
    monkeypatch.setattr(protocol, "_HEAD_WITHIN", 0.3)
    with connected(users) as raw:
        if before:
            raw.send(before)
            assert raw.answer()[0] == 200
        raw.send(ALIVE[:-2])
        assert raw.problem(408, "request-too-slow")["connection"] == "close"
        assert raw.is_closed()


@pytest.mark.parametrize(("before", "sent"), [(b"", b""), (b"", b"\r\n"), (ALIVE, b"\r\n")])
def test_a_connection_that_sends_no_request_is_closed(
    users: Served, monkeypatch: pytest.MonkeyPatch, before: bytes, sent: bytes
) -> None:
    monkeypatch.setattr(protocol, "_HEAD_WITHIN", 0.3)
    with connected(users) as raw:
        if before:
            raw.send(before)
            assert raw.answer()[0] == 200
        raw.send(sent)
        assert raw.is_closed()


OPENAPI = request("GET", "/openapi.json")


def test_a_client_that_does_not_read_its_answer_is_cut_off(
    users: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "_READ_WITHIN", 0.3)
    state = users.server.server_state
    others = set(state.connections)
    with connected(users) as raw, pytest.raises((BrokenPipeError, ConnectionResetError)):
        raw.answers_on()
        (served,) = state.connections - others
        for _ in range(10_000):
            answered = state.total_requests
            # Never too many at a time: it is not for that that it is cut off.
            raw.send(OPENAPI * 10)
            until(
                lambda n=answered + 10: (
                    state.total_requests == n or served not in state.connections
                ),
                "they are answered, or will not be",
            )
        pytest.fail("it was kept")


WASTE = b"POST /health/live HTTP/1.1\r\nHost:x\r\nContent-Length:1\r\n\r\nx"


@pytest.mark.parametrize("sent", [WASTE, ALIVE, request("GET", "/nothing", "Upgrade: h2c")])
def test_pipelined_requests_beyond_a_few_are_dropped_and_their_client_can_tell(
    raw: Raw, sent: bytes
) -> None:
    """It is told by the last answer which of them it has to send again (RFC 9112, 9.3.2)."""
    raw.send(sent * (400_000 // len(sent)))
    answers = [raw.answer() for _ in range(1 + MAX_AHEAD)]
    assert ["connection" in headers for _, headers, _ in answers] == [False] * MAX_AHEAD + [True]
    assert raw.is_closed()


@pytest.mark.parametrize("behind", [WASTE, b"\x00 no HTTP"], ids=["requests", "something else"])
def test_an_accepted_request_is_answered_though_its_client_goes_on_sending(
    users: Served, raw: Raw, behind: bytes
) -> None:
    with stalled(users.database_url):
        raw.send(new_user() + behind * (400_000 // len(behind)))
        until(lambda: waits_for_locks(users), "the user is under way")
    assert raw.answer()[0] == 201
    answers = 0 if behind != WASTE else MAX_AHEAD
    assert [raw.answer()[0] for _ in range(answers)] == [405] * answers
    for _ in range(3):
        raw.send(b"x" * 100_000)
        time.sleep(0.05)  # in which a closed connection would be reset
    assert raw.is_closed()


def test_pipelined_requests_are_not_read_without_limit(users: Served) -> None:
    with connected(users) as raw, pytest.raises((BrokenPipeError, ConnectionResetError)):
        for_ever(raw, WASTE * 5_000)


def test_as_many_as_may_be_sent_ahead_are_answered_in_order(raw: Raw) -> None:
    ids = range(1_000_000, 1_000_000 + 1 + MAX_AHEAD)
    raw.send(b"".join(request("GET", f"/users/{n}") for n in ids))
    for n in ids:
        status, _, body = raw.answer()
        assert status == 404
        assert str(n) in json.loads(body)["detail"]
    assert raw.answers_on()


def new_user() -> bytes:
    return request("POST", "/users", JSON, body=BODY % f"{uuid4().hex}@example.com".encode())


def test_no_more_is_read_while_requests_wait(users: Served, raw: Raw) -> None:
    """Neither when one of them has been answered, nor when one is asked for its body."""
    with stalled(users.database_url):
        raw.send(ALIVE + new_user() + ALIVE)
        assert raw.answer()[0] == 200
        raw.send(ALIVE * MAX_AHEAD)
        until(lambda: waits_for_locks(users), "the user is under way")
        time.sleep(0.1)  # in which too many of them could be read
    assert [raw.answer()[0] for _ in range(2 + MAX_AHEAD)] == [201] + [200] * (1 + MAX_AHEAD)
    assert raw.answers_on()


@pytest.mark.parametrize("behind", [b"", b"\x00 no HTTP"], ids=["requests", "something else"])
def test_a_client_that_leaves_while_requests_wait_logs_no_error(
    users: Served, caplog: pytest.LogCaptureFixture, behind: bytes
) -> None:
    before = len(users.rows("SELECT FROM users"))
    state = users.server.server_state
    others = set(state.connections)
    with stalled(users.database_url):
        with connected(users) as raw:
            raw.send(ALIVE + new_user() + ALIVE + ALIVE + behind)
            assert raw.answer()[0] == 200
            until(lambda: waits_for_locks(users), "the user is under way")
        time.sleep(0.1)  # in which the server may hear of it
    until(lambda: len(users.rows("SELECT FROM users")) == before + 1, "what was under way is done")
    until(lambda: not state.tasks and state.connections <= others, "it has been answered, or not")
    assert faults(caplog) == []


def test_a_client_that_is_cut_off_while_requests_wait_logs_no_error(
    users: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(protocol, "_READ_WITHIN", 0.2)
    state = users.server.server_state
    others = set(state.connections)
    with connected(users) as raw:
        raw.answers_on()
        (served,) = state.connections - others
        served.transport.set_write_buffer_limits(0)
        served.transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_SNDBUF, 4096
        )
        raw.send(OPENAPI * MAX_AHEAD)
        until(lambda: not state.tasks and state.connections <= others, "it has been cut off")
    assert faults(caplog) == []


def faults(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
