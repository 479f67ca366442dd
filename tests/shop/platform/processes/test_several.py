"""`shop api --processes`: several processes on one port, and the one that keeps them."""

import json
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil

from tests.support.databases import Databases
from tests.support.living import settings as settings_of
from tests.support.shop import Running, free_ports, gone, new_user, run_shop
from tests.support.waiting import until

_HEAD = b"POST /users HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"


@contextmanager
def api(databases: Databases, count: int = 3, **more: object) -> Iterator[tuple[Running, int]]:
    (port,) = free_ports(1)
    settings = {**settings_of(databases), "SHOP_USERS__PORT": port, **more}
    process = Running("api", "users", "--processes", count, **settings)
    try:
        process.output.until("api.processes_started")
        yield process, port
    finally:
        if process.process.poll() is None:
            process.stop(signal.SIGTERM)
        process.output.close()


def children(process: Running) -> list[psutil.Process]:
    return psutil.Process(process.process.pid).children()


def connections(process: Running, port: int) -> list[int]:
    """For each connection of a client, the process that holds it."""
    return [
        child.pid
        for child in children(process)
        for connection in child.net_connections("tcp")
        if connection.status == "ESTABLISHED" and connection.laddr.port == port
    ]


def test_all_of_them_answer_have_metrics_and_finish_what_they_have_accepted(
    databases: Databases, tmp_path: Path
) -> None:
    with (
        api(databases, SHOP_DRAIN_MS=0, SHOP_TELEMETRY__TARGET_FILE=tmp_path / "users.json") as (
            process,
            port,
        ),
        ExitStack() as held,
    ):
        family = children(process)
        clients = [
            held.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))
            for _ in range(40)
        ]
        body = json.dumps(new_user()).encode()
        for client in clients:
            client.sendall(_HEAD % len(body) + body[:-1])
        until(lambda: len(connections(process, port)) == len(clients), "all are accepted")
        assert set(connections(process, port)) == {child.pid for child in family}
        assert len(family) == 3

        until(lambda: len(list(tmp_path.iterdir())) == 3, "each has written its address")
        files = sorted(tmp_path.iterdir())
        assert [file.name for file in files] == ["users-1.json", "users-2.json", "users-3.json"]
        assert len({file.read_text() for file in files}) == 3

        process.process.send_signal(signal.SIGTERM)
        for client in clients:
            client.sendall(body[-1:])
        statuses = [client.recv(1000).split()[1] for client in clients]
        assert statuses.count(b"201") == 1
        assert statuses.count(b"409") == len(clients) - 1
        assert process.process.wait(60) == 0
        assert gone(family)


def test_one_that_dies_is_started_again_and_none_outlives_the_one_that_keeps_them(
    databases: Databases,
) -> None:
    with api(databases, count=2) as (process, _):
        dead, other = children(process)
        dead.kill()
        process.output.until("api.process_ended")
        until(lambda: len(children(process)) == 2, "there are two again")
        assert other.is_running()
        family = children(process)
        process.process.kill()
        process.process.wait()
        until(lambda: gone(family), "they are gone")


def test_a_port_that_another_program_has_is_not_shared_with_it(databases: Databases) -> None:
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as other:
        port = other.getsockname()[1]
        settings = {**settings_of(databases), "SHOP_USERS__PORT": port}
        ended = run_shop("api", "users", "--processes", 2, **settings)
    assert ended.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port}" in ended.stderr
