"""Measures what metrics and traces cost a request: none, the default, and the default with traces."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from benchmarks import cpu
from benchmarks.load import CUSTOMERS, post_orders, require_wrk
from benchmarks.orders_a_second import ratios
from benchmarks.report import Row, Section, spread
from benchmarks.shop_data import add_customers
from benchmarks.stage import HOST, PROJECT, Stage

TITLE = "Telemetry"
HOW = """\
CPU time (user and system) of an API process for each `POST /orders`, over 64 kept-alive connections, against three API
processes in turn: one without telemetry (`SHOP_TELEMETRY__METRICS=false`), one as it is by default, with
metrics, and one with traces besides: one request of a hundred, sent to a collector in the benchmark's own process.
What is *added*, and the table, are of a fast route alone, without a network and a database (`benchmarks/traced_requests.py`):
that is exact also where a machine is busy.
"""


def run(stage: Stage) -> Section:
    require_wrk()
    if not Path("/proc/self/stat").exists():
        return Section(TITLE, HOW, left_out="CPU time of a process is read from Linux's /proc")
    costs: dict[str, list[float]] = {"none": [], "metrics": [], "traces": []}
    with ExitStack() as held:
        collector = held.enter_context(_collector())
        of_kind: Mapping[str, Mapping[str, str]] = {
            "none": {"SHOP_TELEMETRY__METRICS": "false"},
            "metrics": {},
            "traces": {
                "SHOP_TELEMETRY__OTLP_ENDPOINT": collector,
                "SHOP_TELEMETRY__TRACES_RATIO": "0.01",
            },
        }
        pids, urls = {}, {}
        for kind, settings in of_kind.items():
            shop = stage.shop()
            add_customers(shop.orders, CUSTOMERS)
            name, env = f"telemetry-api-{kind}", {**shop.env, **settings}
            running = stage.running(name, "shop.cli", "api", "orders", env=env)
            pid = held.enter_context(running).pid
            assert pid is not None
            pids[kind], urls[kind] = pid, shop.orders_url
            post_orders(shop.orders_url, connections=64, seconds=1)
        stage.say("telemetry: a route alone")
        alone = _alone(collector)
        # Many short rounds in turn, because the speed of a machine varies from second to second.
        for number in range(3 * stage.rounds):
            stage.say(f"telemetry: round {number + 1} of {3 * stage.rounds}")
            for kind in list(costs) if number % 2 else list(reversed(costs)):
                stage.settle()
                before = cpu.seconds(pids[kind])
                load = post_orders(urls[kind], connections=64, seconds=stage.seconds(2))
                costs[kind].append((cpu.seconds(pids[kind]) - before) / load.requests * 1e6)
    none, metrics, traces = (spread(costs[kind], "µs") for kind in costs)
    return Section(
        TITLE,
        HOW,
        [
            Row(
                "CPU time that metrics add to a request, against an order's",
                [(alone["metrics"] - alone["none"]) / cost for cost in costs["none"]],
                "×", at_least=0.04, less_is_better=True,
                measured=f"{alone['metrics'] - alone['none']:.2f} µs against {none}",
            ),
            Row(
                "CPU time of an order without telemetry, against one with metrics",
                ratios(costs["none"], costs["metrics"]), "×", at_least=0.96,
                measured=f"{none} against {metrics}",
            ),
            Row(
                "CPU time of an order with metrics, against one with traces besides",
                ratios(costs["metrics"], costs["traces"]), "×", at_least=0.97,
                measured=f"{metrics} against {traces}",
            ),
            Row(
                "CPU time that 1 % traced requests add to a request, against an order's",
                [_added(alone) / cost for cost in costs["metrics"]], "×", at_least=0.03, less_is_better=True,
                measured=f"{_added(alone):.2f} µs against {metrics}",
            ),
        ],
        more=_table(alone),
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
