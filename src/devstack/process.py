"""One child process: its log, its readiness, the reason of its end, and how it is stopped."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from devstack.files import Account, make_folder
from shop.platform.log_files import LIMIT, cut
from shop.platform.processes.ready import READY, READY_FD

FIRST_SIGNAL = 0.8
"""The share of the time for the first signal, if there is a second one."""

_TAIL = 8 * 1024
_LONGEST_LINE = 300
_PR_SET_PDEATHSIG = 1
# Loaded here and not in the child, because very little is safe between fork and exec.
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


class LogFile:
    """The log file of a child.

    The child opens it in append mode. So this process can truncate it at any time, and the child's next
    line is then at the start. This needs no thread and no pipe, and the child never waits for its supervisor.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._run_began = 0
        self._followed = 0

    def open(self) -> int:
        """A file descriptor for a child that starts now. The present content belongs to earlier runs."""
        make_folder(self.path.parent)
        self.cut()
        fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
        self._run_began = self._followed = os.fstat(fd).st_size
        return fd

    def cut(self, limit: int = LIMIT) -> None:
        """Truncate the file: see `log_files.cut`."""
        if cut(self.path, limit):
            self._run_began = self._followed = 0

    def tail(self) -> list[str]:
        """The last lines of the latest run, about 8 KiB."""
        try:
            with self.path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(self._run_began, size - _TAIL))
                text = file.read().decode(errors="replace")
        except OSError:
            return []
        return [line.rstrip() for line in text.splitlines() if line.strip()]

    def follow(self) -> Iterator[str]:
        """The whole lines written since the last call."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._followed)
                whole, newline, _ = file.read().rpartition(b"\n")
        except OSError:
            return
        self._followed += len(whole) + len(newline)
        yield from whole.decode(errors="replace").splitlines()


class Process:
    """A `Server` that runs one command.

    It is ready when `answers()` is true. Without `answers`, it is ready when it has written a line to the
    pipe of `SHOP_READY_FD`. It runs in its own session, so Ctrl-C in the terminal reaches only the
    supervisor, which then stops all servers in order. On Linux it also gets the first of its
    `stop_signals` when the *thread* that started it ends, even by `kill -9`. So start it from a thread
    that lives as long as the process should.

    `telling` marks log lines that explain why it ended ("FATAL:"). Without such a line, the last line is
    the reason.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        answers: Callable[[], bool] | None = None,
        stop_signals: Sequence[signal.Signals] = (signal.SIGTERM,),
        account: Account | None = None,
        telling: str = "",
    ) -> None:
        self.name = name
        self.argv = list(argv)
        self.log = LogFile(log)
        self.stop_signals = stop_signals
        self.account = account
        self._env = env
        self._answers = answers
        self._telling = telling
        self._popen: subprocess.Popen[bytes] | None = None
        self._ready_pipe: int | None = None
        self._ready = False
        self._asked_to_stop = False

    @property
    def pid(self) -> int | None:
        """The process id of the latest run; None before the first start."""
        return self._popen.pid if self._popen else None

    @property
    def returncode(self) -> int | None:
        """The exit status; None while it runs, negative for a signal."""
        return self._popen.poll() if self._popen else None

    def start(self) -> None:
        self._forget_pipe()
        self._ready = self._asked_to_stop = False
        env = dict(os.environ if self._env is None else self._env)
        self._ready_pipe, ready_fd = os.pipe()
        os.set_blocking(self._ready_pipe, False)
        log = self.log.open()
        try:
            self._popen = spawn(
                self.argv,
                account=self.account,
                death_signal=self.stop_signals[0],
                env=env | {READY_FD: str(ready_fd)},
                stdout=log,
                pass_fds=(ready_fd,),
            )
        finally:
            os.close(log)
            os.close(ready_fd)

    def ready(self) -> bool:
        if not self._ready and self.returncode is None:
            self._ready = self._has_notified() if self._answers is None else self._answers()
        return self._ready

    def ended(self) -> str | None:
        if self._popen is None:
            return "it was not started"
        status = self._popen.poll()
        return None if status is None else why_ended(status, self.last_words())

    def last_words(self) -> str:
        """The log line that explains best why it ended; empty if the log has none."""
        lines = self.log.tail()
        telling = [line for line in lines if self._telling in line]
        return (telling or lines or [""])[-1][:_LONGEST_LINE]

    def terminate(self) -> None:
        if self._popen and not self._asked_to_stop:
            self._asked_to_stop = True
            self._popen.send_signal(self.stop_signals[0])

    def stop(self, timeout: float) -> None:
        """Send the stop signals one after another, and then SIGKILL. Most of the time is for the first."""
        self._forget_pipe()
        if self._popen is None:
            return
        self.terminate()
        for number, stop_signal in enumerate(self.stop_signals):
            if number:
                self._popen.send_signal(stop_signal)
            with suppress(subprocess.TimeoutExpired):
                self._popen.wait(timeout * (1 - FIRST_SIGNAL if number else FIRST_SIGNAL))
                return
        self._popen.kill()
        with suppress(subprocess.TimeoutExpired):  # one in a system call ends later
            self._popen.wait(1.0)

    def wait(self, pause: Callable[[float], None] = time.sleep) -> int:
        """Wait until it ends by itself. Returns its exit status."""
        while (status := self.returncode) is None:
            pause(0.02)
        return status

    def _has_notified(self) -> bool:
        if self._ready_pipe is None:
            return False
        try:
            said = os.read(self._ready_pipe, len(READY))
        except BlockingIOError:
            return False
        if said == READY:
            self._forget_pipe()
        return said == READY

    def _forget_pipe(self) -> None:
        if self._ready_pipe is not None:
            os.close(self._ready_pipe)
            self._ready_pipe = None


def spawn(
    argv: Sequence[str],
    *,
    account: Account | None,
    death_signal: signal.Signals,
    env: Mapping[str, str],
    stdout: int,
    pass_fds: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start a child in its own session, with stderr in stdout. It ends when this thread ends."""
    return subprocess.Popen(  # noqa: S603 - the programs are ours
        list(argv),
        env=env,
        cwd="/" if account else None,  # the caller's directory may be closed to another user
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.STDOUT,
        pass_fds=pass_fds,
        start_new_session=True,
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=[] if account else None,
        # Runs after the change of user, which would reset what it sets. It makes only two system calls.
        preexec_fn=_die_with_parent(death_signal),  # noqa: PLW1509
    )


def _die_with_parent(death_signal: signal.Signals) -> Callable[[], None] | None:
    if _libc is None:
        return None
    prctl, parent, number = _libc.prctl, os.getpid(), int(death_signal)

    def in_child() -> None:
        prctl(_PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:  # the parent died before the signal was requested
            os.kill(os.getpid(), signal.SIGKILL)

    return in_child


def why_ended(status: int, last_words: str = "") -> str:
    """Describes an exit status (negative for a signal), with the last words if it is a failure."""
    if status < 0:
        try:
            return f"killed by {signal.Signals(-status).name}"
        except ValueError:
            return f"killed by signal {-status}"
    return f"exit status {status}" + (f": {last_words}" if status and last_words else "")


def command_of(pid: int) -> str:
    """The command line of a process; empty if the process does not exist or is a zombie."""
    if Path("/proc/self").exists():
        try:
            return os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes()).replace("\0", " ")
        except (FileNotFoundError, ProcessLookupError):
            return ""
    ps = ["ps", "-ww", "-o", "args=", "-p", str(pid)]
    return os.fsdecode(subprocess.run(ps, capture_output=True, check=False).stdout).strip()  # noqa: S603 - our own program and words
