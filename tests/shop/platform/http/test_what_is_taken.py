"""What clients, proxies and balancers send that is right, or nearly: taken, or refused in so many words."""

import gzip
import json
import socket
import time
from collections.abc import Iterator
from unittest.mock import ANY
from uuid import uuid4

import httpx
import pytest

from tests.support.raw_http import ALIVE, BODY, CHUNKED, JSON, Raw, connected, request
from tests.support.serving import Served, problem, stalled, waits_for_locks, wrong_fields
from tests.support.shop_events import user_created
from tests.support.waiting import until


@pytest.fixture
def raw(users: Served) -> Iterator[Raw]:
    with connected(users) as connection:
        yield connection


def body() -> bytes:
    return BODY % f"{uuid4().hex}@example.com".encode()


BOM = b"\xef\xbb\xbf"


def test_a_body_with_a_byte_order_mark_is_taken(users: Served) -> None:
    headers = {"content-type": "application/json", "idempotency-key": uuid4().hex}
    sent = body()
    first = users.client.post("/users", content=BOM + sent, headers=headers)
    assert first.status_code == 201
    # The mark is not a part of what was asked.
    assert users.client.post("/users", content=sent, headers=headers).content == first.content


@pytest.mark.parametrize("sent", [BOM, BOM + b"{", BOM + BOM + b"{}", b"{}" + BOM])
def test_a_byte_order_mark_makes_nothing_json_that_is_none(users: Served, sent: bytes) -> None:
    headers = {"content-type": "application/json"}
    answer = users.client.post("/users", content=sent, headers=headers)
    problem(answer, 400, "malformed-body")


@pytest.mark.parametrize(
    "media_type",
    [
        "application/json",
        "Application/JSON",
        "application/json;charset=utf8",
        "application/json; charset=UTF-8",
        'application/json ; Charset="utf-8"',
        "application/json; charset=us-ascii",
        "application/json; version=1; charset = utf8",
        "application/json;",
        "application/vnd.shop+json",
    ],
)
def test_json_is_taken_however_its_type_is_spelt(users: Served, media_type: str) -> None:
    answer = users.client.post("/users", content=body(), headers={"content-type": media_type})
    assert answer.status_code == 201, answer.text


@pytest.mark.parametrize(
    "media_type",
    [
        "text/json",
        "application/jsonp",
        "application/json; charset=iso-8859-1",
        "application/json; charset=utf-16",
        "application/json; charset=utf-16; alias=utf-8",
        "application/json; charset=utf-8x",
    ],
)
def test_a_body_not_declared_as_json_in_utf_8_is_refused(users: Served, media_type: str) -> None:
    answer = users.client.post("/users", content=body(), headers={"content-type": media_type})
    problem(answer, 415, "unsupported-media-type")


def test_a_compressed_body_is_told_that_it_is_that(users: Served) -> None:
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    answer = users.client.post("/users", content=gzip.compress(body()), headers=headers)
    assert "Content-Encoding" in problem(answer, 415, "unsupported-media-type")["detail"]


def without_host(method: str, path: str, *headers: str, version: str = "1.1") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/{version}", *headers, "", ""]).encode()


@pytest.mark.parametrize(
    ("hosts", "version"),
    [
        ((), "1.1"),
        (("Host: a", "Host: b"), "1.1"),
        (("Host: a", "HOST: a"), "1.1"),
        (("Host: a", "Host: b"), "1.0"),
    ],
)
@pytest.mark.parametrize("upgrade", [(), ("Connection: Upgrade", "Upgrade: h2c")])
def test_a_request_names_one_host(
    users: Served, raw: Raw, hosts: tuple[str, ...], version: str, upgrade: tuple[str, ...]
) -> None:
    before = users.stored()
    sent = body()
    head = without_host(
        "POST", "/users", *hosts, *upgrade, JSON, f"Content-Length: {len(sent)}", version=version
    )
    raw.send(head + sent)
    assert raw.problem(400, "malformed-request")["connection"] == "close"
    assert raw.is_closed()
    assert users.stored() == before


def test_a_request_without_a_host_behind_another_gets_no_answer(
    raw: Raw,
) -> None:
    raw.send(ALIVE + without_host("GET", "/health/live"))
    status, headers, _ = raw.answer()
    assert (status, headers["connection"]) == (200, "close")
    assert raw.is_closed()


def test_http_1_0_needs_no_host(raw: Raw) -> None:
    raw.send(without_host("GET", "/health/live", version="1.0"))
    status, headers, _ = raw.answer()
    assert (status, headers["connection"]) == (200, "close")
    assert raw.is_closed()


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("http://example.com/health/live", "/health/live"),
        ("HTTP://example.com:80/health/live?", "/health/live"),
        ("https://[::1]:8001/users?limit=1", "/users?limit=1"),
        ("http://example.com/nothing", "/nothing"),
        ("http://example.com?x=/health/live", "/?x=/health/live"),
        ("http://example.com", "/"),
    ],
)
def test_a_whole_url_is_taken_for_its_path(raw: Raw, target: str, path: str) -> None:
    raw.send(request("GET", path))
    status, headers, body = raw.answer()
    raw.send(request("GET", target))
    assert raw.answer() == (status, {**headers, "date": ANY}, body)
    assert raw.answers_on()


