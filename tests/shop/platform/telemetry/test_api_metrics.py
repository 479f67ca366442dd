"""The metrics of a running API: what they count, and that their number does not grow with what clients send."""

import re
import socket
from collections.abc import Iterator

import httpx
import pytest
from prometheus_client.core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain
from prometheus_client.samples import Sample

from shop.platform.telemetry import declared
from shop.platform.telemetry.metrics import Metrics
from tests.support.databases import NewDatabase
from tests.support.examples import ALL
from tests.support.serving import Served, serving

ROUTE = "/users/{user_id}"
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.fixture(scope="module")
def users(new_database: NewDatabase, templates: dict[str, str]) -> Iterator[Served]:
    url = new_database(templates["users"])
    with serving("users", url, max_connections=64) as served:
        yield served


def _families(users: Served, accept: str = "") -> list[Metric]:
    metrics: Metrics = users.app.state.metrics
    text = metrics.page(accept).body.decode()
    read = openmetrics if "openmetrics" in accept else plain
    return list(read(text))


def _samples(users: Served) -> list[Sample]:
    return [sample for family in _families(users) for sample in family.samples]


def _value(users: Served, name: str, **labels: str) -> float:
    found = [
        sample.value
        for sample in _samples(users)
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    return sum(found)


def test_requests_are_counted_by_template_method_and_status(users: Served) -> None:
    def count() -> float:
        labels = {"http_route": ROUTE, "http_request_method": "GET"}
        name = "http_server_request_duration_seconds_count"
        return _value(users, name, **labels, http_response_status_code="404")

    before = count()
    for number in (101, 102, 103):
        assert users.client.get(f"/users/{number}").status_code == 404
    assert count() == before + 3


def test_a_request_that_no_route_answers_is_counted_by_status(users: Served) -> None:
    name = "shop_http_unrouted_requests_total"
    before = _value(users, name, http_response_status_code="404")
    assert users.client.get("/nothing").status_code == 404
    assert users.client.get("/nothing%0a").status_code == 404
    assert _value(users, name, http_response_status_code="404") == before + 2


def test_a_repeated_key_a_batch_and_an_event_are_counted(users: Served) -> None:
    def numbers() -> list[float]:
        return [
            _value(users, "shop_idempotency_repeats_total"),
            _value(users, "shop_events_published_total"),
            _value(users, "shop_batch_commands_sum", batcher="create"),
            _value(users, "shop_commit_duration_seconds_count") > 0,
        ]

    before = numbers()
    body = {"email": "counted@example.com", "name": "Counted"}
    for _ in range(3):
        answer = users.client.post("/users", json=body, headers={"Idempotency-Key": "counted"})
        assert answer.status_code == 201
    repeats, events, commands, committed = numbers()
    # A batch that finds a known key is run again, but it is counted once.
    assert (repeats, events) == (before[0] + 2, before[1] + 1)
    assert commands == before[2] + 3
    assert committed


def test_only_openmetrics_has_exemplars_and_only_of_sampled_traces(users: Served) -> None:
    body = {"email": "traced@example.com", "name": "Traced"}
    for flag, trace in (("00", "a" * 32), ("01", TRACE_ID)):
        headers = {"traceparent": f"00-{trace}-00f067aa0ba902b7-{flag}"}
        users.client.post("/users", json=body, headers=headers)
    accept = "application/openmetrics-text; version=1.0.0"
    exemplars = [
        sample.exemplar.labels
        for family in _families(users, accept)
        for sample in family.samples
        if sample.exemplar
    ]
    assert exemplars == [{"trace_id": TRACE_ID}]
    assert TRACE_ID not in users.app.state.metrics.page("").body.decode()


def test_thousands_of_paths_ids_and_agents_add_no_series(users: Served) -> None:
    def series() -> set[tuple[str, tuple[tuple[str, str], ...]]]:
        return {(sample.name, tuple(sorted(sample.labels.items()))) for sample in _samples(users)}

    def ask(numbers: range) -> None:
        """In one connection, ten at a time."""
        with socket.create_connection(("127.0.0.1", users.port)) as connection:
            for first in range(numbers.start, numbers.stop, 10):
                for number in range(first, first + 10):
                    path = (
                        f"/users/{10**9 + number}" if number % 2 else f"/path-{number}/{number}?q"
                    )
                    head = f"GET {path} HTTP/1.1\r\nHost: a\r\nUser-Agent: agent-{number}\r\n\r\n"
                    connection.sendall(head.encode())
                answers = b""
                while answers.count(b"HTTP/1.1 ") < 10:
                    received = connection.recv(1 << 20)
                    assert received, "the server closed the connection"
                    answers += received

    def try_methods() -> None:
        for method in ("PUT", "PURGE", "LOCK"):
            users.client.request(method, "/users/1")

    ask(range(100))
    try_methods()
    before = series()
    ask(range(100, 10_100 if ALL else 1_100))
    try_methods()
    assert series() == before
    text = users.app.state.metrics.page("").body.decode()
    assert not re.search(r"agent-|path-|PURGE|1000000333", text)


def test_what_is_shown_is_declared_with_its_labels(users: Served) -> None:
    known = {of.name.removesuffix("_total"): of for of in declared.ALL}
    for family in _families(users):
        if family.name.startswith(("shop_", "http_")):
            of = known[family.name]
            assert (family.type, family.documentation) == (of.kind, of.description)
            for sample in family.samples:
                assert {*sample.labels} - {"le"} == set(of.labels)


def test_the_pool_and_the_connections_are_shown(users: Served) -> None:
    with httpx.Client(base_url=users.client.base_url) as another:
        another.get("/health/live")
        assert _value(users, "shop_http_connections") >= 1
    assert _value(users, "shop_db_pool_connections") >= 1
    assert _value(users, "shop_db_pool_connections_max") > 1
