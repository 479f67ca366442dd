"""Moments inside the shop where a storm strikes: between two steps, where it matters most.

A point is armed by a file in a directory, whose content says what is to happen. The first process
that passes there claims it by renaming the file, so it strikes once, and the storm can see that it
has. A point that is not armed costs one failing system call.
"""

import asyncio
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from eventspine.backlog import Batch
from eventspine.interceptors import Interceptor, Proceed
from eventspine.log import Record
from eventspine.outbox import Transaction
from eventspine.received import Received

POINTS: Mapping[str, str] = MappingProxyType(
    {
        # The command's work is done, and neither the outbox is written nor its lock held.
        "committing": "api",
        # The database has committed, and nobody has been answered.
        "committed": "api",
        # Rows of the outbox are read, and not appended: thawed, it repeats a batch late.
        "relay-read": "worker",
        # The append is on its way: strikes some milliseconds after it began.
        "appending": "worker",
        # The log has confirmed, and the position is not saved.
        "appended": "worker",
        # The position is saved.
        "saved": "worker",
        # Records are read, and no transaction has begun: thawed late, a member that is none any more.
        "read": "worker",
        # The effects are there, in a transaction that has not committed.
        "effects": "worker",
        # Effects and cursor are committed, and the member has not heard of it.
        "applied": "worker",
    }
)
"""Each point, and the kind of process that passes there."""

_IN_MID_APPEND = 0.003  # seconds
_FIRED = ".fired."


class Fired(NamedTuple):
    """A process that a point struck, and what was done to it."""

    pid: int
    kind: str
    service: str
    action: str


def arm(directory: Path, point: str, action: str, service: str | None = None) -> None:
    """`action` is `kill`, `freeze SECONDS` (all of the process) or `pause SECONDS` (what passes).

    Strikes whoever passes first, of all processes or of one service's.
    """
    assert point in POINTS, point
    assert action.split(" ", maxsplit=1)[0] in {"kill", "freeze", "pause"}, action
    name = _name(point, service)
    new = directory / f".{name}.new"
    new.write_text(action)
    new.rename(directory / name)


def disarm(directory: Path) -> None:
    """Forget what has not struck, and what has."""
    for path in directory.iterdir():
        path.unlink(missing_ok=True)


def fired(directory: Path, point: str, service: str | None = None) -> list[Fired]:
    """Whom this point has struck since the directory was disarmed."""
    struck = []
    for path in directory.glob(f"{_name(point, service)}{_FIRED}*"):
        kind, of, pid = path.name.rpartition(_FIRED)[2].split("-")
        struck.append(Fired(int(pid), kind, of, path.read_text()))
    return struck


def _name(point: str, service: str | None) -> str:
    return f"{service}.{point}" if service else point


class Failpoints(Interceptor):
    """Those of this kind of process."""

    def __init__(self, directory: Path, kind: str, service: str) -> None:
        global _installed  # noqa: PLW0603 - one a process
        _installed = self
        self._directory = directory
        self._kind = kind
        self._service = service

    async def commit(self, tx: Transaction, proceed: Proceed) -> None:
        if self._kind == "worker":
            await proceed()
            if not tx.durable:  # a consumer's
                await self.passes("applied")
        elif not tx.published:  # all refused: nothing is at stake
            await proceed()
        else:
            if "committing" not in _moved:
                await self.passes("committing")
            await proceed()
            if "committed" not in _moved:
                await self.passes("committed")

    async def append(self, batch: Batch, proceed: Proceed) -> None:
        await self.passes("relay-read")
        appending = asyncio.ensure_future(proceed())
        await asyncio.wait([appending], timeout=_IN_MID_APPEND)
        if not appending.done():
            await self.passes("appending")
        await appending
        await self.passes("appended")

    async def save(self, position: int, proceed: Proceed) -> None:
        await proceed()
        await self.passes("saved")

    async def receive(self, records: Sequence[Record], proceed: Proceed) -> None:
        await self.passes("read")
        await proceed()

    async def apply(
        self, tx: Transaction, received: Sequence[Received[Any]], proceed: Proceed
    ) -> None:
        await proceed()
        await self.passes("effects")

    async def passes(self, point: str) -> None:
        for name in (_name(point, self._service), point):
            if action := self._claim(name):
                await _strike(action)

    def _claim(self, name: str) -> str | None:
        claimed = self._directory / f"{name}{_FIRED}{self._kind}-{self._service}-{os.getpid()}"
        try:
            (self._directory / name).rename(claimed)
        except FileNotFoundError:
            return None
        return claimed.read_text()


async def _strike(action: str) -> None:
    deed, _, seconds = action.partition(" ")
    if deed == "pause":
        await asyncio.sleep(float(seconds))
    elif deed == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    else:
        # Somebody else must wake us, who does not end with us.
        thaw = f"sleep {float(seconds)}; kill -CONT {os.getpid()}"
        subprocess.Popen(["sh", "-c", thaw], start_new_session=True)
        os.kill(os.getpid(), signal.SIGSTOP)


_installed: Failpoints | None = None

_moved: set[str] = set()


def move(point: str) -> None:
    """For a mutation that moves the step which a point is named for, and passes there by itself."""
    _moved.add(point)


async def passes(point: str) -> None:
    """Be struck here, if the point is armed."""
    if _installed is not None:
        await _installed.passes(point)
