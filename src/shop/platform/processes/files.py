"""How many files a process may have open, and how many connections that leaves room for: each is one."""

import os
import resource
from contextlib import suppress

_OWN = 36
"""What an API may open beside its connections: its event loop's, its log's, look-ups of names."""
_DATABASE = 10
"""Connections to its database, where it is not known yet how many."""

_FEWEST = 8
"""Connections without which there is no point in starting."""

_WORKER_NEEDS, _WORKER_ASKS = 64, 1024

_MACOS = 10_240
"""As many macOS allows, whatever it says (`OPEN_MAX`)."""


class TooFewFiles(Exception):
    """The system allows so few that nothing could be done with them."""


def allow(count: int) -> int:
    """So many may be open from now on, here and in children, as far as the system lets us; how many
    may. It is never made less.
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
    """Files that an API needs for so many clients' connections, and for so many to its database."""
    # A quarter more for those that are told that they are too many, and those just being closed.
    return count + count // 4 + _own(database)


def connections(wanted: int, database: int = _DATABASE) -> int:
    """How many clients' there is room for, at most `wanted`. Raises `TooFewFiles`."""
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
    """Room for a worker's files: some twenty, and with Kafka a few for each broker. Raises `TooFewFiles`."""
    allowed = allow(_WORKER_ASKS)
    if allowed < _WORKER_NEEDS:
        raise TooFewFiles(
            f"only {allowed} files may be open here, and a worker needs {_WORKER_NEEDS}: raise the limit "
            "(`ulimit -n`, or LimitNOFILE= for systemd)"
        )


def _own(database: int) -> int:
    # As many again while the database's are given up.
    return _OWN + 2 * database + _open_now()


def _open_now() -> int:
    return len(os.listdir("/dev/fd"))  # noqa: PTH208 - no Path is needed
