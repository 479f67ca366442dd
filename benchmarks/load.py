"""Generates the load with wrk, which needs less CPU than a client in Python."""

import random
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

from benchmarks import windows

CUSTOMERS = 1000
"""In every measured database, customers with the ids from 1 to this number may order."""

_SCRIPT = Path(__file__).with_name("wrk.lua")
_READS = Path(__file__).with_name("wrk_get.lua")


class Missing(Exception):
    """A program that a benchmark needs is missing. The message says how to install it."""


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


def post_orders(
    url: str,
    *,
    connections: int,
    seconds: float,
    keyed: bool = False,
    customers: int = CUSTOMERS,
    tokens: Path | None = None,
) -> Load:
    """Send orders for some seconds. Raises unless each answer is 201. `keyed` gives each order its own key.
    `tokens` is a file with an access token for each customer, one a line. They are sent in the windows that have the
    part (`benchmarks/windows.py`).
    """
    run = [str(random.randrange(10**10, 10**11)) if keyed else "-"]
    if tokens is not None:
        run += [str(tokens), str(windows.LENGTH)]
    # An order that takes longer than the time between windows may come without its token, and be refused.
    refused = 0.005 if tokens is not None else 0.0
    return _wrk(url, _SCRIPT, connections, seconds, str(customers), *run, refused=refused)


def get_orders(url: str, *, connections: int, seconds: float, orders: int) -> Load:
    """Read single orders, with ids up to `orders`, for some seconds. Raises unless each answer is 200."""
    return _wrk(url, _READS, connections, seconds, str(orders))


def _wrk(
    url: str, script: Path, connections: int, seconds: float, *words: str, refused: float = 0.0
) -> Load:
    """Raises if more than this share of the requests failed."""
    command = [
        *(require_wrk(), "-t1", f"-c{connections}", f"-d{round(seconds)}s", "--timeout", "10s"),
        *("-s", str(script), url, "--", *words),
    ]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    line = next(line for line in told.splitlines() if line.startswith("RESULT "))
    requests, duration, errors, p50, p99, _ = (int(word) for word in line.split()[1:])
    if errors > requests * refused or not requests:
        raise RuntimeError(f"{errors} of {requests} requests to {url} failed:\n{told}")
    return Load(requests, duration / 1e6, p50 / 1000, p99 / 1000)
