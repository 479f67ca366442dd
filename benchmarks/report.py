"""Prints the results as a table in the terminal, and writes them as a page in docs/."""

import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks.stage import program

_DOCS = Path(__file__).parents[1] / "docs"


class Page(NamedTuple):
    """The page that one complete run writes."""

    name: str
    introduction: str

    @property
    def path(self) -> Path:
        return _DOCS / self.name


BENCHMARKS = Page(
    "benchmarks.md",
    """\
# Benchmarks

`make bench` measured these figures in one run and wrote this page. Ratios are more reliable than absolute figures:
both sides of a ratio were measured in turns, on the same machine, with the same PostgreSQL, at most minutes apart. A
figure is the median of the rounds of that run, with the lowest and the highest in brackets.

[Five million events](benchmarks-history.md) shows the speed of a shop with a long history.
""",
)

HISTORY = Page(
    "benchmarks-history.md",
    """\
# Five million events

This page compares the shop after five million events with the shop after fifty thousand, and checks that pruned
tables stay small. `make bench-history` measured these figures in one run and wrote this page. A figure is the median
of the rounds of that run, with the lowest and the highest in brackets. [Benchmarks](benchmarks.md) has all other
figures.
""",
)


@dataclass(frozen=True)
class Row:
    """One line of the table: a value for each round, and the required limits."""

    what: str
    values: Sequence[float]
    unit: str
    """"×", "/s", "ms", "MB" or "%"."""
    at_least: float | None = None
    """The required limit: a minimum, or a maximum if `less_is_better`."""
    want: float | None = None
    less_is_better: bool = False
    measured: str = ""
    """The absolute figures from which the value was computed."""

    def reached(self, limit: float | None) -> bool | None:
        if limit is None:
            return None
        if self.less_is_better:
            return median(self.values) <= limit
        return median(self.values) >= limit

    @property
    def missed(self) -> bool:
        return self.reached(self.at_least) is False

    @property
    def value(self) -> str:
        return spread(self.values, self.unit)

    def limit(self, limit: float | None) -> str:
        if limit is None:
            return "–"
        sign = "≤ " if self.less_is_better else ""
        return f"{sign}{figure(limit, self.unit)} {'✓' if self.reached(limit) else '✗'}"


@dataclass
class Section:
    """The results of one benchmark."""

    title: str
    how: str
    rows: list[Row] = field(default_factory=list)
    left_out: str = ""
    """Why the benchmark was skipped."""
    more: str = ""
    """Markdown, below the figures."""
    pictures: Mapping[str, str] = field(default_factory=dict)
    """SVG, by the name of the file beside the page."""


def figure(number: float, unit: str = "") -> str:
    if number >= 1000:
        text = f"{number:,.0f}"
    elif number >= 100:
        text = f"{number:.0f}"
    elif number >= 10:
        text = f"{number:.1f}"
    else:
        text = f"{number:.2f}"
    return text + (f" {unit}" if unit not in {"", "/s"} else unit)


def spread(values: Sequence[float], unit: str) -> str:
    if len(values) == 1:
        return figure(values[0], unit)
    return f"{figure(median(values), unit)} ({figure(min(values))}–{figure(max(values))})"


def show(console: Console, sections: Sequence[Section]) -> None:
    table = Table(title="benchmarks", title_justify="left", show_lines=True)
    for heading in ("what", "median (min–max)", "required", "target"):
        table.add_column(heading, overflow="fold")
    for section in sections:
        for row in section.rows:
            what = f"{row.what}\n[dim]{row.measured}[/dim]" if row.measured else row.what
            limits = (row.limit(row.at_least), row.limit(row.want))
            table.add_row(what, row.value, *limits, style="red" if row.missed else "")
    console.print(table)
    for section in sections:
        if section.left_out:
            console.print(f"left out: {section.title}: {section.left_out}", style="yellow")


def write(page: Page, sections: Sequence[Section], rounds: int, disk: str, load: float) -> None:
    _DOCS.mkdir(exist_ok=True)
    page.path.write_text(_text(page, sections, rounds, disk, load))
    for section in sections:
        for name, picture in section.pictures.items():
            (_DOCS / name).write_text(picture)


def _text(page: Page, sections: Sequence[Section], rounds: int, disk: str, load: float) -> str:
    parts = [page.introduction, "## The machine\n", _machine(rounds, disk, load), "## Results\n"]
    lines = [
        "| what | median (min–max) | required | target |",
        "| --- | --- | --- | --- |",
    ]
    for section in sections:
        lines += [
            f"| {row.what} | {row.value} | {row.limit(row.at_least)} | {row.limit(row.want)} |"
            for row in section.rows
        ]
    parts.append("\n".join(lines) + "\n")
    parts.append("## How each was measured\n")
    for section in sections:
        parts.append(f"### {section.title}\n\n{section.how.strip()}\n")
        if section.left_out:
            parts.append(f"Left out of this run: {section.left_out}\n")
        figures = [f"- {row.what}: {row.measured}" for row in section.rows if row.measured]
        if figures:
            parts.append("\n".join(figures) + "\n")
        if section.more:
            parts.append(section.more)
    return "\n".join(parts)


def _machine(rounds: int, disk: str, load: float) -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    version = subprocess.check_output([program("postgres"), "--version"], text=True).split()[-1]
    facts = {
        "CPU": f"{_cpu()}, {os.cpu_count()} cores, shared by load, service and database",
        "memory": f"{memory:.0f} GiB",
        "disk": disk,
        "system": f"{platform.system()} {platform.release()}",
        "PostgreSQL": f"{version}, fsync and synchronous_commit on",
        "Python": platform.python_version(),
        "rounds": str(rounds),
        "other work": f"load average {load:.1f} when it began",
    }
    lines = ["| | |", "| --- | --- |", *(f"| {name} | {fact} |" for name, fact in facts.items())]
    return "\n".join(lines) + "\n"


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
