"""How a process says that it answers: one line into a pipe whose number its supervisor passed on.

The same idea as systemd's sd_notify, small enough to need no library. Whoever starts processes
need not guess from ports or logs.
"""

import os
from contextlib import suppress

READY_FD = "SHOP_READY_FD"
READY = b"ready\n"


def notify_ready() -> None:
    """Tell the supervisor, once; without one, and from the second call on, nothing happens."""
    given = os.environ.pop(READY_FD, None)
    if given is None:
        return
    # A supervisor that has died meanwhile is no reason to fail: the pipe is simply gone.
    with suppress(OSError, ValueError):
        fd = int(given)
        os.write(fd, READY)
        os.close(fd)
