"""The storm's own tools: what they are said to do to a connection, a disk and a process, they do."""

import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from tests.storm import disk
from tests.storm.disk import SmallDisk
from tests.support.proxy import Proxy
from tests.support.waiting import until

TIMEOUT = 60.0  # seconds


class Echo:
    """A server that sends back what it is sent, and says how its connections ended."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listener.getsockname()
        self.heard = b""
        self.endings: list[str] = []
        self.connections: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections.append(connection)
                threading.Thread(target=self._echo, args=(connection,), daemon=True).start()

    def _echo(self, connection: socket.socket) -> None:
        try:
            while data := connection.recv(65536):
                self.heard += data[:100]
                connection.sendall(data)
            self.endings.append("end")
        except OSError:
            self.endings.append("reset")
        connection.close()


@pytest.fixture
def echo() -> Iterator[Echo]:
    with closing(Echo()) as server:
        yield server


@pytest.fixture
def proxy(echo: Echo) -> Iterator[Proxy]:
    with Proxy(echo.address) as proxy:
        yield proxy


def connected(proxy: Proxy) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", proxy.port), timeout=TIMEOUT)
    try:
        client.sendall(b"hello")
        assert client.recv(100) == b"hello"
    except OSError:
        client.close()
        raise
    return client


def is_silent(client: socket.socket, seconds: float = 0.1) -> bool:
    return not select.select([client], [], [], seconds)[0]


def test_much_data_comes_through_as_it_was_sent(proxy: Proxy) -> None:
    sent = bytes(range(256)) * 64 * 1024  # 16 MiB
    with connected(proxy) as client:
        threading.Thread(target=client.sendall, args=(sent,), daemon=True).start()
        got = bytearray()
        while len(got) < len(sent):
            got += client.recv(1024 * 1024)
        assert got == sent
    until(lambda: proxy.live == 0, "the connection is gone")


def test_an_end_is_passed_on_and_the_other_direction_goes_on(proxy: Proxy, echo: Echo) -> None:
    with connected(proxy) as client:
        client.sendall(b"last words")
        client.shutdown(socket.SHUT_WR)
        got = b""
        while data := client.recv(100):
            got += data
        assert got == b"last words"
    assert until(lambda: echo.endings, "the server hears of it") == ["end"]
    until(lambda: proxy.live == 0, "the connection is gone")


def test_a_cut_resets_both_ends_and_new_connections_work(proxy: Proxy, echo: Echo) -> None:
    with connected(proxy) as client:
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            client.recv(100)
    assert until(lambda: echo.endings, "the server hears of it") == ["reset"]
    connected(proxy).close()


def test_held_bytes_move_only_once_the_proxy_is_healed(proxy: Proxy) -> None:
    with connected(proxy) as client:
        proxy.hold()
        client.sendall(b"patience")
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=TIMEOUT) as late:
            late.sendall(b"me too")
            assert is_silent(client) and is_silent(late)
            proxy.heal()
            assert (client.recv(100), late.recv(100)) == (b"patience", b"me too")


def test_delayed_bytes_come_late_and_in_order(proxy: Proxy) -> None:
    with connected(proxy) as client:
        proxy.delay(0.1)
        began = time.monotonic()
        for n in range(50):
            client.sendall(bytes([n]))
        got = b""
        while len(got) < 50:
            got += client.recv(100)
        assert got == bytes(range(50))
        assert time.monotonic() - began > 0.1  # two ways, each at least half as long as asked for
        proxy.heal()


def test_a_refused_connection_is_reset_and_those_there_are_go_on(proxy: Proxy) -> None:
    with connected(proxy) as client:
        proxy.refuse()
        with pytest.raises(ConnectionResetError):
            connected(proxy)
        client.sendall(b"still here")
        assert client.recv(100) == b"still here"
        proxy.heal()
        connected(proxy).close()


def test_half_closed_towards_the_client_the_server_still_hears_it(proxy: Proxy, echo: Echo) -> None:
    with connected(proxy) as client:
        proxy.half_close("client")
        assert client.recv(100) == b""
        client.sendall(b"anybody?")
        assert client.recv(100) == b""
        assert echo.endings == []
    assert until(lambda: echo.endings, "the server hears of it") == ["end"]
    until(lambda: proxy.live == 0, "the connection is gone")


def test_half_closed_towards_the_server_the_client_still_hears_it(proxy: Proxy, echo: Echo) -> None:
    with connected(proxy) as client:
        proxy.half_close("server")
        assert until(lambda: echo.endings, "the server hears of it") == ["end"]
        assert client.recv(100) == b""
    until(lambda: proxy.live == 0, "the connection is gone")


def test_a_target_that_comes_back_is_used_again(proxy: Proxy, echo: Echo) -> None:
    where = proxy.target
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        proxy.target = unused.getsockname()
        with pytest.raises(ConnectionResetError):
            connected(proxy)
    proxy.target = where
    connected(proxy).close()


def test_bytes_of_a_client_that_died_arrive_late(proxy: Proxy, echo: Echo) -> None:
    client = connected(proxy)
    proxy.delay(0.2)
    client.sendall(b"my will")
    client.close()
    until(lambda: echo.endings, "the server hears of the end")
    assert echo.heard == b"hellomy will"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    if why_not := disk.possible():
        pytest.skip(why_not)
    with SmallDisk(tmp_path / "disk", 8) as small:
        yield small


def test_a_full_disk_takes_nothing_until_it_is_freed(small_disk: SmallDisk) -> None:
    (small_disk.path / "before").write_bytes(b"x" * 100_000)
    small_disk.fill()
    assert small_disk.left == 0
    with pytest.raises(OSError, match="No space left"):
        (small_disk.path / "after").write_bytes(b"x")
    small_disk.free()
    (small_disk.path / "after").write_bytes(b"x" * 1_000_000)


def test_a_small_disk_is_gone_when_it_is_closed(small_disk: SmallDisk) -> None:
    assert small_disk.path.is_mount()
    small_disk.close()
    assert not small_disk.path.is_mount()


def test_a_small_disk_is_gone_when_its_maker_is_killed(tmp_path: Path) -> None:
    if why_not := disk.possible():
        pytest.skip(why_not)
    path = tmp_path / "disk"
    maker = (
        "import os, pathlib, signal, sys; from tests.storm.disk import SmallDisk;"
        "disk = SmallDisk(pathlib.Path(sys.argv[1]), 1); print(disk.path.is_mount());"
        "sys.stdout.flush(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    made = subprocess.run(
        [sys.executable, "-c", maker, path], capture_output=True, text=True, check=False
    )
    assert (made.returncode, made.stdout) == (-signal.SIGKILL, "True\n")
    until(lambda: not path.is_mount(), "it is unmounted")
