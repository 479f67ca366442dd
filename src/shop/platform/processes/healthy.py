"""Whether a process of the shop on this machine is well: the health checks of containers.

    python -m shop.platform.processes.healthy api PORT     asks the API whether it can do its work
    python -m shop.platform.processes.healthy worker       looks how old the file in SHOP_HEARTBEAT is

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
    """Empty if the file has been touched just now."""
    try:
        age = time.time() - os.stat(heartbeat).st_mtime  # noqa: PTH116 - pathlib takes longer to load
    except OSError as error:
        return f"no heartbeat: {error.strerror}: {heartbeat}"
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
