"""How a worker shows that it is well, and how a health check sees it."""

import asyncio
import http.server
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from eventspine.consumer import Consumer
from eventspine.postgres_log import PostgresLog
from eventspine.relay import Relay
from shop.platform import discovery
from shop.platform.processes import healthy, heartbeat
from tests.support.clocks import leaping, set_clock
from tests.support.waiting import eventually

AWAY = "postgresql://nobody@127.0.0.1:1/nothing"


@dataclass
class Turning:
    last_turn: float = field(default_factory=time.monotonic)


async def test_the_heart_beats_while_every_loop_comes_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "_EVERY", 0.01)
    file = tmp_path / "heartbeat"

    def touched() -> bool:
        return file.exists() and file.read_text() != ""

    def put_back() -> None:
        file.write_text("")

    loops = {"relay": Turning(), "consumer": Turning()}
    beating = asyncio.create_task(heartbeat.beat(file, loops))
    await eventually(touched)

    loops["consumer"].last_turn -= heartbeat.STUCK_AFTER + 1
    await asyncio.sleep(0.02)
    put_back()
    await asyncio.sleep(0.1)
    assert not touched()

    loops["consumer"].last_turn = time.monotonic()
    await eventually(touched)
    beating.cancel()


async def test_a_heartbeat_that_cannot_be_written_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "_EVERY", 0.01)
    file = tmp_path / "later" / "heartbeat"
    beating = asyncio.create_task(heartbeat.beat(file, {}))
    await asyncio.sleep(0.05)
    file.parent.mkdir()
    await eventually(file.exists)
    beating.cancel()


async def test_a_relay_and_a_consumer_that_wait_for_a_database_come_round() -> None:
    log = PostgresLog(AWAY)
    service = discovery.load("orders")
    relay = Relay(AWAY, log, source=service.source, topics=[service.topic], batch=1)
    consumer = Consumer(log._database, log, service.handlers)
    began = time.monotonic()
    tasks = [asyncio.create_task(each.run()) for each in (relay, consumer)]
    await eventually(lambda: relay.last_turn > began and consumer.last_turn > began)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await log.close()


def test_a_worker_is_well_as_long_as_its_heartbeat_is_fresh(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "heartbeat"
    monkeypatch.setenv("SHOP_HEARTBEAT", str(file))
    assert healthy.main(["worker"]) == 1
    assert capsys.readouterr().out == f"no heartbeat: No such file or directory: {file}\n"
    boot, now = healthy.pulse()
    monkeypatch.setattr(healthy, "pulse", lambda: (boot, now))
    for written, status, told in [
        (f"{boot} {now}", 0, "well"),
        (f"{boot} {now - 30}", 1, "the last heartbeat was 30 s ago"),
        (f"{boot} {now + 3600}", 1, "the last heartbeat was before this machine was started"),
        (f"another {now}", 1, "the last heartbeat was before this machine was started"),
        ("", 1, f"no heartbeat: {file} has other content"),
    ]:
        file.write_text(written)
        assert healthy.main(["worker"]) == status
        assert capsys.readouterr().out == f"{told}\n"


@pytest.mark.parametrize("hours", [26, -26])
async def test_a_clock_that_leaps_makes_no_worker_look_well_and_none_look_unwell(
    tmp_path: Path, hours: int
) -> None:
    file, clock = tmp_path / "heartbeat", tmp_path / "clock"
    set_clock(clock, hours)

    def checked() -> str:
        return subprocess.run(
            [sys.executable, "-m", "shop.platform.processes.healthy", "worker"],
            env={**os.environ, **leaping(clock), "SHOP_HEARTBEAT": str(file)},
            capture_output=True,
            text=True,
            check=False,
        ).stdout

    beating = asyncio.create_task(heartbeat.beat(file, {}))
    await eventually(file.exists)
    beating.cancel()
    assert checked() == "well\n"
    boot, now = healthy.pulse()
    file.write_text(f"{boot} {now - 60}")  # it has been frozen since, and the clock leapt
    assert re.fullmatch(r"the last heartbeat was [6-9]\d s ago\n", checked())


@contextmanager
def answering(status: int, body: bytes) -> Iterator[int]:
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.path == "/health/ready"
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_an_api_is_well_when_it_says_that_it_is_ready(capsys: pytest.CaptureFixture[str]) -> None:
    with answering(200, b"{}") as port:
        assert healthy.main(["api", str(port)]) == 0
    assert capsys.readouterr().out == "well\n"
    with answering(503, b"no database") as port:
        assert healthy.main(["api", str(port)]) == 1
    assert capsys.readouterr().out == "it answers 503: no database\n"
    assert healthy.main(["api", str(port)]) == 1
    assert f"no answer on port {port}" in capsys.readouterr().out


def test_a_check_of_nothing_says_how_it_is_called(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SHOP_HEARTBEAT", raising=False)
    for words in ([], ["api"], ["api", "x"], ["worker"]):
        assert healthy.main(words) == 1
        assert capsys.readouterr().out.startswith("usage: ")
