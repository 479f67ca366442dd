"""The data directory of `shop up`: where it is, that nobody else is using it, and of which release it is."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from devstack.files import make_folder, write_whole
from devstack.supervisor import StartFailed

FORMAT = "1"
"""Of the data directory. Another number means that an older or newer release can't use it."""

LONGEST_PATH = 900
"""Bytes of the data directory's: PostgreSQL's own paths have 1023 at most."""


def place(given: Path) -> Path:
    """Where that is, without links. Raises `StartFailed`."""
    try:
        data = given.resolve()
    except (OSError, RuntimeError) as error:  # the current directory is gone; a link to itself
        raise StartFailed(f"there is no way to {given}: {error}") from error
    too_much = "choose another directory with --data or SHOP_DATA_DIR"
    if any(ord(char) < ord(" ") for char in str(data)):
        raise StartFailed(f"there is a line break or the like in {str(data)!r}: {too_much}")
    if len(os.fsencode(data)) > LONGEST_PATH:
        raise StartFailed(
            f"the path of {data} has more than the {LONGEST_PATH} bytes that PostgreSQL can deal with:"
            f" {too_much}"
        )
    return data


@contextmanager
def locked(data: Path) -> Iterator[bool]:
    """Hold the data directory; yields whether its last holder was killed.

    The lock ends with the process, however that ends. The number in the file is for people, and
    is there after the end only if nobody could take it out.
    """
    make_folder(data, 0o711)
    with (data / "lock").open("a+", encoding="utf-8", errors="replace") as lock:
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
    if not found:  # an empty one is of a release that a full disk could stop amid the writing
        write_whole(version, f"{FORMAT}\n")
        return
    if found != FORMAT:
        raise StartFailed(
            f"{data} has format {found} and this release knows format {FORMAT}: use "
            "the release that made it, or choose another directory with --data or SHOP_DATA_DIR"
        )
