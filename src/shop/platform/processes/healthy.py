"""Health checks of containers: whether a process of the shop on this machine is healthy.

    python -m shop.platform.processes.healthy api PORT     asks the API whether it is ready
    python -m shop.platform.processes.healthy worker       checks the age of the heartbeat in SHOP_HEARTBEAT

The exit status is 0 or 1, and one line gives the reason. It imports only the standard library, because it runs
every few seconds, and `shop` itself takes a second to load.
"""

import http.client
import os
import sys
import time
from collections.abc import Sequence

FRESH_FOR = 10.0
"""The largest age of a heartbeat in seconds. It is written every second, but a machine may be slow."""

_ANSWER_WITHIN = 3.0  # seconds


def pulse() -> tuple[str, float]:
    """The id of this machine's boot, and the seconds since then on a monotonic clock.

    All processes of the machine see the same values. A file's modification time is not safe: if the clock is
    set back by an hour, a worker that freezes at that moment would look healthy for an hour.
    """
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:  # noqa: PTH123 - pathlib takes longer to load
            boot = file.read().strip()
    except OSError:  # not Linux; then only the seconds are compared
        boot = ""
    return boot, time.monotonic()


def api_trouble(port: int) -> str:
    """Why the API on this port is not ready; empty if it is ready."""
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
    """Why the heartbeat is missing or too old; empty if it is recent."""
    now_boot, now = pulse()
    try:
        with open(heartbeat) as file:  # noqa: PTH123
            boot, _, at = file.read(1000).partition(" ")
        age = now - float(at)
    except OSError as error:
        return f"no heartbeat: {error.strerror}: {heartbeat}"
    except ValueError:
        return f"no heartbeat: {heartbeat} has other content"
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
    # Escaped, because a character that the output can't encode must not make the check fail.
    print((trouble or "well").encode("ascii", "backslashreplace").decode())  # noqa: T201 - `docker inspect` shows it
    return 1 if trouble else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
