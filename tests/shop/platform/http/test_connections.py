"""Odd requests, byte by byte: an answer, and a connection that is usable or cleanly closed."""

import json
import time
from collections.abc import Iterator
from unittest.mock import ANY
from uuid import uuid4

import pytest

from shop.platform.http.body import MAX_BODY
from tests.support.raw_http import (
    ALIVE,
    BODY,
    CHUNKED,
    JSON,
    Raw,
    chunked,
    connected,
    padded,
    request,
)
from tests.support.serving import Served

MIB = 1024 * 1024
assert MAX_BODY == 64 * 1024


@pytest.fixture
def raw(users: Served) -> Iterator[Raw]:
    with connected(users) as connection:
        yield connection


def test_a_body_of_exactly_64_kibibytes_is_taken(raw: Raw) -> None:
    raw.send(request("POST", "/users", JSON, body=padded(b"kibibytes@example.com", MAX_BODY)))
    assert raw.answer()[0] == 201
    assert raw.answers_on()


def test_a_body_in_small_chunks_is_taken(raw: Raw) -> None:
    raw.send(request("POST", "/users", JSON, CHUNKED) + chunked(BODY % b"chunks@example.com", 7))
    assert raw.answer()[0] == 201
    assert raw.answers_on()


@pytest.mark.parametrize("size", [MAX_BODY + 1, 2 * MAX_BODY, MIB, 10 * MIB])
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


def test_a_client_that_expects_100_continue_gets_it(raw: Raw) -> None:
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


def test_a_client_that_leaves_while_it_is_served_is_served_and_harms_no_other(
    users: Served,
) -> None:
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
@pytest.mark.parametrize("way", ["in one segment", "behind its head", "byte by byte", "chunked"])
def test_an_offer_to_upgrade_changes_nothing_about_the_body(
    users: Served, raw: Raw, headers: tuple[str, ...], way: str
) -> None:
    """As Java's HttpClient sends every first request."""
    body = BODY % f"{way.replace(' ', '-')}-{len(headers)}@example.com".encode()
    whole = request("POST", "/users", JSON, *headers, body=body)
    match way:
        case "in one segment":
            raw.send(whole)
        case "behind its head":
            raw.send(whole[: -len(body)])
            time.sleep(0.02)  # not for anything to happen: so that it is another segment
            raw.send(body)
        case "byte by byte":
            for at in range(len(whole)):
                raw.send(whole[at : at + 1])
        case _:
            raw.send(request("POST", "/users", JSON, CHUNKED, *headers) + chunked(body, 5))
    status, _, answer = raw.answer()
    assert status == 201, answer
    assert raw.answers_on()


def test_requests_sent_ahead_may_offer_upgrades_too(raw: Raw) -> None:
    raw.send(
        request("GET", "/health/live")
        + b"".join(
            request("POST", "/users", JSON, *UPGRADES[1], body=BODY % b"ahead%d@h2c.example" % n)
            for n in (1, 2, 2)
        )
        + request("GET", "/users/0")
    )
    assert [raw.answer()[0] for _ in range(5)] == [200, 201, 201, 409, 422]


def test_a_client_that_offers_an_upgrade_and_expects_100_continue_gets_it(raw: Raw) -> None:
    body = BODY % b"polite@h2c.example"
    head = request("POST", "/users", JSON, "Expect: 100-continue", *UPGRADES[1], length=len(body))
    raw.send(head)
    assert raw.answer()[0] == 100
    raw.send(body)
    assert raw.answer()[0] == 201


@pytest.mark.parametrize("headers", UPGRADES, ids=["websocket", "h2c"])
def test_the_body_of_an_upgrade_is_never_taken_for_a_request(
    users: Served, raw: Raw, headers: tuple[str, ...]
) -> None:
    """Or whoever fills in another's body could make requests in their name."""
    before = users.stored()
    hidden = request("POST", "/users", JSON, body=BODY % b"hidden@h2c.example")
    raw.send(request("POST", "/users", JSON, *headers, length=len(hidden)))
    time.sleep(0.02)  # so that the body comes in a segment of its own
    raw.send(hidden)
    raw.problem(400, "malformed-body")
    assert raw.answers_on()
    raw.send(request("POST", "/users", JSON, *headers, length=len(hidden) + 2) + hidden)
    time.sleep(0.02)
    raw.send(b"  ")
    raw.problem(400, "malformed-body")
    assert raw.answers_on()
    assert users.stored() == before


def test_a_body_without_end_is_refused_behind_an_upgrade_too(users: Served, raw: Raw) -> None:
    raw.send(request("POST", "/users", JSON, *UPGRADES[1], length=10**15))
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        send_for_ever(raw)


@pytest.mark.parametrize("target", ["example.com:443", "/users"])
def test_no_tunnel_is_opened_and_what_follows_is_no_request(
    users: Served, raw: Raw, target: str
) -> None:
    before = users.stored()
    hidden = request("POST", "/users", JSON, body=BODY % b"tunnel@example.com")
    raw.send(request("CONNECT", target, *UPGRADES[1]) + hidden)
    assert 400 <= raw.answer()[0] < 500
    assert raw.is_closed()
    assert users.stored() == before


