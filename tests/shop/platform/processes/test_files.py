"""What becomes of processes that may open few files, as `ulimit -n` says."""

import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.support.databases import Databases
from tests.support.living import settings as settings_of
from tests.support.shop import Running, answers, environment, free_ports, json_lines, new_user
from tests.support.waiting import until

# Set by the process itself, before it becomes the shop: both limits, so that it can't raise them.
LIMITED = """
import resource, sys
count = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_NOFILE, (count, count))
from shop.cli.main import main
sys.argv[1:2] = []
main()
"""


def limited(*words: object) -> list[str]:
    return [sys.executable, "-c", LIMITED, *map(str, words)]


@contextmanager
def running(*words: object, **settings: object) -> Iterator[Running]:
    process = Running(*words, by=limited, **settings)
    try:
        yield process
        assert process.stop() == 0, process.output.lines
    finally:
        if process.process.poll() is None:
            process.process.kill()
            process.process.wait()
            process.output.close()


@contextmanager
def api(files: int, databases: Databases) -> Iterator[tuple[httpx.Client, int, Running]]:
    (port,) = free_ports(1)
    settings = {**settings_of(databases), "SHOP_USERS__PORT": port}
    with (
        running(files, "api", "users", **settings) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client,
    ):
        until(lambda: answers(client), "it answers")
        yield client, port, process


def lines(process: Running, event: str) -> list[dict[str, Any]]:
    process.output.until(event)
    found = [line for line in process.output.lines if event in line]
    return [dict(line) for line in json_lines("\n".join(found))]


ALIVE = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"


def unread(port: int) -> list[int]:
    """Of each connection to the port, how many bytes its server has not read yet."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    established = [row for row in rows if row[1].endswith(f":{port:04X}") and row[3] == "01"]
    return [int(row[4].split(":")[1], 16) for row in established]


def test_an_api_holds_as_many_connections_as_it_may_open_files_for(databases: Databases) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 1024:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, hard), hard))
    with api(160, databases) as (client, port, process), ExitStack() as stack:
        (said,) = lines(process, "api.connections_limited")
        assert (said["files"], said["asked_for"]) == (160, 8192)
        held = said["connections"]
        assert 50 < held < 160
        heard = {b"200": 0, b"503": 0, b"": 0}
        for _ in range(300):
            connection = stack.enter_context(
                socket.create_connection(("127.0.0.1", port), timeout=60)
            )
            connection.sendall(ALIVE)
            heard[connection.recv(12)[9:]] += 1
        # Each took the place of one that had nothing more to ask.
        assert heard == {b"200": 300, b"503": 0, b"": 0}
        (full,) = lines(process, "api.idle_connections_closed")
        assert full["limit"] == held
        # Its database still had its files.
        assert client.post("/users", json=new_user()).status_code == 201
        assert psutil.Process(process.process.pid).num_fds() < 160
        assert "new connections are closed" not in "\n".join(process.output.lines)


def test_connections_that_all_ask_at_once_are_answered_or_told_why_not(
    databases: Databases,
) -> None:
    """None of them is idle: they have only begun to ask."""
    with api(160, databases) as (client, port, process), ExitStack() as stack:
        held = lines(process, "api.connections_limited")[0]["connections"]
        many = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))
            for _ in range(held)
        ]
        for connection in many:
            connection.sendall(ALIVE[:-2])
        # Not by the number of its files: one that has been accepted and not read yet is idle.
        until(lambda: (read := unread(port)).count(0) >= held and not any(read), "it has read them")
        with socket.create_connection(("127.0.0.1", port), timeout=60) as another:
            assert another.recv(100).startswith(b"HTTP/1.1 503")
        for connection in many:
            connection.sendall(ALIVE[-2:])
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
        (full,) = lines(process, "api.connections_refused")
        assert (full["limit"], full["count"]) == (held, 1)
        # It looks for idle ones again in a tenth of a second.
        until(lambda: client.get("/health/ready").status_code == 200, "there is room again")


@pytest.mark.heavy
def test_files_that_run_out_all_the_same_are_named_in_the_log(databases: Databases) -> None:
    """As where the whole system has no more, or something of ours leaks."""
    with api(1024, databases) as (client, port, process):
        pid = process.process.pid
        assert client.get("/health/ready").status_code == 200
        with ExitStack() as stack:
            for _ in range(30):
                connection = stack.enter_context(
                    socket.create_connection(("127.0.0.1", port), timeout=60)
                )
                connection.sendall(ALIVE)
                connection.recv(12)
            opened = psutil.Process(pid).num_fds()
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (opened - 20, 1024))
            line = process.output.until("new connections are closed")
            assert "Too many open files" in line
            # Those that are idle go, and what is left is enough to go on with.
            process.output.until("api.recovered")
        assert len(lines(process, "new connections are closed")) == 1
        with httpx.Client(base_url=client.base_url, timeout=60) as another:
            assert another.post("/users", json=new_user()).status_code == 201


@pytest.mark.parametrize("part", ["api", "worker"])
def test_too_few_files_to_begin_with_is_one_sentence(databases: Databases, part: str) -> None:
    done = subprocess.run(
        limited(30, part, "users"),
        env=environment(**settings_of(databases)), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "only 30 files may be open here" in done.stderr
    assert "ulimit -n" in done.stderr
    assert "Traceback" not in done.stderr + done.stdout


def test_a_worker_works_with_few_files(databases: Databases) -> None:
    with running(64, "worker", "users", **settings_of(databases)) as process:
        process.output.until("worker.started")
        until(lambda: psutil.Process(process.process.pid).num_fds() > 12, "it has connected")
