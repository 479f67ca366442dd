"""Measures what metrics and traces cost a request: none, the default, and the default with traces."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from benchmarks.in_turn import Both, measured
from benchmarks.load import require_wrk
from benchmarks.report import Row, Section, spread
from benchmarks.stage import HOST, PROJECT, Stage
from benchmarks.windows import SHORT

TITLE = "Telemetry"
HOW = """\
CPU time (user and system) of an API process for each `POST /orders`, over 64 kept-alive connections, in turn: with metrics, as it
is by default, and with those taken out; then another process with traces of one request of a hundred, sent to a
collector in the benchmark's own process, and with those taken out. What is *added*, and the table, are of a fast route alone, without a network and a
database (`benchmarks/traced_requests.py`): that is exact also where a machine is busy.
"""


def run(stage: Stage) -> Section:
    require_wrk()
    with _collector() as collector:
        stage.say("telemetry: a route alone")
        alone = _alone(collector)
        metrics = measured(stage, "interceptors", seconds=10, window=SHORT)
        traces = measured(
            stage,
            "traces",
            {"SHOP_TELEMETRY__OTLP_ENDPOINT": collector, "SHOP_TELEMETRY__TRACES_RATIO": "0.01"},
            seconds=10,
            window=SHORT,
        )
    return Section(
        TITLE,
        HOW,
        [
            _row("CPU time of an order with metrics, against none", metrics, 1.04),
            _added_row("metrics", alone["metrics"] - alone["none"], metrics, 0.04),
            _row("CPU time of an order with metrics and traces, against metrics", traces, 1.03),
            _added_row("1 % traced requests", _added(alone), traces, 0.03),
        ],
        more=_table(alone),
    )


def _row(what: str, both: Both, most: float) -> Row:
    return Row(
        what, both.cpu, "×", at_least=most, less_is_better=True,
        measured=f"{spread(both.cpu_with, 'µs')} against {spread(both.cpu_without, 'µs')}",
    )  # fmt: skip


def _added_row(what: str, added: float, both: Both, most: float) -> Row:
    return Row(
        f"CPU time that {what} add to a request, against an order's",
        [added / cost for cost in both.cpu_without], "×", at_least=most, less_is_better=True,
        measured=f"{added:.2f} µs against {spread(both.cpu_without, 'µs')}",
    )  # fmt: skip


def _alone(collector: str) -> dict[str, float]:
    """What `traced_requests.py` says."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.traced_requests", collector],
        cwd=PROJECT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"the route alone failed:\n{done.stderr}")
    told: dict[str, float] = json.loads(done.stdout)
    return told


def _added(alone: Mapping[str, float]) -> float:
    """By one traced request of a hundred to each, in µs."""
    untraced = alone["untraced"] - alone["metrics"]
    return untraced + (alone["traced"] - alone["untraced"]) / 100


def _table(alone: Mapping[str, float]) -> str:
    none, metrics, untraced, traced = (
        alone[kind] for kind in ("none", "metrics", "untraced", "traced")
    )
    return (
        "| µs of CPU that it adds to a request |  |\n| --- | --- |\n"
        f"| metrics | {metrics - none:.2f} |\n"
        f"| traces, if the request is not traced | {untraced - metrics:.2f} |\n"
        f"| traces, if it is, with what its span costs in the thread that sends it | {traced - metrics:.1f} |\n"
    )


class _Taken(BaseHTTPRequestHandler):
    """Takes whatever comes."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        pass


@contextmanager
def _collector() -> Iterator[str]:
    """The URL of a collector that throws everything away."""
    server = ThreadingHTTPServer((HOST, 0), _Taken)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://{HOST}:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
