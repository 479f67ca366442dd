"""Whether a process of the shop on this machine is well: the health checks of containers.

    python -m shop.platform.processes.healthy api PORT     asks the API whether it can do its work
    python -m shop.platform.processes.healthy worker       looks how old the heartbeat in SHOP_HEARTBEAT is

The exit status says it, 0 or 1, and one line says why. Only the standard library is imported:
this runs every few seconds for as long as the shop does, and `shop` itself takes a second to load.
"""

import http.client
import os
import sys
import time
from collections.abc import Sequence

FRESH_FOR = 10.0
"""Seconds that a heartbeat may be old: it comes every second, but a machine may be slow."""

_ANSWER_WITHIN = 3.0  # seconds


def pulse() -> tuple[str, float]:
    """Which start of this machine it is, and seconds that only rise until the next one.

    All of its processes see the same. A file's date would not do: if the clock were set back, a worker
    that froze at that moment would look well for as long as it was set back.
    """
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:  # noqa: PTH123 - pathlib takes longer to load
            boot = file.read().strip()
    except OSError:  # not Linux; then the seconds alone have to do
        boot = ""
    return boot, time.monotonic()


def api_trouble(port: int) -> str:
    """Empty if the API on this port is ready."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_ANSWER_WITHIN)
    try:
        connection.request("GET", "/health/ready")
        answer = connection.getresponse()
        said = answer.read(1000).decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        return f"no answer on port {port}: {error}"
    finally:
        connection.close()
    return "" if answer.status == http.HTTPStatus.OK else f"it answers {answer.status}: {said}"


def worker_trouble(heartbeat: str) -> str:
    """Empty if the file holds a pulse of just now."""
    now_boot, now = pulse()
    try:
        with open(heartbeat) as file:  # noqa: PTH123
            boot, _, at = file.read(1000).partition(" ")
        age = now - float(at)
    except OSError as error:
        return f"no heartbeat: {error.strerror}: {heartbeat}"
    except ValueError:
        return f"no heartbeat: {heartbeat} holds something else"
    if boot != now_boot or age < 0:
        return "the last heartbeat was before this machine was started"
    return "" if age < FRESH_FOR else f"the last heartbeat was {age:.0f} s ago"


def main(words: Sequence[str]) -> int:
    match words:
        case ["api", port] if port.isdigit():
            trouble = api_trouble(int(port))
        case ["worker"] if "SHOP_HEARTBEAT" in os.environ:
            trouble = worker_trouble(os.environ["SHOP_HEARTBEAT"])
        case _:
            trouble = "usage: healthy api PORT | healthy worker, with SHOP_HEARTBEAT set"
    # By its number, whatever character the output's encoding may lack: this is no reason to be unwell.
    print((trouble or "well").encode("ascii", "backslashreplace").decode())  # noqa: T201 - `docker inspect` shows it
    return 1 if trouble else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
