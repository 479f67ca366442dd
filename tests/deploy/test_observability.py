"""Prometheus, its alerts and the dashboard: they ask for metrics that exist, and each alert has a runbook."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from devstack.kafka import PROJECT
from shop.platform.telemetry.declared import ALL
from tests.support.compose import DEPLOY, read

HERE = DEPLOY / "observability"
DASHBOARD: dict[str, Any] = json.loads((HERE / "grafana/dashboards/eventshop.json").read_text())
RULES = [
    rule
    for group in yaml.safe_load((HERE / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
TESTED = yaml.safe_load((HERE / "alerts_test.yml").read_text())["tests"]

LABELS = {"service": "the target's", "part": "the target's", "job": "", "instance": "", "le": ""}
OF_OTHERS = {
    "up": set(),
    "ALERTS": {"alertstate"},
    "process_cpu_seconds_total": set(),
    "process_resident_memory_bytes": set(),
    "process_open_fds": set(),
    "process_max_fds": set(),
}
"""Metrics of Prometheus itself and of the client library, with their own labels."""


def known() -> dict[str, set[str]]:
    """Each series by name, with its labels."""
    found = {name: set(labels) for name, labels in OF_OTHERS.items()}
    for of in ALL:
        ends = ("_bucket", "_count", "_sum") if of.kind == "histogram" else ("",)
        found |= {of.name + end: set(of.labels) for end in ends}
    return found


def series_in(query: str) -> Iterator[tuple[str, set[str]]]:
    """The names that a query asks for, each with the labels that it compares."""
    without_text = re.sub(r'"[^"]*"', '""', query)
    grouped = re.sub(r"\b(by|without|on|ignoring)\s*\([^)]*\)", " ", without_text)
    for name, what in re.findall(r"([a-zA-Z_:][\w:]*)\s*(\(|\{[^}]*\})?", grouped):
        if what != "(" and name not in {"and", "or", "unless"}:
            yield name, set(re.findall(r"(\w+)\s*[=!]", what))


def labels_of_groups(query: str) -> set[str]:
    groups = re.findall(r"\bby\s*\(([^)]*)\)", query)
    return {label.strip() for group in groups for label in group.split(",")}


def dashboard_queries() -> list[str]:
    queries = [
        target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())
    ]
    queries += [each["expr"] for each in DASHBOARD["annotations"]["list"]]
    for variable in DASHBOARD["templating"]["list"]:
        found = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"])
        assert found is not None and found[2] in LABELS
        queries.append(found[1])
    # A range is no metric.
    return [re.sub(r"\[[^\]]*\]", "", query) for query in queries]


def rule_queries() -> list[str]:
    return [re.sub(r"\[[^\]]*\]", "", rule["expr"]) for rule in RULES]


@pytest.mark.parametrize("query", [*dashboard_queries(), *rule_queries()])
def test_a_query_asks_for_metrics_and_labels_that_exist(query: str) -> None:
    names = known()
    asked = list(series_in(query))
    assert asked
    labels = set(LABELS)
    for name, compared in asked:
        assert name in names, name
        assert compared <= names[name] | set(LABELS), (name, compared)
        labels |= names[name]
    assert labels_of_groups(query) <= labels


def test_a_query_for_a_metric_that_does_not_exist_is_found() -> None:
    query = 'sum by (service) (rate(shop_gone_total{service=~"$service", x="1"})) / (b > 0) or c'
    assert list(series_in(query)) == [
        ("shop_gone_total", {"service", "x"}), ("b", set()), ("c", set()),
    ]  # fmt: skip


def test_each_metric_of_the_shop_that_tells_of_trouble_is_asked_for() -> None:
    asked = {
        name for query in [*dashboard_queries(), *rule_queries()] for name, _ in series_in(query)
    }
    shown = {re.sub("_(bucket|count|sum)$", "", name) for name in asked}
    assert {of.name for of in ALL if of.kind == "histogram"} - shown <= {"shop_relay_batch_events"}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_has_a_runbook_a_severity_and_a_test(rule: dict[str, Any]) -> None:
    name = rule["alert"]
    page = (PROJECT / "docs/operations.md").read_text()
    runbooks = page.partition("\n## Alerts\n")[2].partition("\n## ")[0]
    assert rule["annotations"]["runbook_url"] == f"docs/operations.md#{name.lower()}"
    assert f"\n### {name}\n" in runbooks
    assert rule["labels"]["severity"] in {"page", "ticket"}
    fires = [
        case["alertname"]
        for test in TESTED
        for case in test["alert_rule_test"]
        if case["exp_alerts"]
    ]
    assert name in fires


def test_there_is_no_runbook_without_an_alert() -> None:
    page = (PROJECT / "docs/operations.md").read_text()
    runbooks = page.partition("\n## Alerts\n")[2].partition("\n## ")[0]
    assert re.findall(r"^### (\w+)$", runbooks, re.MULTILINE) == [each["alert"] for each in RULES]


@pytest.mark.parametrize(
    "words",
    [
        ("check", "rules", "alerts.yml"),
        ("test", "rules", "alerts_test.yml"),
        ("check", "config", "prometheus.yml"),
        ("check", "config", "prometheus.local.yml"),
    ],
    ids="-".join,
)
def test_promtool_finds_nothing(words: tuple[str, ...]) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("left out, since there is no promtool here: apt-get install prometheus")
    done = subprocess.run([promtool, *words], cwd=HERE, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def runs_for_long(container: dict[str, Any]) -> bool:
    """A process of the shop, and no database and no command that ends."""
    return container.get("command", [""])[0] in {"api", "worker"}


def labels_given(rules: list[dict[str, Any]], name: str) -> dict[str, str]:
    """As Prometheus gives them to the target of this name."""
    found = {}
    for rule in rules:
        assert rule["source_labels"] == ["__meta_dns_name"]
        if match := re.fullmatch(rule["regex"], name):
            found[rule["target_label"]] = match.expand(rule["replacement"].replace("$", "\\"))
    return found


def test_the_overlay_shows_every_process_of_the_shop_to_prometheus_alone() -> None:
    overlay = read((HERE / "compose.yaml").read_text())
    services = overlay["services"]
    scraped = yaml.safe_load((HERE / "prometheus.yml").read_text())["scrape_configs"][0]
    [names] = [each["names"] for each in scraped["dns_sd_configs"]]
    shop = read((DEPLOY / "compose.yaml").read_text())["services"]
    running = {name: each["command"] for name, each in shop.items() if runs_for_long(each)}
    assert sorted(names) == sorted(running)
    for name, (part, service) in running.items():
        assert labels_given(scraped["relabel_configs"], name) == {"service": service, "part": part}
    for name in names:
        environment = services[name]["environment"]
        assert environment["SHOP_TELEMETRY__METRICS_PORT"] == "9464"
        assert environment["SHOP_TELEMETRY__METRICS_HOST"] == "0.0.0.0"
        assert "ports" not in services[name]
    for name in ("prometheus", "grafana", "jaeger"):
        assert all(port.startswith("127.0.0.1:") for port in services[name]["ports"])
        assert re.fullmatch(r"[\w/.-]+:v?\d[\w.-]+", services[name]["image"])
    for volume in (*services["prometheus"]["volumes"], *services["grafana"]["volumes"]):
        if volume.startswith("./"):
            assert (DEPLOY / volume.split(":")[0]).exists(), volume
