"""PostgreSQL, Kafka or a worker is killed: within five seconds health, metrics, an alert, the console and `shop top` say
so, and again when it is back.

With Debian's Prometheus, the alerts are those of a real Prometheus; without it, they are left out.
"""

import json
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families as families

from devstack.kafka import LocalKafka
from devstack.postgres import LocalPostgres
from tests.support.compose import DEPLOY
from tests.support.databases import NewDatabase
from tests.support.folders import short_directory
from tests.support.shop import Running, environment, free_ports, run_shop
from tests.support.terminals import Terminal
from tests.support.waiting import at_best, until

pytestmark = [pytest.mark.heavy, pytest.mark.alone, pytest.mark.timeout(600)]

WITHIN = 5.0  # seconds
TRIES = 4


class Watched:
    """The user service, whose database can be killed, and whoever watches it."""

    def __init__(self, folder: Path, postgres: LocalPostgres, log: Mapping[str, Any]) -> None:
        self.postgres = postgres
        api, self._worker_port, api_port, prometheus, console = free_ports(5)
        self._settings = {
            **log,
            "SHOP_USERS__DATABASE_URL": postgres.dsn("users"),
            "SHOP_ORDERS__DATABASE_URL": postgres.dsn("orders"),
            "SHOP_USERS__PORT": api,
            "SHOP_CONSOLE__PORT": console,
        }
        self._console = f"http://127.0.0.1:{console}"
        self._top: Terminal | None = None
        self.api = f"http://127.0.0.1:{api}"
        self._pages = {
            "api": f"http://127.0.0.1:{api_port}",
            "worker": f"http://127.0.0.1:{self._worker_port}",
        }
        self._prometheus = f"http://127.0.0.1:{prometheus}"
        self._folder = folder
        self._client = httpx.Client(timeout=4)
        self.running: dict[str, Running] = {}

    def start(self, part: str) -> None:
        port = self._pages[part].rpartition(":")[2]
        target = self._folder / "metrics" / f"{part}.json"
        self.running[part] = Running(
            part,
            "users",
            **self._settings,
            SHOP_TELEMETRY__METRICS_PORT=port,
            SHOP_TELEMETRY__TARGET_FILE=target,
        )

    @contextmanager
    def looked_at(self) -> Iterator[None]:
        """The console's page, and `shop top` on a terminal, are open."""
        self.running["console"] = Running("api", "console", **self._settings)
        words = ["top", "--data", str(self._folder)]
        settings = environment(**self._settings, TERM="xterm-256color")
        with Terminal(words, settings, lines=60, columns=200) as self._top:
            until(lambda: self.shows("users", on=True, what="API"), "both show the flow")
            yield

    def shows(self, where: str, *, on: bool = True, what: str = "") -> bool:
        """Whether the page and the terminal name this as trouble, or, with `what`, show that part; or do not."""
        assert self._top is not None
        screen = self._top.picture()
        try:
            page = self._client.get(self._console).text
        except httpx.TransportError:
            return False
        if what:
            return what in screen and f"<dt>{what}</dt>" in page
        if "per second" not in screen or 'aria-label="State"' not in page:
            return False
        named = re.search(rf"(^|\n|m){where}: ", screen) is not None, f"<b>{where}</b>" in page
        return named == (on, on)

    def kill(self, part: str) -> None:
        self.running.pop(part).stop(signal.SIGKILL)

    @contextmanager
    def prometheus(self) -> Iterator[None]:
        program = shutil.which("prometheus")
        if program is None:
            yield
            return
        config = yaml.safe_load((DEPLOY / "observability/prometheus.local.yml").read_text())
        config["rule_files"] = [str(DEPLOY / "observability/alerts.yml")]
        [scrape] = config["scrape_configs"]
        scrape["file_sd_configs"][0]["files"] = [str(self._folder / "metrics/*.json")]
        (self._folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        words = [
            f"--config.file={self._folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={self._folder / 'prometheus'}",
            f"--web.listen-address={self._prometheus.removeprefix('http://')}",
        ]
        with subprocess.Popen([program, *words], stderr=subprocess.DEVNULL) as process:
            try:
                until(lambda: self._targets_up() == 2, "Prometheus sees two targets")
                yield
            finally:
                process.terminate()

    def says(self, part: str) -> tuple[int, str]:
        """`/health/ready`: its status and what it says. 0 if there is no answer."""
        try:
            address = self.api if part == "api" else self._pages[part]
            answer = self._client.get(f"{address}/health/ready")
        except httpx.TransportError:
            return 0, ""
        return answer.status_code, answer.text

    def metric(self, part: str, name: str) -> float | None:
        try:
            text = self._client.get(f"{self._pages[part]}/metrics").text
        except httpx.TransportError:
            return None
        found = [
            sample.value
            for family in families(text)
            for sample in family.samples
            if sample.name == name
        ]
        return min(found, default=None)

    def alert(self, name: str, *, on: bool = True) -> bool:
        """Whether the rule holds now, or not. True where there is no Prometheus."""
        if shutil.which("prometheus") is None:
            return True
        alerts = self._client.get(f"{self._prometheus}/api/v1/alerts").json()["data"]["alerts"]
        return (name in {alert["labels"]["alertname"] for alert in alerts}) == on

    def close(self) -> None:
        for running in self.running.values():
            running.stop(signal.SIGKILL)
        self._client.close()

    def _targets_up(self) -> int:
        try:
            answer = self._client.get(f"{self._prometheus}/api/v1/targets")
        except httpx.TransportError:
            return 0
        targets = answer.json()["data"]["activeTargets"] if answer.is_success else []
        return sum(target["health"] == "up" for target in targets)


def seen(what: str, *signs: Callable[[], object]) -> float:
    """The seconds from now until each of these held."""
    began = time.monotonic()
    took = []
    for number, sign in enumerate(signs):
        until(sign, f"{what}: sign {number}")
        took.append(round(time.monotonic() - began, 1))
    print(f"{what}: seen after {json.dumps(took)} s")
    return max(took)


@contextmanager
def watched(log: Mapping[str, Any]) -> Iterator[Watched]:
    with short_directory() as folder, ExitStack() as held:
        postgres = held.enter_context(
            LocalPostgres(folder / "postgres", log=folder / "postgres.log")
        )
        postgres.ensure_databases(["users", "orders"])
        databases = {
            f"SHOP_{name.upper()}__DATABASE_URL": postgres.dsn(name) for name in ("users", "orders")
        }
        migrated = run_shop("migrate", **log, **databases, timeout=60)
        assert migrated.returncode == 0, migrated.stdout + migrated.stderr
        found = Watched(folder, postgres, log)
        held.callback(found.close)
        found.start("api")
        found.start("worker")
        until(lambda: "flowing" in found.says("api")[1], "all flows, says the API")
        until(lambda: "flowing" in found.says("worker")[1], "all flows, says the worker")
        with found.prometheus(), found.looked_at():
            yield found


@pytest.fixture(scope="module")
def on_table(new_database: NewDatabase) -> Iterator[Watched]:
    """The log is a table of another server than the one that is killed."""
    log = {"SHOP_EVENT_LOG": "postgres", "SHOP_EVENT_LOG_URL": new_database(None)}
    with watched(log) as found:
        yield found


def test_a_killed_worker(on_table: Watched) -> None:
    shop = on_table

    def took() -> float:
        shop.kill("worker")
        away = seen(
            "the worker is killed",
            lambda: shop.says("worker")[0] == 0,
            lambda: "no worker feeds the event log" in shop.says("api")[1],
            lambda: shop.metric("api", "shop_outbox_led") == 0,
            lambda: shop.shows("users relay"),
            lambda: shop.alert("NobodyFeedsTheLog"),
            lambda: shop.alert("ProcessDown"),
        )
        assert shop.says("api")[0] == 200
        shop.start("worker")
        until(lambda: shop.says("worker")[0] == 200, "the worker is back")
        back = seen(
            "the worker is back",
            lambda: "flowing" in shop.says("api")[1],
            lambda: shop.metric("api", "shop_outbox_led") == 1,
            lambda: shop.shows("users relay", on=False),
            lambda: shop.alert("NobodyFeedsTheLog", on=False),
            lambda: shop.alert("ProcessDown", on=False),
        )
        return max(away, back)

    at_best(took, WITHIN, TRIES)


def test_a_killed_database(on_table: Watched) -> None:
    shop = on_table

    def took() -> float:
        shop.postgres.stop(0.0)
        away = seen(
            "PostgreSQL is killed",
            lambda: shop.says("worker")[0] == 503,
            lambda: shop.says("api")[0] == 503,
            lambda: shop.metric("worker", "shop_database_up") == 0,
            lambda: shop.metric("api", "shop_ready") == 0,
            lambda: shop.shows("users database"),
            lambda: shop.alert("DatabaseAway"),
            lambda: shop.alert("NotReady"),
        )
        shop.postgres.start()
        shop.postgres.wait_ready()
        back = seen(
            "PostgreSQL is back",
            lambda: shop.says("api")[0] == 200,
            lambda: shop.says("worker")[0] == 200,
            lambda: shop.metric("worker", "shop_database_up") == 1,
            lambda: shop.metric("api", "shop_ready") == 1,
            lambda: shop.shows("users database", on=False),
            lambda: shop.alert("DatabaseAway", on=False),
            lambda: shop.alert("NotReady", on=False),
        )
        return max(away, back)

    at_best(took, WITHIN, TRIES)


@pytest.mark.kafka
def test_a_killed_kafka(mortal_kafka: LocalKafka) -> None:
    log = {
        "SHOP_EVENT_LOG": "kafka",
        "SHOP_KAFKA__BOOTSTRAP_SERVERS": mortal_kafka.bootstrap_servers,
    }
    with watched(log) as shop:

        def took() -> float:
            assert mortal_kafka.process
            mortal_kafka.process.kill()
            away = seen(
                "Kafka is killed",
                lambda: "the event log is away" in shop.says("worker")[1],
                lambda: "the event log is away" in shop.says("api")[1],
                lambda: shop.metric("worker", "shop_event_log_up") == 0,
                lambda: shop.shows("log"),
                lambda: shop.alert("EventLogAway"),
            )
            # Both can still do their work: events wait in the outbox.
            assert (shop.says("api")[0], shop.says("worker")[0]) == (200, 200)
            assert shop.metric("api", "shop_ready") == 1
            mortal_kafka.process.wait()
            mortal_kafka.start()
            mortal_kafka.wait_ready(150)
            back = seen(
                "Kafka is back",
                lambda: shop.metric("worker", "shop_event_log_up") == 1,
                lambda: "flowing" in shop.says("worker")[1],
                lambda: "flowing" in shop.says("api")[1],
                lambda: shop.shows("log", on=False),
                lambda: shop.alert("EventLogAway", on=False),
            )
            return max(away, back)

        at_best(took, WITHIN, TRIES)
