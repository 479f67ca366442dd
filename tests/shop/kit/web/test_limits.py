"""What one client may take of a server: bytes of a head, time, connections."""

import json
from collections.abc import Iterator

import pytest

from shop.kit.web import protocol
from shop.kit.web.protocol import MAX_HEAD
from tests.conftest import NewDatabase
from tests.e2e.shop import until
from tests.shop.kit.web.test_connections import (
    ALIVE,
    BODY,
    CHUNKED,
    JSON,
    Raw,
    chunked,
    connected,
    request,
)
from tests.shop.serving import Served, serving


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


def test_who_has_been_refused_is_not_refused_once_more(
    users: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """When the head that was too large would have been too late as well."""
    monkeypatch.setattr(protocol, "_HEAD_WITHIN", 0.2)
    monkeypatch.setattr(protocol, "_LINGER", 0.4)
    others = set(users.server.server_state.connections)
    with connected(users) as raw:
        raw.send(head(2 * MAX_HEAD)[:-2])
        raw.problem(431, "head-too-large")
        assert raw.is_closed()
        until(lambda: users.server.server_state.connections <= others, "the server has closed it")
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


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
def test_what_has_no_end_is_not_taken_for_ever(users: Served, beginning: bytes) -> None:
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
def test_who_asks_nothing_is_not_kept(
    users: Served, monkeypatch: pytest.MonkeyPatch, before: bytes, sent: bytes
) -> None:
    monkeypatch.setattr(protocol, "_HEAD_WITHIN", 0.3)
    with connected(users) as raw:
        if before:
            raw.send(before)
            assert raw.answer()[0] == 200
        raw.send(sent)
        assert raw.is_closed()


def test_who_does_not_read_what_was_asked_for_is_not_kept(
    users: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "_READ_WITHIN", 0.3)
    with connected(users) as raw, pytest.raises((BrokenPipeError, ConnectionResetError)):
        for_ever(raw, request("GET", "/openapi.json") * 100)


def test_a_connection_too_many_is_told_so_and_another_is_taken_when_one_has_gone(
    new_database: NewDatabase, templates: dict[str, str]
) -> None:
    with serving("users", new_database(templates["users"]), max_connections=3) as served:
        with connected(served) as first, connected(served) as second, connected(served) as third:
            assert first.answers_on() and second.answers_on() and third.answers_on()
            with connected(served) as fourth:
                status, headers, body = fourth.answer()
                assert (status, headers["retry-after"]) == (503, "1")
                assert json.loads(body)["type"] == "urn:eventshop:problem:temporarily-unavailable"
                assert fourth.is_closed()
            assert first.answers_on()
        until(lambda: not served.server.server_state.connections, "they have gone")
        with connected(served) as another:
            assert another.answers_on()
