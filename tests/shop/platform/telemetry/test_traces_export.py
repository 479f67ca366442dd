"""A collector that is away, slow or silent costs no request anything, and no stop more than a second."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import httpx
import pytest
import structlog

from eventspine.log import Record
from shop.platform.settings import Settings
from shop.platform.telemetry import traces_export
from shop.platform.telemetry.traces_export import Export
from shop.platform.telemetry.tracing import Tracing
from tests.support.collector import Collector, collecting, silent
from tests.support.databases import NewDatabase
from tests.support.serving import Served, serving
from tests.support.waiting import until

QUICK = 0.1  # seconds; a silent collector is waited for for ten, and a slow one here for 0.3
PAUSE = 8.0  # seconds; one answer may take that long on a machine with other work


@pytest.fixture
def url(new_database: NewDatabase, templates: dict[str, str]) -> str:
    return new_database(templates["users"])


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@pytest.fixture
def log() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs() as lines:
        yield lines


def lines(log: list[Any], event: str) -> list[Any]:
    return [line for line in log if line["event"] == event]


@contextmanager
def traced(url: str, endpoint: str) -> Iterator[tuple[Served, Export]]:
    """A service whose requests are all traced. Its stop must be quick."""
    telemetry = {"otlp_endpoint": endpoint, "traces_ratio": 1, "traces_per_s": 100_000}
    with serving("users", url, telemetry=telemetry) as users:
        tracing = users.app.state.telemetry.traces
        yield users, tracing.export
        began = time.monotonic()
    assert time.monotonic() - began < traces_export.STOP_WITHIN + PAUSE


def ask(users: Served, times: int = 300) -> None:
    took = []
    for _ in range(times):
        began = time.monotonic()
        assert users.client.get("/health/live").status_code == 200
        took.append(time.monotonic() - began)
    assert median(took) < QUICK
    assert max(took) < PAUSE


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue that is soon full."""
    monkeypatch.setattr(traces_export, "_ROOM", 100)
    monkeypatch.setattr(traces_export, "_EVERY", 0.05)


@pytest.mark.usefixtures("small")
def test_a_silent_collector_costs_nothing_and_what_is_dropped_is_counted(
    url: str, log: list[Any]
) -> None:
    with silent() as endpoint, traced(url, endpoint) as (users, export):
        ask(users)
        assert len(export._ended) == 100
        page = users.app.state.metrics.page("").body.decode()
        assert (
            f'shop_traces_spans_dropped_total{{reason="queue_full"}} {export.dropped["queue_full"]}.0'
            in page
        )
    dropped = export.dropped
    assert dropped["queue_full"] > 0
    assert dropped["queue_full"] + dropped["stopped"] + dropped["not_taken"] == 300
    [line] = lines(log, "traces.dropped")
    assert (line["count"], line["log_level"]) == (300, "warning")


def test_a_collector_that_is_away_is_said_once_and_costs_nothing(
    url: str, log: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traces_export, "_EVERY", 0.05)
    monkeypatch.setattr("shop.platform.telemetry.traces._TRIES_FOR", 1.3)
    with traced(url, "http://127.0.0.1:1") as (users, export):
        for _ in range(2):
            ask(users, 30)
            until(lambda: not export._ended and not export._on_its_way, "it has tried")
    assert export.dropped["not_taken"] == 60
    [waiting] = lines(log, "traces.waiting")
    assert waiting["reason"] == "CollectorAway: ConnectionError"
    assert sum(line["count"] for line in lines(log, "traces.dropped")) == 60


def test_a_stop_does_not_wait_for_the_next_attempt(url: str) -> None:
    with traced(url, "http://127.0.0.1:1") as (users, export):
        ask(users, 5)
        until(lambda: export._on_its_way, "it has begun to try")


async def test_a_worker_stops_within_a_second_too(log: list[Any]) -> None:
    with silent() as endpoint:
        tracing = Tracing(Settings(telemetry={"otlp_endpoint": endpoint}), "worker", "orders")
        [steps] = tracing.steps()
        headers = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}

        async def proceed() -> None:
            pass

        async with tracing.sending():
            began = time.monotonic()
            for _ in range(10):
                await steps.receive([Record("users", 0, 0, "1", b"{}", headers)], proceed)
            assert time.monotonic() - began < PAUSE
            began = time.monotonic()
        assert time.monotonic() - began < traces_export.STOP_WITHIN + PAUSE
    assert tracing.export.dropped["stopped"] == 10
    assert [line["count"] for line in lines(log, "traces.dropped")] == [10]


def test_a_slow_collector_gets_everything_later(
    url: str, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traces_export, "_EVERY", 0.05)
    collector.answers_after = 0.3
    with traced(url, collector.url) as (users, export):
        ask(users)
        until(lambda: export.sent == 300, "all are sent")
    assert len(collector.spans()) == 300
    assert not any(export.dropped.values())


def test_it_is_said_that_a_collector_takes_spans_again(
    url: str, collector: Collector, log: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traces_export, "_EVERY", 0.05)
    collector.status = 400
    with traced(url, collector.url) as (users, export):
        ask(users, 5)
        until(lambda: lines(log, "traces.waiting"), "the refusal is logged")
        collector.status = 200
        ask(users, 5)
        until(lambda: lines(log, "traces.recovered"), "it is logged")
    assert lines(log, "traces.waiting")[0]["reason"] == "CollectorAway: it answered 400 Bad Request"
    assert export.dropped["not_taken"] + export.sent == 10


def test_a_stop_sends_what_has_ended(url: str, collector: Collector) -> None:
    with traced(url, collector.url) as (users, export):
        ask(users, 3)
        assert httpx.get(f"http://127.0.0.1:{users.port}/users/7").status_code == 404
    assert len(collector.spans()) == 4 == export.sent
