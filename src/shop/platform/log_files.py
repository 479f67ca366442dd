"""Limits the size of log files, also if several processes write to the same file."""

import fcntl
import os
import shutil
from contextlib import suppress
from pathlib import Path

LIMIT = 20 * 1024 * 1024
"""Bytes after which a log is cut. One old file is kept, so a log uses at most twice as much."""


def cut(path: Path, limit: int = LIMIT) -> bool:
    """If the file is larger than `limit` bytes, copy it to `name.log.1` and truncate it. Returns whether it did.

    The file itself stays. So a process that appends to it does not notice, and its next line is at the start.
    A line that another process writes between the copy and the truncation is lost. Raises `OSError`.
    """
    try:
        if path.stat().st_size <= limit:
            return False
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            # Check again: another process may just have cut it, and its copy must stay.
            if os.fstat(file.fileno()).st_size <= limit:
                return True
            with suppress(OSError):  # a full disk: only truncate
                shutil.copyfile(path, path.with_name(path.name + ".1"))
            os.truncate(path, 0)
    except FileNotFoundError:
        return False
    return True