@pytest.mark.parametrize("target", ["//users/1", "//", "/users//1", "*"])
def test_a_path_is_taken_as_it_is(raw: Raw, target: str) -> None:
    raw.send(request("GET", target))
    raw.problem(404, "not-found")
    assert raw.answers_on()


@pytest.mark.parametrize(
    ("target", "allowed"),
    [
        ("*", {"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST"}),
        ("/users", {"GET", "HEAD", "POST"}),
        ("/users/1", {"DELETE", "GET", "HEAD", "PATCH"}),
        ("/health/live", {"GET", "HEAD"}),
    ],
)
def test_an_options_request_is_told_the_methods(raw: Raw, target: str, allowed: set[str]) -> None:
    raw.send(request("OPTIONS", target))
    status, headers, _ = raw.answer()
    assert (status, set(headers["allow"].split(", "))) == (204, allowed)
    assert raw.answers_on()


@pytest.mark.parametrize("others", [b"", ALIVE], ids=["alone", "amid others"])
def test_a_client_that_has_sent_all_it_will_is_still_answered(users: Served, others: bytes) -> None:
    """As `nc -N`, some balancers and some libraries do: they shut their side, and wait."""
    sent = body()
    with socket.create_connection(("127.0.0.1", users.port), timeout=60) as connection:
        with stalled(users.database_url):
            connection.sendall(others + request("POST", "/users", JSON, body=sent) + others)
            connection.shutdown(socket.SHUT_WR)
            until(lambda: waits_for_locks(users), "the user is under way")
            time.sleep(0.05)  # in which the server may hear of the end
        answers = connection.makefile("rb").read()
    assert answers.count(b"HTTP/1.1 200 OK") == (2 if others else 0)
    assert answers.count(b"HTTP/1.1 201 Created") == 1
    assert json.loads(sent)["email"].encode() in answers


@pytest.mark.parametrize("before", [b"", ALIVE])
def test_a_client_that_shuts_its_side_amid_a_body_is_told_that_nothing_was_done(
    users: Served, before: bytes
) -> None:
    stored = users.stored()
    sent = body()
    whole = [
        request("POST", "/users", JSON, length=len(sent) + 2) + sent,
        request("POST", "/users", JSON, CHUNKED) + b"%x\r\n%s\r\n" % (len(sent), sent),
    ]
    for cut in whole:
        with socket.create_connection(("127.0.0.1", users.port), timeout=60) as connection:
            connection.sendall(before + cut)
            connection.shutdown(socket.SHUT_WR)
            answers = connection.makefile("rb").read()
        assert b"HTTP/1.1 400" in answers
        assert answers.count(b"HTTP/1.1 200") == bool(before)
    assert users.stored() == stored


def price(orders: Served, written: str) -> httpx.Response:
    content = '{"user_id":1,"product":"tea","quantity":1,"total_price":' + written + "}"
    return orders.client.post(
        "/orders", content=content, headers={"content-type": "application/json"}
    )


DECIMALS = "no more than 2 decimal places"
LARGE = "less than 10000000000"
FORM = 'a number, or a decimal string like "12.50"'


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("0.30000000000000004", DECIMALS),
        ("1e-7", DECIMALS),
        ("9999999999.999", DECIMALS),
        ('"0.305"', DECIMALS),
        ('"0.30000000000000004"', DECIMALS),
        ("12345678901.5", LARGE),
        ("10000000000", LARGE),
        ("1e300", LARGE),
        ("100000000000000000000000000000000000000", LARGE),
        ('"10000000000"', LARGE),
        ('"12345678901.5"', LARGE),
        ("-0.01", "greater than or equal to 0"),
        ("NaN", "finite number"),
        ("-Infinity", "finite number"),
        ('"1,50"', FORM),
        ('"-0"', FORM),
        ('"1e2"', FORM),
        ('"NaN"', FORM),
        ('"\u0661"', FORM),
        ('""', FORM),
        ("true", FORM),
    ],
)
def test_a_price_that_is_none_is_told_why(orders: Served, written: str, said: str) -> None:
    found = problem(price(orders, written), 422, "invalid")
    assert wrong_fields(found) == [("body", "total_price")]
    assert said in found["errors"][0]["detail"]


@pytest.mark.parametrize(
    ("written", "is_"),
    [("-0.0", "0.00"), ("9999999999.99", "9999999999.99"), ("1E2", "100.00"), ('"007.5"', "7.50")],
)
def test_a_price_is_taken_in_every_spelling_of_a_number(
    orders: Served, written: str, is_: str
) -> None:
    orders.hears(user_created(1))
    answer = price(orders, written)
    assert answer.status_code == 201, answer.text
    assert answer.json()["total_price"] == is_
    assert orders.events()[-1][4]["total_price"] == is_
