"""Each request has a span, which the events that it causes carry on; and batches have one, with links."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.semconv._incubating.attributes import messaging_attributes
from opentelemetry.semconv.attributes import error_attributes, http_attributes, url_attributes
from opentelemetry.semconv.schemas import Schemas

from eventspine.log import Record
from eventspine.steps import GROUP
from shop.platform.http import peer
from shop.platform.log_ids import TRACEPARENT
from shop.platform.settings import Settings
from shop.platform.telemetry.settings import TelemetrySettings
from shop.platform.telemetry.traces import SCHEMA
from shop.platform.telemetry.tracing import Tracing
from tests.support.collector import Collector, Seen, collecting
from tests.support.databases import NewDatabase
from tests.support.serving import Served, serving

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@pytest.fixture
def url(new_database: NewDatabase, templates: dict[str, str]) -> str:
    return new_database(templates["users"])


def telemetry(collector: Collector, **more: Any) -> dict[str, Any]:
    return {"otlp_endpoint": collector.url, "traces_ratio": 1, **more}


def create(users: Served, email: str, **headers: str) -> None:
    body = {"email": email, "name": "Ada"}
    assert users.client.post("/users", json=body, headers=headers).status_code == 201


def test_a_request_has_one_span_by_the_conventions(collector: Collector, url: str) -> None:
    with serving("users", url, telemetry=telemetry(collector)) as users:
        create(users, "ada@example.com")
        assert users.client.get("/users/7?email=x").status_code == 422
        assert users.client.get("/users/7").status_code == 404
        assert users.client.get("/ada@example.com").status_code == 404
        assert users.client.put("/users/7").status_code == 405
        assert users.client.get("/users/ada@example.com").status_code == 422
        assert users.client.get("/health/live").status_code == 200
        *_, headers = users.events()[-1]
    spans = collector.spans()
    assert [span.name for span in spans] == [
        "POST /users", "GET /users/{user_id}", "GET /users/{user_id}", "GET", "PUT /users/{user_id}", "GET /users/{user_id}",
        "GET /health/live",
    ]  # fmt: skip
    posted, _, missing, unknown, *_, odd, _ = spans
    assert posted.attributes == {
        "http.request.method": "POST", "http.route": "/users", "http.response.status_code": 201,
        "url.scheme": "http", "url.path": "/users", "network.protocol.version": "1.1",
        "server.address": "127.0.0.1", "server.port": users.port,
    }  # fmt: skip
    assert (posted.kind, posted.parent, posted.is_error) == ("SERVER", "", False)
    assert posted.process == "users-api" and posted.resource["service.namespace"] == "eventshop"
    assert headers == {"traceparent": f"00-{posted.trace}-{posted.id}-01"}
    assert missing.attributes["url.path"] == "/users/7"
    assert odd.attributes["url.path"] == "/users/{user_id}"
    assert "url.path" not in unknown.attributes and "http.route" not in unknown.attributes


def test_the_trace_of_a_client_is_continued(collector: Collector, url: str) -> None:
    sent = {"traceparent": f"00-{TRACE}-{PARENT}-03", "tracestate": "vendor=one,other=two"}
    with serving("users", url, telemetry=telemetry(collector, traces_ratio=0)) as users:
        create(users, "ada@example.com", **sent)
        *_, headers = users.events()[-1]
        create(users, "b@example.com", traceparent=f"00-{TRACE}-{PARENT}-00")
        create(users, "c@example.com")
        *_, unsampled = users.events()[-2]
        *_, without = users.events()[-1]
    [span] = collector.spans()
    assert (span.trace, span.parent, span.state) == (TRACE, PARENT, "vendor=one,other=two")
    assert headers == {**sent, "traceparent": f"00-{TRACE}-{span.id}-03"}
    assert unsampled == {"traceparent": f"00-{TRACE}-{PARENT}-00"}
    assert without is None


def test_a_fault_marks_the_span(collector: Collector, url: str) -> None:
    with serving("users", url, telemetry=telemetry(collector)) as users:
        users.connection.execute("ALTER TABLE users RENAME TO gone")
        assert users.client.get("/users/7").status_code == 500
    [span] = collector.spans()
    assert span.is_error
    assert span.attributes["error.type"] == "500"
    assert span.attributes["http.response.status_code"] == 500


def test_no_more_than_so_many_are_traced_in_a_second(collector: Collector, url: str) -> None:
    sent = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
    with serving("users", url, telemetry=telemetry(collector, traces_per_s=1)) as users:
        for _ in range(20):
            users.client.get("/users/7", headers=sent)
    assert len(collector.spans()) < 20


def test_the_share_that_is_asked_for_is_traced_by_the_id_of_the_trace() -> None:
    settings = Settings(telemetry={"otlp_endpoint": "http://127.0.0.1:1", "traces_ratio": 0.25})
    assert Tracing(settings, "api", "users")._traces.below == 2**62


def test_a_collector_gets_the_headers_that_are_configured(collector: Collector, url: str) -> None:
    own = telemetry(collector, otlp_headers="authorization=Bearer%20secret, x-tenant=shop")
    with serving("users", url, telemetry=own) as users:
        create(users, "ada@example.com")
    [headers] = collector.headers
    named = {name.lower(): value for name, value in headers.items()}
    assert (named["authorization"], named["x-tenant"]) == ("Bearer secret", "shop")


@pytest.mark.parametrize(
    "wrong", [{"otlp_endpoint": "collector:4318"}, {"otlp_endpoint": "http://c:1?x=y"}, {"otlp_headers": "secret"}]
)  # fmt: skip
def test_a_wrong_setting_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="it must be"):
        TelemetrySettings(**wrong)


def record(number: int, trace: str | None, *, flags: str = "01", topic: str = "users") -> Record:
    headers = {"ce_id": str(number)}
    if trace is not None:
        headers["traceparent"] = f"00-{trace}-{number:016x}-{flags}"
    return Record(topic, 3, number, "1", b"{}", headers)


async def consumed(
    collector: Collector, *records: Record, fails: bool = False, group: str = "orders"
) -> list[Seen]:
    """The spans of a batch of these."""
    tracing = Tracing(
        Settings(telemetry={"otlp_endpoint": collector.url}, event_log="kafka"), "worker", "orders"
    )
    [steps] = tracing.steps()

    async def proceed() -> None:
        if fails:
            raise RuntimeError("broken")

    GROUP.set(group)
    async with tracing.sending():
        if fails:
            with pytest.raises(RuntimeError):
                await steps.receive(records, proceed)
        else:
            await steps.receive(records, proceed)
    return collector.spans()


async def test_a_batch_of_one_trace_is_in_it_and_has_links(collector: Collector) -> None:
    [span] = await consumed(
        collector, record(1, TRACE), record(2, None), record(3, "a" * 32, flags="00"), record(4, TRACE),
        record(5, "nonsense"),
    )  # fmt: skip
    assert (span.name, span.kind, span.process) == ("process users", "CONSUMER", "orders-worker")
    assert (span.trace, span.parent) == (TRACE, f"{1:016x}")
    assert [(link.trace, link.span) for link in span.links] == [
        (TRACE, f"{n:016x}") for n in (1, 4)
    ]
    assert span.links[0].attributes == {
        "messaging.destination.name": "users", "messaging.message.id": "1",
        "messaging.destination.partition.id": "3",
    }  # fmt: skip
    assert span.attributes == {
        "messaging.system": "kafka", "messaging.operation.name": "process",
        "messaging.operation.type": "process", "messaging.destination.name": "users",
        "messaging.batch.message_count": 5, "messaging.consumer.group.name": "orders",
    }  # fmt: skip


async def test_a_batch_of_many_traces_begins_one_and_says_how_many_links_are_missing(
    collector: Collector,
) -> None:
    traces = [f"{n:032x}" for n in range(1, 201)]
    [span] = await consumed(collector, *(record(n, trace) for n, trace in enumerate(traces, 1)))
    assert span.parent == "" and span.trace not in traces
    assert [link.trace for link in span.links] == traces[:128]
    assert span.attributes["eventspine.links.omitted"] == 72
    assert span.attributes["messaging.batch.message_count"] == 200


async def test_a_batch_without_a_recorded_trace_has_no_span(collector: Collector) -> None:
    assert await consumed(collector, record(1, None), record(2, TRACE, flags="00")) == []


async def test_a_batch_that_fails_says_why(collector: Collector) -> None:
    [span] = await consumed(collector, record(1, TRACE, topic="orders"), fails=True)
    assert span.is_error and span.attributes["error.type"] == "RuntimeError"


async def test_the_names_are_those_of_the_conventions_that_are_installed(
    collector: Collector, url: str
) -> None:
    assert Schemas.V1_44_0.value == SCHEMA
    known = {
        value
        for module in (messaging_attributes, http_attributes, url_attributes, error_attributes)
        for value in vars(module).values()
        if isinstance(value, str)
    } | {"network.protocol.version", "server.address", "server.port", "eventspine.links.omitted"}
    with serving("users", url, telemetry=telemetry(collector)) as users:
        create(users, "ada@example.com")
    await consumed(collector, *(record(n, f"{n:032x}") for n in range(1, 130)))
    for span in collector.spans():
        assert span.schema == SCHEMA
        assert set(span.attributes) <= known
        assert all(set(link.attributes) <= known for link in span.links)


@pytest.mark.parametrize(
    ("endpoint", "loaded"),
    [("", set()), ("http://127.0.0.1:1", {"opentelemetry.sdk", "requests", "google.protobuf"})],
)
@pytest.mark.parametrize("part", ["worker", "api"])
def test_nothing_of_it_is_loaded_without_a_collector(
    part: str, endpoint: str, loaded: set[str]
) -> None:
    code = f"""
import sys
from shop.platform import discovery
from shop.platform.settings import read_settings
settings = read_settings(
    discovery.sections(), telemetry={{"otlp_endpoint": {endpoint!r}}}, auth={{"required": False}},
    users={{"database_url": "postgresql://nowhere/users"}},
)
if {part!r} == "api":
    from shop.platform.processes.api import make_app
    make_app(discovery.load("users"), settings)
else:
    from shop.platform.processes import worker
    worker.Telemetry(settings, "worker", "users")
print(*sys.modules)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = set(ran.stdout.split())
    assert modules & {"opentelemetry.sdk", "requests", "google.protobuf"} == loaded
    assert ("fastapi" in modules) == (part == "api")
    if part == "worker" and not loaded:
        assert "opentelemetry" not in modules  # FastAPI loads its API, and nothing else


async def test_a_route_that_knows_its_client_goes_on_from_the_span_too() -> None:
    own = f"00-{TRACE}-{PARENT}-01"
    scope = {"headers": [(b"traceparent", f"00-{TRACE}-{'1' * 16}-01".encode())], TRACEPARENT: own}
    peer._SCOPE.set(scope)
    assert peer.asking().context.traceparent == own
