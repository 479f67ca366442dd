"""A small disk: a file system of its own that can be filled to the last byte and freed again.

It is memory (tmpfs), so what stands on it survives the death of every process and not that of the
machine. To mount it takes root; `possible` says whether we may.
"""

import errno
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Self

_BALLAST = "ballast"
_CHUNK = 8 * 1024 * 1024
_PAGE = 4096

# Unmounts once its input ends: when it is told to, or when we are dead, whatever killed us. Lazily,
# for whoever still stands on it.
_GUARD = 'trap "" INT TERM HUP; read -r _; umount -l "$1"'


@cache
def possible() -> str | None:
    """Why a small disk can't be had here; None if it can."""
    if sys.platform != "linux":
        return "small disks are Linux's tmpfs"
    if os.geteuid() != 0:
        return "mounting one takes root"
    with tempfile.TemporaryDirectory() as directory:
        try:
            SmallDisk(Path(directory), 1).close()
        except OSError as error:
            return str(error)
    return None


class SmallDisk:
    """Mounted on `directory`, which is made if it is not there. Raises `OSError` if it can't be.

    Who stands on it must be gone before `close`, or keeps it alive unseen.
    """

    def __init__(self, directory: Path, megabytes: int) -> None:
        self.path = directory.resolve()
        self.path.mkdir(parents=True, exist_ok=True)
        options = f"size={megabytes}m,mode=0755"
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "small-disk", str(self.path)],
            capture_output=True,
            text=True,
            check=False,
        )
        if mounted.returncode:
            raise OSError(errno.EPERM, mounted.stderr.strip(), str(self.path))
        self._guard = subprocess.Popen(
            ["sh", "-c", _GUARD, "guard", str(self.path)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    @property
    def left(self) -> int:
        """Bytes that can still be written."""
        return shutil.disk_usage(self.path).free

    def fill(self) -> None:
        """Leave no room: until `free`, whoever writes finds the disk full."""
        with (self.path / _BALLAST).open("ab") as ballast:
            size = _CHUNK
            while size >= _PAGE:
                try:
                    os.posix_fallocate(ballast.fileno(), ballast.tell(), size)
                    ballast.seek(0, os.SEEK_END)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    size //= 2

    def free(self) -> None:
        (self.path / _BALLAST).unlink(missing_ok=True)

    def close(self) -> None:
        if self._guard.poll() is None:
            assert self._guard.stdin
            with suppress(BrokenPipeError):
                self._guard.stdin.close()
            self._guard.wait(10)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()
