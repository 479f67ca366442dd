"""`/metrics` on a port of its own: what it answers, and what happens when the port is taken."""

import asyncio
import json
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain

from shop.platform import discovery
from shop.platform.settings import read_settings
from shop.platform.telemetry.process import Telemetry
from tests.support.waiting import eventually


def _telemetry(target: Path, **given: Any) -> Telemetry:
    given = {"target_file": target, **given}
    return Telemetry(read_settings(discovery.sections(), telemetry=given), "worker", "orders")


async def _address(target: Path) -> str:
    await eventually(target.exists, what="the target file")
    [named] = json.loads(target.read_text())
    assert named["labels"] == {"service": "orders", "part": "worker"}
    [address] = named["targets"]
    return f"http://{address}"


async def test_the_official_parsers_read_both_formats(tmp_path: Path) -> None:
    target = tmp_path / "metrics" / "orders-worker.json"
    async with _telemetry(target).running(), httpx.AsyncClient() as client:
        address = await _address(target)
        old = await client.get(f"{address}/metrics")
        new = await client.get(
            f"{address}/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"}
        )
    assert old.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert new.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    names = {family.name for family in plain(old.text)}
    assert {"process_resident_memory_bytes", "process_open_fds"} <= names
    assert [family.name for family in openmetrics(new.text)]  # type: ignore[no-untyped-call]
    assert not target.exists()


async def test_other_paths_and_methods_are_refused_and_nonsense_closes_the_connection(
    tmp_path: Path,
) -> None:
    target = tmp_path / "target.json"
    async with _telemetry(target).running(), httpx.AsyncClient() as client:
        address = await _address(target)
        assert (await client.get(f"{address}/secrets")).status_code == 404
        assert (await client.post(f"{address}/metrics")).status_code == 405
        head = await client.head(f"{address}/metrics?a=b")
        assert (head.status_code, head.content) == (200, b"")
        assert int(head.headers["content-length"]) > 0
        host, port = address.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        with suppress(ConnectionError):
            writer.write(b"x" * 100_000)
            await writer.drain()
            assert await reader.read() == b""
        writer.close()


async def test_a_taken_port_stops_nothing_and_is_used_once_it_is_free(tmp_path: Path) -> None:
    target = tmp_path / "target.json"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        telemetry = _telemetry(target, metrics_port=port).running()
        async with telemetry, httpx.AsyncClient() as client:
            assert not target.exists()
            taken.close()
            assert await _address(target) == f"http://127.0.0.1:{port}"
            assert (await client.get(f"http://127.0.0.1:{port}/metrics")).status_code == 200


async def test_without_metrics_nothing_is_served_and_nothing_intercepts(tmp_path: Path) -> None:
    telemetry = _telemetry(tmp_path / "target.json", metrics=False)
    async with telemetry.running():
        assert (telemetry.steps(), telemetry.choosers(), telemetry.observers()) == ((), (), ())
        assert telemetry.pages == {}
        assert not (tmp_path / "target.json").exists()
