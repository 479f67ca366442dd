"""The load: wrk, which is not Python, so that the measurement does not measure itself."""

import random
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

CUSTOMERS = 1000
"""Ids 1 to this may order, in every database that is measured."""

_SCRIPT = Path(__file__).with_name("wrk.lua")


class Missing(Exception):
    """A program that a benchmark needs is not there; the message says how to get it."""


class Load(NamedTuple):
    requests: int
    seconds: float
    p50: float
    """Milliseconds."""
    p99: float

    @property
    def per_second(self) -> float:
        return self.requests / self.seconds


def require_wrk() -> str:
    wrk = shutil.which("wrk")
    if wrk is None:
        raise Missing("wrk is not on the PATH (Debian and Ubuntu: apt-get install wrk)")
    return wrk


def post_orders(url: str, *, connections: int, seconds: float, keyed: bool = False) -> Load:
    """`seconds` of orders, each answered 201, or it raises. `keyed`: each with a key of its own."""
    run = [str(random.randrange(10**10, 10**11))] if keyed else []
    command = [
        *(require_wrk(), "-t1", f"-c{connections}", f"-d{round(seconds)}s", "--timeout", "10s"),
        *("-s", str(_SCRIPT), url, "--", str(CUSTOMERS), *run),
    ]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    line = next(line for line in told.splitlines() if line.startswith("RESULT "))
    requests, duration, errors, p50, p99, _ = (int(word) for word in line.split()[1:])
    if errors or not requests:
        raise RuntimeError(f"{errors} of {requests} requests to {url} failed:\n{told}")
    return Load(requests, duration / 1e6, p50 / 1000, p99 / 1000)
