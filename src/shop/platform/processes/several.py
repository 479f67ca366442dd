"""Several processes of one API, which share its port: `shop api SERVICE --processes N`.

Each is a whole API: it has its own event loop, batches, connections to the database, queue and `/metrics`. The kernel
gives each new connection to one of them (SO_REUSEPORT). One process before them starts them, starts one again that
has died, and passes a stop on to all. They are forked from it after everything has been loaded, so that they share
that memory.
"""

import ctypes
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import structlog

from shop.platform.processes import garbage
from shop.platform.processes.ready import READY, READY_FD, notify_ready
from shop.platform.settings import Settings

_LOG = structlog.get_logger("shop.api")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0
"""Seconds before a dead process is started again. They double with each death, until one has run for as long."""

_LOOKS_EVERY = 0.05  # seconds
_NOT_DONE = 2  # the exit status of a process that can't start, and has said why
_STOPS = (signal.SIGTERM, signal.SIGINT)

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


class AllEnded(Exception):
    """All processes have stopped, and this one can end with `status`."""

    def __init__(self, status: int) -> None:
        super().__init__(f"exit status {status}")
        self.status = status


def become_one_of(count: int) -> int:
    """Returns in each of `count` child processes, with its number from 1.

    In the process that calls it, it does not return: it raises `AllEnded` when all children have stopped. It is
    ready (`notify_ready`) when all are. No thread may run yet.
    """
    garbage.settle()
    children = _Children(count)
    number = children.keep()
    if number is None:
        raise AllEnded(children.status)
    return number


def of_one(settings: Settings, number: int) -> Settings:
    """The settings of the process with this number: what only one process can have is counted on."""
    shown = settings.telemetry
    file = shown.target_file
    own = {
        "metrics_port": shown.metrics_port and shown.metrics_port + number - 1,
        "target_file": file and file.with_name(f"{file.stem}-{number}{Path(file).suffix}"),
    }
    return settings.model_copy(update={"telemetry": shown.model_copy(update=own)})


class _Children:
    def __init__(self, count: int) -> None:
        self._numbers = range(1, count + 1)
        self._pids: dict[int, int] = {}
        """The number of each that runs, by its process id."""
        self._began: dict[int, float] = {}
        self._again_at: dict[int, float] = dict.fromkeys(self._numbers, 0.0)
        """When those that do not run are to be started."""
        self._pauses: dict[int, float] = dict.fromkeys(self._numbers, _FIRST_PAUSE)
        self._pipes: dict[int, int] = {}
        """Of those that are not ready yet."""
        self._stops = 0
        self._passed_on = 0
        self._announce = os.environ.pop(READY_FD, None)
        self._all_were_ready = False
        self.status = 0

    def keep(self) -> int | None:
        """Keep all running until a stop. The number in a child; None in this process, when all have ended."""
        for each in _STOPS:
            signal.signal(each, self._stop)
        while self._pids or not self._stops:
            for number, at in list(self._again_at.items()):
                if not self._stops and time.monotonic() >= at and self._is_child(number):
                    return number
            self._look_who_is_ready()
            self._look_who_has_ended()
            self._pass_on()
            time.sleep(_LOOKS_EVERY)
        return None

    def _stop(self, *_: object) -> None:
        self._stops += 1

    def _is_child(self, number: int) -> bool:
        """Start it. True in the new process."""
        del self._again_at[number]
        told, tells = os.pipe()
        parent = os.getpid()
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            for each in _STOPS:
                signal.signal(each, signal.SIG_DFL)
            for pipe in (told, *self._pipes.values()):
                os.close(pipe)
            os.environ[READY_FD] = str(tells)
            os.setsid()  # Ctrl-C reaches the first process alone, which passes it on
            if _libc is not None:
                _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
            if os.getppid() != parent:
                os._exit(1)
            return True
        os.close(tells)
        os.set_blocking(told, False)
        self._pids[pid], self._pipes[number], self._began[number] = number, told, time.monotonic()
        return False

    def _look_who_is_ready(self) -> None:
        for number, pipe in list(self._pipes.items()):
            with suppress(BlockingIOError):
                if os.read(pipe, len(READY)) == READY:
                    os.close(self._pipes.pop(number))
        if not (self._pipes or self._again_at or self._all_were_ready):
            self._all_were_ready = True
            if self._announce is not None:
                os.environ[READY_FD] = self._announce
            notify_ready()
            _LOG.info("api.processes_started", processes=len(self._numbers))

    def _look_who_has_ended(self) -> None:
        for pid in list(self._pids):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                self._ended(self._pids.pop(pid), os.waitstatus_to_exitcode(status))

    def _ended(self, number: int, status: int) -> None:
        if number in self._pipes:
            os.close(self._pipes.pop(number))
        if self._stops:
            return
        if status == _NOT_DONE and not self._all_were_ready:
            # It has said why, and the others would say the same.
            self.status = status
            self._stops += 1
            return
        if time.monotonic() - self._began[number] > 2 * _LONGEST_PAUSE:
            self._pauses[number] = _FIRST_PAUSE
        pause = self._pauses[number]
        self._pauses[number] = min(_LONGEST_PAUSE, 2 * pause)
        self._again_at[number] = time.monotonic() + pause
        _LOG.error("api.process_ended", number=number, status=status, starts_again_in_s=pause)

    def _pass_on(self) -> None:
        """A second signal ends the time in which a process that stops answers new requests."""
        while self._passed_on < self._stops:
            self._passed_on += 1
            for pid in self._pids:
                os.kill(pid, signal.SIGTERM)
