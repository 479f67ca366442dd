"""Keeps servers running: starts them in order, restarts those that die, and stops them in reverse order.

PostgreSQL, Kafka and the shop's own processes all have the same interface here, `Server`. One thread runs one
loop, and nothing blocks for long. So a signal is noticed at the next `pause`, and nothing runs concurrently.
"""

import math
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn, Protocol

FIRST_PAUSE = 0.2
LONGEST_PAUSE = 5.0
"""Seconds before a dead server is restarted. They double each time, up to `LONGEST_PAUSE`."""

STEADY_AFTER = 10.0
"""After this many seconds of life, a server's next restart uses the shortest pause again."""

FIRST_STARTS = 6
"""A server that dies this often before it was ever ready is not restarted. That takes about seven seconds."""

Pause = Callable[[float], None]
"""Waits at most so many seconds. It may raise to end the wait, as it does for Ctrl-C."""

Say = Callable[[str], None]
"""Prints one line for a person."""


class StartFailed(Exception):
    """A server can't be started, or did not become ready in time. The message is one sentence."""


class Server(Protocol):
    """A long-lived child process that one supervisor starts, watches and stops."""

    @property
    def name(self) -> str: ...

    def start(self) -> None:
        """Start it, without waiting until it is ready. It can be started again after it has ended.

        Raises `StartFailed` if another attempt would certainly fail too.
        """
        ...

    def ready(self) -> bool:
        """Whether it answers. This is called many times a second during the start, so it must be quick."""
        ...

    def ended(self) -> str | None:
        """None while it runs; then a short reason of its end."""
        ...

    def terminate(self) -> None:
        """Ask it to stop, without waiting."""
        ...

    def stop(self, timeout: float) -> None:
        """Ask it to stop, if that has not been done, and kill it if it runs after `timeout` s."""
        ...


def say(line: str) -> None:
    """Write a line to stderr. Errors are ignored, because a lost terminal must not prevent a clean stop."""
    with suppress(OSError):
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


def wait_ready(server: Server, timeout: float, pause: Pause = time.sleep) -> None:
    """Wait until it is ready. Raises `StartFailed` if it ends, or after `timeout` s."""
    deadline = time.monotonic() + timeout
    while not server.ready():
        if (why := server.ended()) is not None:
            raise StartFailed(f"{server.name} does not start: {why}")
        if time.monotonic() > deadline:
            raise StartFailed(f"{server.name} was not ready after {timeout:g} s")
        pause(0.02)


@dataclass(eq=False)
class _Child:
    """A server and its history."""

    server: Server
    started_at: float = 0.0
    start_again_at: float | None = None
    deaths: int = 0
    """Deaths in a row. The count restarts after it has run for `STEADY_AFTER`."""
    ready: bool = False
    was_ready: bool = False
    restart_by: float | None = None
    """It was asked to stop for a restart, and must have stopped by this time."""
    failed: Callable[[str], None] | None = None
    """Called if it does not start after a requested restart. None if no restart is in progress."""


@dataclass(frozen=True)
class _Stage:
    """Servers that were started together."""

    children: list[_Child]
    stop_within: float
    """Seconds that it may take to stop, even if its share of the time is less."""


class Supervisor:
    def __init__(self, *, say: Say = say, pause: Pause = time.sleep) -> None:
        self._say = say
        self._pause = pause
        self._stages: list[_Stage] = []

    def start(self, *servers: Server, timeout: float, stop_within: float = 0.0) -> None:
        """Start these together and wait until all are ready. Servers started earlier are watched too.

        A server that dies is restarted a few times, because remains of a killed predecessor may need a
        moment to disappear. `stop_within` is the time in seconds that they may take to stop. Raises
        `StartFailed`.
        """
        stage = [_Child(server) for server in servers]
        self._stages.append(_Stage(stage, stop_within))
        deadline = time.monotonic() + timeout
        for child in stage:
            self._start(child)
        while True:
            pause = self._tend()
            late = [child.server.name for child in stage if not child.was_ready]
            if not late:
                return
            if time.monotonic() > deadline:
                raise StartFailed(f"not ready after {timeout:g} s: {', '.join(late)}")
            self._pause(pause)

    def watch(self, look: Callable[[], None] = lambda: None) -> NoReturn:
        """Keep all servers running until `pause` or `look` raises. `look` is called every 0.1 s."""
        while True:
            look()
            self._pause(self._tend())

    def restart(self, server: Server, *, timeout: float, failed: Callable[[str], None]) -> None:
        """Make `watch` stop it, within `timeout` s, and start it again. Returns at once.

        If it ends before it is ready, `failed` is called with the reason. It then stays down until the next
        restart.
        """
        child = next(
            child for stage in self._stages for child in stage.children if child.server is server
        )
        child.server.terminate()
        child.restart_by = time.monotonic() + timeout
        child.start_again_at = None
        child.failed = failed

    def stop(self, timeout: float = 5.0) -> None:
        """Stop all servers, the last started first, within `timeout` s plus the extra time of stages.

        Servers that were started together are stopped together. Each stage may use an equal share of the
        remaining time. So a slow stage can't use the time that PostgreSQL needs for a clean shutdown.
        """
        # The margin is for the work after a SIGKILL.
        deadline = time.monotonic() + 0.9 * timeout
        while self._stages:
            now = time.monotonic()
            share_end = now + max(0.0, deadline - now) / len(self._stages)
            stage = self._stages.pop()
            stage_end = max(share_end, now + stage.stop_within)
            for child in reversed(stage.children):
                child.server.terminate()
            for child in reversed(stage.children):
                child.server.stop(max(0.0, stage_end - time.monotonic()))
            # Extra time of this stage does not reduce the time of the others.
            deadline += max(0.0, time.monotonic() - share_end)

    def _tend(self) -> float:
        """Check every server once. Returns the seconds until the next check."""
        return min(self._look_after(child) for stage in self._stages for child in stage.children)

    def _look_after(self, child: _Child) -> float:
        now = time.monotonic()
        if child.restart_by is not None:
            if child.server.ended() is None and now < child.restart_by:
                return 0.02
            child.server.stop(0.0)
            child.restart_by = None
            child.deaths = 0
            self._start(child)
        elif child.start_again_at is not None:
            if now >= child.start_again_at:
                self._start(child)
        elif (why := child.server.ended()) is not None:
            if now - child.started_at >= STEADY_AFTER:
                child.deaths = 0
            self._died(child, why)
        elif not child.ready and child.server.ready():
            child.ready = True
            child.failed = None
            if child.was_ready:
                self._say(f"{child.server.name} is ready again")
            child.was_ready = True
        return 0.1 if child.ready else 0.02

    def _start(self, child: _Child) -> None:
        child.start_again_at = None
        child.started_at = time.monotonic()
        child.ready = False
        try:
            child.server.start()
        except (StartFailed, OSError) as error:
            if not child.was_ready:
                raise
            self._died(child, str(error))

    def _died(self, child: _Child, why: str) -> None:
        if child.failed is not None:
            child.start_again_at = math.inf  # until the next `restart`
            child.failed(why)
            return
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2**child.deaths)
        child.deaths += 1
        if not child.was_ready and child.deaths >= FIRST_STARTS:
            raise StartFailed(f"{child.server.name} does not start: {why}")
        child.start_again_at = time.monotonic() + pause
        self._say(f"{child.server.name} ended: {why}; starting it again in {pause:g} s")
