"""How a process reports that it answers: it writes one line into a pipe that its supervisor passed to it.

The idea is that of systemd's sd_notify, in a form that needs no library. A supervisor need not guess from ports or
logs.
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
