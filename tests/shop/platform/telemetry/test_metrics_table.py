"""The declarations, and the table of them in docs/operations.md."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from shop.platform.telemetry.declared import ALL
from shop.platform.telemetry.histogram import Histogram, Sample
from shop.platform.telemetry.metrics import Metrics
from shop.platform.telemetry.metrics_table import PAGE, page_with

ROOT = Path(__file__).parents[4]


def test_the_page_has_the_table_of_the_declarations() -> None:
    page = (ROOT / PAGE).read_text()
    assert page == page_with(page), "run: python -m shop.platform.telemetry.metrics_table --write"


def test_names_follow_the_conventions_and_each_has_a_description() -> None:
    names = [of.name for of in ALL]
    assert len(set(names)) == len(names)
    for of in ALL:
        assert re.fullmatch(r"(shop|http_server)_[a-z_]+", of.name)
        assert (of.kind == "counter") == of.name.endswith("_total"), of.name
        assert len(of.description) > 20, of.name
        assert bool(of.bounds) == (of.kind == "histogram"), of.name
        assert not re.search("_(ms|millis|minutes|kb|count|sum|bucket)(_|$)", of.name)


def every_metric() -> bytes:
    """A page with each metric that is declared."""
    metrics = Metrics("other")
    metrics.add(
        lambda: [
            Sample(of, tuple("a" for _ in of.labels), Histogram(of.bounds) if of.bounds else 1)
            for of in ALL
        ]
    )
    return metrics.page("").body


def test_promtool_finds_nothing() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("left out, since there is no promtool here: apt-get install prometheus")
    done = subprocess.run(
        [promtool, "check", "metrics"], input=every_metric(), capture_output=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