@pytest.mark.parametrize("before", [b"", ALIVE], ids=["at first", "behind a request"])
@pytest.mark.parametrize(
    "sent",
    [
        b"hello\r\n\r\n",
        b"GET\r\n\r\n",
        b"FOO /users/1 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /users/\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /users/1 HTTP/9.9\r\nHost: x\r\n\r\n",
        b"GET /users/1 HTTP/1.1\r\nHost x\r\n\r\n",
        b"POST /users HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /users HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
    ids=lambda sent: sent[:24].decode("latin-1").strip(),
)
def test_bytes_that_are_no_http_are_refused_and_the_connection_closed(
    users: Served, raw: Raw, before: bytes, sent: bytes
) -> None:
    """Here the server answers: no request has reached the application."""
    stored = users.stored()
    if before:
        raw.send(before)
        assert raw.answer()[0] == 200
    raw.send(sent)
    headers = raw.problem(400, "malformed-request")
    assert headers["connection"] == "close"
    assert headers["date"]
    assert raw.is_closed()
    assert users.stored() == stored


GARBAGE = b"\x00 this is no HTTP\r\n\r\n"


def test_bytes_that_are_no_http_behind_a_request_get_no_answer(
    raw: Raw,
) -> None:
    """A refusal in between would be taken for the answer to what is done."""
    raw.send(request("POST", "/users", JSON, body=BODY % b"garbage@example.com") + GARBAGE)
    status, headers, body = raw.answer()
    assert (status, headers["connection"]) == (201, "close")
    assert json.loads(body)["email"] == "garbage@example.com"
    assert raw.is_closed()


def test_requests_before_what_is_no_http_are_answered_in_order(raw: Raw) -> None:
    raw.send(
        request("POST", "/users", JSON, body=BODY % b"before1@example.com")
        + request("POST", "/users", JSON, body=BODY % b"before1@example.com")
        + request("GET", "/users/0")
        + GARBAGE
        + request("POST", "/users", JSON, body=BODY % b"behind@example.com")
    )
    answers = [raw.answer() for _ in range(3)]
    assert [status for status, *_ in answers] == [201, 409, 422]
    assert ["connection" in headers for _, headers, _ in answers] == [False, False, True]
    assert raw.is_closed()


BROKEN_CHUNK = b"%x\r\n%s\r\nzz\r\n"


@pytest.mark.parametrize("before", [b"", ALIVE], ids=["alone", "behind a request"])
@pytest.mark.parametrize("later", [False, True], ids=["at once", "while it is waited for"])
def test_a_body_that_breaks_off_is_answered_once_and_nothing_done(
    users: Served, raw: Raw, before: bytes, *, later: bool
) -> None:
    stored = users.stored()
    body = BODY % b"broken@example.com"
    raw.send(before + request("POST", "/users", JSON, CHUNKED))
    if later:
        time.sleep(0.05)  # so that the rest comes by itself
    raw.send(BROKEN_CHUNK % (len(body), body))
    if before:
        assert raw.answer()[0] == 200
    assert raw.problem(400, "malformed-body")["connection"] == "close"
    assert raw.is_closed()
    assert users.stored() == stored


def test_a_request_that_needs_no_body_is_done_even_if_its_body_breaks_off(
    users: Served, raw: Raw
) -> None:
    made = users.client.post("/users", json={"email": "needless@example.com", "name": "N"}).json()
    raw.send(request("DELETE", f"/users/{made['id']}", CHUNKED) + BROKEN_CHUNK % (1, b"x"))
    status, headers, _ = raw.answer()
    assert (status, headers["connection"]) == (204, "close")
    assert raw.is_closed()
    assert users.client.get(f"/users/{made['id']}").status_code == 404


@pytest.mark.parametrize("later", [False, True], ids=["at once", "behind its answer"])
def test_what_breaks_off_and_was_refused_for_something_else_has_no_other_answer(
    raw: Raw, *, later: bool
) -> None:
    begun = request("POST", "/users", CHUNKED) + b"1\r\nx\r\n"
    if later:
        raw.send(begun)
        raw.problem(415, "unsupported-media-type")
        raw.send(b"zz\r\n")
    else:
        raw.send(begun + b"zz\r\n")
        raw.problem(415, "unsupported-media-type")
    assert raw.is_closed()


@pytest.mark.parametrize(
    "path",
    ["/users/{id}", "/users/{id}/orders", "/users/9999", "/users/0", "/nothing", "/health/live",
     "/health/ready", "/openapi.json", "/docs"],
)  # fmt: skip
def test_head_is_answered_as_get_is_but_for_the_body(users: Served, raw: Raw, path: str) -> None:
    body = {"email": f"{uuid4().hex}@example.com", "name": "Head"}
    path = path.format(**users.client.post("/users", json=body).json())
    raw.send(request("GET", path))
    status, headers, _ = raw.answer()
    raw.send(request("HEAD", path))
    assert raw.answer(body=False) == (status, {**headers, "date": ANY}, b"")
    assert raw.answers_on()


def test_head_is_refused_where_there_is_no_get(orders: Served) -> None:
    with connected(orders) as raw:
        raw.send(request("HEAD", "/orders/1/cancel"))
        status, headers, _ = raw.answer(body=False)
    assert (status, headers["allow"]) == (405, "POST")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/users/{id}/orders%0A"),
        ("POST", "/users%0A"),
        ("GET", "/%0A"),
        ("GET", "/health/live%0A"),
        ("GET", "/docs%0A"),
        ("GET", "/openapi.json%0A"),
    ],
)
def test_a_line_feed_behind_an_address_makes_it_another(
    users: Served, raw: Raw, method: str, path: str
) -> None:
    body = {"email": f"{uuid4().hex}@example.com", "name": "Line"}
    path = path.format(**users.client.post("/users", json=body).json())
    before = users.stored()
    raw.send(request(method, path, JSON, body=BODY % b"line@example.com"))
    raw.problem(404, "not-found")
    assert users.stored() == before


def test_a_line_feed_behind_an_id_makes_it_none(users: Served, raw: Raw) -> None:
    before = users.stored()
    for method in ("GET", "DELETE"):
        raw.send(request(method, "/users/1%0A"))
        raw.problem(422, "invalid")
    assert users.stored() == before
