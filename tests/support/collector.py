"""An OpenTelemetry collector in the test's own process: it takes OTLP over HTTP, and keeps the spans."""

import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.support.waiting import until


@dataclass(frozen=True)
class Seen:
    """A span, as the collector got it. Ids are in hexadecimal digits."""

    process: str
    """Its `service.name`, such as `orders-api`."""
    name: str
    trace: str
    id: str
    parent: str
    kind: str
    attributes: Mapping[str, Any]
    links: Sequence["SeenLink"]
    is_error: bool
    state: str
    schema: str
    resource: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True)
class SeenLink:
    trace: str
    span: str
    attributes: Mapping[str, Any]


class Collector:
    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.headers: list[Mapping[str, str]] = []
        self.answers_after = 0.0
        """Seconds."""
        self.status = 200
        self._stopped = threading.Event()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                assert self.path == "/v1/traces"
                collector._stopped.wait(collector.answers_after)
                if collector.status == 200:
                    collector.headers.append(dict(self.headers))
                    collector.bodies.append(body)
                self.send_response(collector.status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self) -> None:
        self._stopped.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def spans(self) -> list[Seen]:
        return [span for body in list(self.bodies) for span in _spans(body)]

    def until(self, *names: str, timeout: float = 60) -> list[Seen]:
        """All spans, once there is one with each of these names."""

        def complete() -> list[Seen]:
            spans = self.spans()
            return spans if set(names) <= {span.name for span in spans} else []

        return until(complete, f"spans {', '.join(names)}", timeout=timeout)


@contextmanager
def collecting() -> Iterator[Collector]:
    collector = Collector()
    try:
        yield collector
    finally:
        collector.close()


@contextmanager
def silent() -> Iterator[str]:
    """The URL of a server that takes connections and requests, and never answers."""
    held: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:

        def accept() -> None:
            with suppress(OSError):
                while True:
                    held.append(listener.accept()[0])

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in held:
                connection.close()


def _spans(body: bytes) -> Iterator[Seen]:
    request = ExportTraceServiceRequest.FromString(body)
    for of_resource in request.resource_spans:
        resource = _read(of_resource.resource.attributes)
        for of_scope in of_resource.scope_spans:
            for span in of_scope.spans:
                yield Seen(
                    resource["service.name"],
                    span.name,
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
                    _read(span.attributes),
                    [
                        SeenLink(link.trace_id.hex(), link.span_id.hex(), _read(link.attributes))
                        for link in span.links
                    ],
                    span.status.code == 2,
                    span.trace_state,
                    of_scope.schema_url,
                    resource,
                )


def _read(attributes: Sequence[KeyValue]) -> dict[str, Any]:
    return {
        each.key: getattr(each.value, each.value.WhichOneof("value") or "") for each in attributes
    }
