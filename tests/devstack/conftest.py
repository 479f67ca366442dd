"""What tests of what `shop up` starts have in common."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.support.shop import free_ports
from tests.support.up import STAND_IN, UP


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that others may pass through, with a path short enough for a socket: pytest's are neither."""
    with tempfile.TemporaryDirectory(prefix="es-") as directory:
        os.chmod(directory, 0o711)
        yield Path(directory)


@pytest.fixture
def ports() -> tuple[int, int]:
    users, orders = free_ports(2)
    return users, orders


@pytest.fixture
def start(tmp_path: Path, ports: tuple[int, int]) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def start(data: Path = tmp_path / "data", prefix: Sequence[str] = ()) -> subprocess.Popen[str]:
        words = [data, *ports, STAND_IN]
        up = subprocess.Popen(
            [*prefix, sys.executable, "-c", UP, *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        started.append(up)
        return up

    yield start
    for up in started:
        up.kill()
        up.wait()
        assert up.stdout
        up.stdout.close()
