"""A log file that does not grow for ever, however many processes write to it."""

import fcntl
import os
import shutil
from contextlib import suppress
from pathlib import Path

LIMIT = 20 * 1024 * 1024
"""Bytes after which a log is cut; one old file is kept beside it, so twice this is the most."""


def cut(path: Path, limit: int = LIMIT) -> bool:
    """Move what there is aside, to `name.log.1`, if it has outgrown `limit` bytes; whether it had.

    The file itself stays, so a process that appends to it need not know: its next line lands at the start.
    What another process writes in the very moment between copy and cut is lost. Raises `OSError`.
    """
    try:
        if path.stat().st_size <= limit:
            return False
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            # Again: another process may just have cut it, and what it put aside is to stay.
            if os.fstat(file.fileno()).st_size <= limit:
                return True
            with suppress(OSError):  # a full disk is helped by the cut, not by giving up
                shutil.copyfile(path, path.with_name(path.name + ".1"))
            os.truncate(path, 0)
    except FileNotFoundError:
        return False
    return True
