"""How far long work is: rate, share and time left, on a terminal."""

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

from shop.cli.streams import Console

SO_FAR: dict[str, tuple[int, int]] = {}
"""How much of each step of this command is done, and of how much. A command is one process, and does one thing."""


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f}/s" if speed else "", style="progress.data.speed")


@contextmanager
def shown(service: str) -> Iterator[Callable[[str, int, int], None]]:
    """A line for each thing that is done. The function is told what, how much of it is done, and of how much."""
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
