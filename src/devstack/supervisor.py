"""Keeps servers running: starts them in order, starts again what dies, stops them in reverse.

PostgreSQL, Kafka and the shop's own processes are the same thing here, a `Server`. One thread, one
loop, nothing that blocks for long: a signal is noticed at the next `pause`, and no two things
happen at once.
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
"""Seconds before a server that died is started again: twice as many each time."""

STEADY_AFTER = 10.0
"""A server that lived this many seconds is started again with the shortest pause."""

FIRST_STARTS = 6
"""A server that dies this often before it was ever ready is given up: about seven seconds."""

Pause = Callable[[float], None]
"""Waits at most so many seconds. May raise, to end whatever is waiting: that is how Ctrl-C does."""

Say = Callable[[str], None]
"""Tells a person one line."""


class StartFailed(Exception):
    """A server can't be started, or did not become ready in time. The message is a sentence."""


class Server(Protocol):
    """A long-lived child: started, watched and stopped by one supervisor."""

    @property
    def name(self) -> str: ...

    def start(self) -> None:
        """Start it, without waiting until it answers. Again, after it has ended, is allowed.

        Raises `StartFailed` when it is certain that another try would end the same.
        """
        ...

    def ready(self) -> bool:
        """Whether it answers. Asked many times a second while it starts, so it must be quick."""
        ...

    def ended(self) -> str | None:
        """None while it lives; then why it ended, in a few words."""
        ...

    def terminate(self) -> None:
        """Ask it to stop, without waiting."""
        ...

    def stop(self, timeout: float) -> None:
        """Ask it to stop, if nobody has, and force it so that it is gone after `timeout` s."""
        ...


def say(line: str) -> None:
    """To stderr, whatever became of the terminal: a lost one must not keep us from stopping."""
    with suppress(OSError):
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


def wait_ready(server: Server, timeout: float, pause: Pause = time.sleep) -> None:
    """Wait as long as it lives, for at most `timeout` s. Raises `StartFailed`."""
    deadline = time.monotonic() + timeout
    while not server.ready():
        if (why := server.ended()) is not None:
            raise StartFailed(f"{server.name} does not start: {why}")
        if time.monotonic() > deadline:
            raise StartFailed(f"{server.name} was not ready after {timeout:g} s")
        pause(0.02)


@dataclass(eq=False)
class _Child:
    """A server and how it has been doing."""

    server: Server
    started_at: float = 0.0
    start_again_at: float | None = None
    deaths: int = 0
    """In a row: counted anew once it has lived for `STEADY_AFTER`."""
    ready: bool = False
    was_ready: bool = False
    restart_by: float | None = None
    """It was asked to stop, to be started again; by when at the latest."""
    failed: Callable[[str], None] | None = None
    """It was started again on purpose and is not ready yet; who is told if it does not start."""


@dataclass(frozen=True)
class _Stage:
    """What was started together."""

    children: list[_Child]
    stop_within: float
    """Seconds it is given to stop, though its share be less."""


class Supervisor:
    def __init__(self, *, say: Say = say, pause: Pause = time.sleep) -> None:
        self._say = say
        self._pause = pause
        self._stages: list[_Stage] = []

    def start(self, *servers: Server, timeout: float, stop_within: float = 0.0) -> None:
        """Start these together and wait until all are ready; those started before are watched too.

        One that dies is started again a few times: what a killed predecessor left behind may need
        a moment to go. `stop_within` is what they are given to stop. Raises `StartFailed`.
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
        """Keep everything running until `pause` or `look`, which is called every 0.1 s, raises."""
        while True:
            look()
            self._pause(self._tend())

    def restart(self, server: Server, *, timeout: float, failed: Callable[[str], None]) -> None:
        """Have it stopped, within `timeout` s, and started again by `watch`; returns at once.

        If it ends before it is ready, `failed` is told why, and it stays down until it is restarted.
        """
        child = next(
            child for stage in self._stages for child in stage.children if child.server is server
        )
        child.server.terminate()
        child.restart_by = time.monotonic() + timeout
        child.start_again_at = None
        child.failed = failed

    def stop(self, timeout: float = 5.0) -> None:
        """Stop everything within `timeout` s and what stages were granted, last started first.

        What was started together is asked together. Each stage may use an equal share of the time
        that is left, so a slow one can't take what PostgreSQL needs to close cleanly.
        """
        # The margin is for what follows a SIGKILL.
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
            # What it took beyond its share, it took from nobody.
            deadline += max(0.0, time.monotonic() - share_end)

    def _tend(self) -> float:
        """Look after everyone once; how many seconds may pass until the next look."""
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
