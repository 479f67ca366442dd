"""How far long work is: rate, share and time left, on a terminal.

For a program that runs a command, there is EVENTSHOP_PROGRESS=lines: then stderr has lines like
`progress: {"what": "reading topic users", "done": 5000, "total": 80000}`.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from shop.cli.console import Console
from shop.cli.streams import tell

AS_LINES = "EVENTSHOP_PROGRESS"
LINE = "progress: "
_LINE_EVERY = 0.2  # seconds

SO_FAR: dict[str, tuple[int, int]] = {}
"""How much of each step of this command is done, and of how much. A command is one process, and does one thing."""


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f}/s" if speed else "", style="progress.data.speed")


@contextmanager
def shown(service: str) -> Iterator[Callable[[str, int, int], None]]:
    """A line for each thing that is done. The function is told what, how much of it is done, and of how much."""
    if os.environ.get(AS_LINES) == "lines":
        yield _lines(service)
        return
    console = Console(stderr=True)
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        _Rate(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    tasks: dict[str, TaskID] = {}

    def progress(what: str, done: int, total: int) -> None:
        if what not in tasks:
            tasks[what] = bars.add_task(f"{service}: {what}")
        SO_FAR[f"{service}: {what}"] = (done, total)
        bars.update(tasks[what], completed=done, total=total)

    with bars:
        yield progress


def _lines(service: str) -> Callable[[str, int, int], None]:
    told: dict[str, float] = {}

    def progress(what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if what in told and done < total and now - told[what] < _LINE_EVERY:
            return
        told[what] = now
        tell(LINE + json.dumps({"what": f"{service}: {what}", "done": done, "total": total}))

    return progress
