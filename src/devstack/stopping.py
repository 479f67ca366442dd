"""How `shop up` notices Ctrl-C: in its pauses, and nowhere else."""

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from devstack.process import LogFile
from devstack.supervisor import Pause, say


class Stopped(Exception):
    """A signal asked the shop to stop. Only a pause raises it, so it never interrupts a step."""


@contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Yields whether a stop signal has arrived. Several signals count as one."""
    asked = False

    def note(_number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        asked = True

    before = {
        number: signal.signal(number, note)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        # Under nohup, a closed terminal must not stop the shop.
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def pause_of(stop_asked: Callable[[], bool], logs: Sequence[LogFile], *, verbose: bool) -> Pause:
    """A pause that notices Ctrl-C and truncates large log files."""

    def pause(seconds: float) -> None:
        if stop_asked():
            raise Stopped
        time.sleep(seconds)
        for log in logs:
            if verbose:
                for line in log.follow():
                    say(f"{log.path.stem:>13} │ {line}")
            log.cut()
        if stop_asked():
            raise Stopped

    return pause
