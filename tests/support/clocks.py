"""A PostgreSQL whose wall clock leaps, by libfaketime. The machine's own is left alone.

What PostgreSQL measures with a monotonic clock goes on at its pace. One thing is not as on a machine
whose clock leaps: a session that waits for its client, for a lock, or in `pg_sleep`, has its limits told
by the machine's clock.
"""

import itertools
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from devstack.postgres import LocalPostgres

_LIBRARIES = ("/usr/lib/*/faketime/libfaketimeMT.so.1", "/usr/lib/faketime/libfaketimeMT.so.1")


def leaping(clock: Path) -> dict[str, str]:
    """The environment of a process whose wall clock is as far from the machine's as `clock` says.

    Skips the test where there is no libfaketime.
    """
    return {
        "LD_PRELOAD": str(_library()),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
    }


def set_clock(clock: Path, hours: float) -> None:
    """Ahead of the machine's by so many hours, from now on."""
    new = clock.with_suffix(".new")
    new.write_text(f"{3600 * hours:+.0f}")
    new.chmod(0o644)
    new.rename(clock)


class LeapingPostgres:
    """`leap(26)` sets the server's clock 26 hours ahead of the machine's, from that moment on."""

    def __init__(self, server: LocalPostgres, clock: Path) -> None:
        self.server = server
        self._clock = clock
        self._numbers = itertools.count(1)

    def leap(self, hours: float) -> None:
        set_clock(self._clock, hours)

    def new_database(self) -> str:
        """The URL of an empty one."""
        name = f"leaping_{next(self._numbers)}"
        with psycopg.connect(self.server.dsn("postgres"), autocommit=True) as admin:
            admin.execute(f"CREATE DATABASE {name}")
        return self.server.dsn(name, "postgres")


def _library() -> Path:
    for pattern in _LIBRARIES:
        for found in Path("/").glob(pattern.lstrip("/")):
            return found
    told = (
        "left out, since no clock can be made to leap: libfaketime is missing (Debian: libfaketime)"
    )
    if os.environ.get("CI") == "true":
        pytest.fail(told)
    pytest.skip(told)


@pytest.fixture(scope="session")
def _leaping_postgres() -> Iterator[LeapingPostgres]:
    with (
        tempfile.TemporaryDirectory(prefix="eventshop-test-") as directory,
        pytest.MonkeyPatch.context() as patch,
    ):
        folder = Path(directory)
        folder.chmod(0o711)
        clock = folder / "clock"
        # The server takes over what is set while it is made.
        for name, value in leaping(clock).items():
            patch.setenv(name, value)
        settings = {"fsync": "off", "shared_buffers": "32MB"}
        postgres = LeapingPostgres(LocalPostgres(folder / "postgres", settings=settings), clock)
        postgres.leap(0)
        patch.undo()
        with postgres.server:
            yield postgres


@pytest.fixture
def leaping_postgres(_leaping_postgres: LeapingPostgres) -> Iterator[LeapingPostgres]:
    """Its clock is right when the test begins."""
    _leaping_postgres.leap(0)
    yield _leaping_postgres
    _leaping_postgres.leap(0)
