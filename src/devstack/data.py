"""The data directory of `shop up`: its place, its lock and its format."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from devstack.files import make_folder, write_whole
from devstack.supervisor import StartFailed
from shop.platform.running import LOCK

FORMAT = "1"
"""The format of the data directory. A release uses only directories of its own format."""

LONGEST_PATH = 900
"""The longest path of a data directory, in bytes. PostgreSQL's own paths have at most 1023."""


def place(given: Path) -> Path:
    """The absolute path, without symbolic links. Raises `StartFailed`."""
    try:
        data = given.resolve()
    except (OSError, RuntimeError) as error:  # a deleted current directory; a link to itself
        raise StartFailed(f"{given} can't be resolved: {error}") from error
    too_much = "choose another directory with --data or SHOP_DATA_DIR"
    if any(ord(char) < ord(" ") for char in str(data)):
        raise StartFailed(f"the path {str(data)!r} contains a control character: {too_much}")
    if len(os.fsencode(data)) > LONGEST_PATH:
        raise StartFailed(
            f"the path of {data} has more than the {LONGEST_PATH} bytes that PostgreSQL supports:"
            f" {too_much}"
        )
    return data


@contextmanager
def locked(data: Path) -> Iterator[bool]:
    """Lock the data directory. Yields whether its last holder was killed.

    The lock ends with the process in every case. The process id in the file is for people. It remains
    only if the process was killed.
    """
    make_folder(data, 0o711)
    with (data / LOCK).open("a+", encoding="utf-8", errors="replace") as lock:
        lock.seek(0)
        last_holder = lock.read(32).strip()
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StartFailed(
                f"another `shop up` (process {last_holder or 'unknown'}) is running on {data}: "
                "stop it, or choose another directory with --data or SHOP_DATA_DIR"
            ) from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        try:
            yield bool(last_holder)
        finally:
            lock.truncate(0)


def check_format(data: Path) -> None:
    version = data / "VERSION"
    try:
        found = version.read_text(encoding="utf-8", errors="replace").strip()
    except FileNotFoundError:
        found = ""
    if not found:  # an older release left an empty file if the disk was full
        write_whole(version, f"{FORMAT}\n")
        return
    if found != FORMAT:
        raise StartFailed(
            f"{data} has format {found} and this release knows format {FORMAT}: use "
            "the release that made it, or choose another directory with --data or SHOP_DATA_DIR"
        )
