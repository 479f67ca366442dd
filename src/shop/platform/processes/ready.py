"""How a process reports that it answers: it writes one line into a pipe that its supervisor passed to it.

It is like systemd's sd_notify, but needs no library. So a supervisor does not have to test ports or read
logs.
"""

import os
from contextlib import suppress

READY_FD = "SHOP_READY_FD"
READY = b"ready\n"


def notify_ready() -> None:
    """Tell the supervisor once. Without a supervisor, and at later calls, it does nothing."""
    given = os.environ.pop(READY_FD, None)
    if given is None:
        return
    # If the supervisor has died, the pipe is closed. That is no reason to fail.
    with suppress(OSError, ValueError):
        fd = int(given)
        os.write(fd, READY)
        os.close(fd)
