"""`shop up` with stand-ins for the shop's own processes."""

import signal
import subprocess
import time

import pytest

from tests.support.waiting import SLOWER

STAND_IN = """
import os, signal, sys, time
import psycopg
from shop.platform.processes.ready import notify_ready
from shop.platform import discovery
from shop.platform.settings import read_settings
task, *service = sys.argv[1:]
if task == "migrate":
    for name in ("users", "orders"):
        with psycopg.connect(read_settings(discovery.sections()).service(name).database_url) as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS visits (at timestamptz)")
            connection.execute("INSERT INTO visits VALUES (now())")
    sys.exit()
assert os.environ["SHOP_EVENT_LOG"] == "postgres"
assert os.environ["SHOP_EVENT_LOG_URL"]
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print(f"{task} of {service[0]} on", os.environ[f"SHOP_{service[0].upper()}__PORT"])
notify_ready()
while True:
    time.sleep(60)
"""


UP = """
import sys
from pathlib import Path
from devstack.up import run
from devstack.up_options import LocalService, UpOptions
data, users, orders, stand_in = sys.argv[1:]
services = [LocalService("users", int(users)), LocalService("orders", int(orders))]
sys.exit(run(UpOptions(Path(data), services, verbose=True),
             lambda *words: [sys.executable, "-c", stand_in, *words]))
"""


def read_until(up: subprocess.Popen[str], text: str) -> list[str]:
    """The lines up to the one with this text; pytest's own time limit is the deadline."""
    assert up.stdout
    lines: list[str] = []
    for line in up.stdout:
        lines.append(line.rstrip())
        if text in line:
            return lines
    pytest.fail(f"ended without {text!r}: {lines}")


def stop(
    up: subprocess.Popen[str],
    stop_signal: signal.Signals = signal.SIGINT,
    within: float = 5 + SLOWER,
) -> str:
    began = time.monotonic()
    up.send_signal(stop_signal)
    rest, _ = up.communicate(timeout=60)
    assert time.monotonic() - began < within
    assert up.returncode == 0, rest
    return rest


ODD = "Läden ☕, a\\b:c%d #e=f!g'h\"i$(j)` -k"
