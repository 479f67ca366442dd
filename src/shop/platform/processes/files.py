"""The limit on open files, and the number of connections that it allows. Each connection is a file."""

import os
import resource
from contextlib import suppress

_OWN = 36
"""Files of an API besides its connections, such as those of the event loop, the log and DNS queries."""
_DATABASE = 10
"""Connections to the database, while their number is not known yet."""

_FEWEST = 8
"""The smallest number of connections with which an API starts."""

_WORKER_NEEDS, _WORKER_ASKS = 64, 1024

_MACOS = 10_240
"""The largest limit that macOS accepts (`OPEN_MAX`), even if it reports a larger one."""


class TooFewFiles(Exception):
    """The limit on open files is too low to work."""


def allow(count: int) -> int:
    """Raise the limit on open files to `count`, for this process and its children, as far as allowed.

    Returns the limit, at most `count` if there is no limit. Never lowers it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (count, _MACOS):
        if hard != resource.RLIM_INFINITY:
            wanted = min(wanted, hard)  # noqa: PLW2901
        if soft == resource.RLIM_INFINITY or soft >= wanted:
            break
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    return count if soft == resource.RLIM_INFINITY else soft


def for_connections(count: int, database: int = _DATABASE) -> int:
    """Files that an API needs for `count` connections from clients and `database` to its database."""
    # A quarter more, for connections that are being refused or closed.
    return count + count // 4 + _own(database)


def connections(wanted: int, database: int = _DATABASE) -> int:
    """The number of connections from clients that fit, at most `wanted`. Raises `TooFewFiles`."""
    allowed = allow(for_connections(wanted, database))
    room = (allowed - _own(database)) * 4 // 5
    if room < _FEWEST:
        needs = for_connections(_FEWEST, database)
        raise TooFewFiles(
            f"only {allowed} files may be open here, and an API needs {needs}, and "
            "one for each connection: raise the limit (`ulimit -n`, or LimitNOFILE= for systemd)"
        )
    return min(wanted, room)


def for_worker() -> None:
    """Raise the limit for a worker. It opens about twenty files, and with Kafka a few for each broker.

    Raises `TooFewFiles`.
    """
    allowed = allow(_WORKER_ASKS)
    if allowed < _WORKER_NEEDS:
        raise TooFewFiles(
            f"only {allowed} files may be open here, and a worker needs {_WORKER_NEEDS}: raise the limit "
            "(`ulimit -n`, or LimitNOFILE= for systemd)"
        )


def _own(database: int) -> int:
    # Twice, because cut connections may still be open while new ones are opened.
    return _OWN + 2 * database + _open_now()


def _open_now() -> int:
    return len(os.listdir("/dev/fd"))  # noqa: PTH208 - no Path is needed
