"""Processes that are kept running, and stopped in order. All of them real."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from devstack.process import LogFile, Process
from devstack.supervisor import StartFailed, Supervisor, wait_ready
from shop.platform.processes.ready import notify_ready
from tests.support.waiting import SLOWER, until

READY = "import os, sys, time, signal; os.write(int(os.environ['SHOP_READY_FD']), b'ready\\n'); "
STAY = "time.sleep(60)"
STUBBORN = "signal.signal(signal.SIGTERM, signal.SIG_IGN); "


def python(code: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", code]


class Enough(Exception):
    """What a test waited for has happened."""


class Watched:
    """A supervisor, what it said, and a way to let it work until something has happened."""

    def __init__(self, logs: Path) -> None:
        self.said: list[str] = []
        self.supervisor = Supervisor(say=self.said.append, pause=self._pause)
        self._logs = logs
        self._enough: Callable[[], bool] = lambda: False
        self._deadline = float("inf")

    def process(self, name: str, code: str) -> Process:
        return Process(name, python(code), log=self._logs / f"{name}.log")

    def until(self, enough: Callable[[], bool], timeout: float = 10.0) -> None:
        self._enough, self._deadline = enough, time.monotonic() + timeout
        with suppress(Enough):
            self.supervisor.watch()
        self._enough = lambda: False

    def _pause(self, seconds: float) -> None:
        if self._enough():
            raise Enough
        assert time.monotonic() < self._deadline, self.said
        time.sleep(seconds)


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    watched = Watched(tmp_path)
    yield watched
    watched.supervisor.stop(2.0)


def alive(pid: int | None) -> bool:
    assert pid
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_starting_returns_when_each_process_has_said_that_it_is_ready(watched: Watched) -> None:
    slow = watched.process("slow", f"import time; time.sleep(0.3); {READY}{STAY}")
    quick = watched.process("quick", READY + STAY)
    watched.supervisor.start(slow, quick, timeout=60)
    assert slow.ready()
    assert quick.ready()
    assert watched.said == []


def test_one_that_never_says_so_fails_the_start(watched: Watched) -> None:
    with pytest.raises(StartFailed, match=r"not ready after 0\.3 s: mute"):
        watched.supervisor.start(
            watched.process("open", READY + STAY),
            watched.process("mute", f"import time; {STAY}"),
            timeout=0.3,
        )


def test_a_server_that_dies_while_it_is_waited_for_says_why(watched: Watched) -> None:
    process = watched.process("broken", "raise ValueError('no such luck')")
    process.start()
    with pytest.raises(StartFailed, match=r"broken does not start: exit status 1: .*no such luck"):
        wait_ready(process, 60)


def test_a_process_that_dies_is_started_again_with_the_reason_shown(
    watched: Watched, tmp_path: Path
) -> None:
    fails_once = (
        f"import os; first = not os.path.exists({str(tmp_path / 'seen')!r});"
        f"open({str(tmp_path / 'seen')!r}, 'w').close();"
        f"print('the disk is full', flush=True);first and os._exit(3);{READY}{STAY}"
    )
    failing = watched.process("failing", fails_once)
    victim = watched.process("victim", READY + STAY)
    watched.supervisor.start(failing, victim, timeout=60)
    assert watched.said == [
        "failing ended: exit status 3: the disk is full; starting it again in 0.2 s"
    ]
    assert victim.pid
    os.kill(victim.pid, signal.SIGKILL)
    watched.until(lambda: "victim is ready again" in watched.said)
    assert watched.said[1:] == [
        "victim ended: killed by SIGKILL; starting it again in 0.2 s",
        "victim is ready again",
    ]


def test_pauses_grow_while_it_keeps_dying(watched: Watched) -> None:
    dying = watched.process("dying", READY + "time.sleep(0.1); sys.exit(1)")
    watched.supervisor.start(dying, timeout=60)
    watched.until(lambda: sum("ended" in line for line in watched.said) == 3)
    pauses = [line.rpartition(" in ")[2] for line in watched.said if "ended" in line]
    assert pauses == ["0.2 s", "0.4 s", "0.8 s"]


def test_one_that_never_comes_up_is_given_up_with_its_last_words(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("devstack.supervisor.FIRST_PAUSE", 0.01)
    broken = watched.process("broken", "raise SystemExit('no DATABASE_URL')")
    with pytest.raises(StartFailed, match="broken does not start: exit status 1: no DATABASE_URL"):
        watched.supervisor.start(broken, timeout=60)


def test_everything_stops_last_started_first_and_in_time(watched: Watched, tmp_path: Path) -> None:
    order = tmp_path / "order"

    def stage(name: str, before: str = "") -> Process:
        note = f"open({str(order)!r}, 'a').write({name!r} + '\\n')"
        obey = f"signal.signal(signal.SIGTERM, lambda *_: ({note}, os._exit(0)));"
        return watched.process(name, f"import signal; {before or obey} {READY}{STAY}")

    watched.supervisor.start(stage("database"), timeout=60)
    stubborn = stage("stubborn", before=STUBBORN)
    watched.supervisor.start(stage("api"), stubborn, timeout=60)
    began = time.monotonic()
    watched.supervisor.stop(1.5)
    assert time.monotonic() - began < 1.5 + SLOWER
    assert stubborn.ended() == "killed by SIGKILL"
    assert order.read_text().split() == ["api", "database"]


def test_a_process_has_its_own_time_to_stop_and_takes_none_from_others(watched: Watched) -> None:
    slowly = "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(1), os._exit(0)));"
    children = [
        watched.process(name, f"import signal; {slowly} {READY}{STAY}") for name in ("db", "api")
    ]
    watched.supervisor.start(children[0], timeout=60, stop_within=30)
    watched.supervisor.start(children[1], timeout=60, stop_within=30)
    watched.supervisor.stop(0.1)
    assert [child.ended() for child in children] == ["exit status 0", "exit status 0"]


def test_ctrl_c_in_the_terminal_does_not_reach_the_children(watched: Watched) -> None:
    child = watched.process("child", READY + STAY)
    watched.supervisor.start(child, timeout=60)
    assert child.pid
    assert os.getpgid(child.pid) != os.getpgid(0)
    assert os.getsid(child.pid) != os.getsid(0)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel must help")
def test_nothing_outlives_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from devstack.process import Process\n"
        f"child = Process('child', {python(READY + STAY)!r}, log=Path({str(tmp_path / 'log')!r}))\n"
        "child.start(); print(child.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        assert parent.stdout
        child = int(parent.stdout.readline())
        assert alive(child)
        parent.kill()

    def runs() -> bool:
        with suppress(FileNotFoundError, ProcessLookupError):
            return Path(f"/proc/{child}/cmdline").read_bytes() != b""
        return False

    until(lambda: not runs(), "the child has ended")


def test_a_log_that_has_grown_is_cut_while_its_process_writes(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "child.log")
    with os.fdopen(log.open(), "w", buffering=1) as child:
        child.write("first\nsecond\nunfini")
        assert list(log.follow()) == ["first", "second"]
        log.cut(limit=5)
        child.write("third\n")
        assert list(log.follow()) == ["third"]
        assert log.tail() == ["third"]
    assert (tmp_path / "child.log.1").read_text() == "first\nsecond\nunfini"


def test_last_words_are_of_the_latest_run(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "child.log")
    log.path.write_text("an error of yesterday\n")
    os.close(log.open())
    assert log.tail() == []


def test_readiness_is_reported_once_and_only_to_a_listener(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("SHOP_READY_FD", raising=False)
    notify_ready()
    listening, ready_fd = os.pipe()
    monkeypatch.setenv("SHOP_READY_FD", str(ready_fd))
    notify_ready()
    notify_ready()
    with os.fdopen(listening, "rb") as pipe:
        assert pipe.read() == b"ready\n"
