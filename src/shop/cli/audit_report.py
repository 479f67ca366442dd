"""`shop audit`: prints the result, for a person or for a program."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial

from eventspine.audit import Audited, Section, audit
from eventspine.log import EventLog
from shop.cli.progress import shown
from shop.cli.streams import Console
from shop.platform.terminal import plain


async def audit_all(services: Sequence[Audited], log: EventLog, *, as_json: bool) -> bool:
    """Audit each service and print the results. Returns whether all checks passed."""
    sections: list[Section] = []
    for service in services:
        with shown(service.name) as progress:
            sections += await audit(service, log, partial(_reading, progress))
    holds = all(section.holds for section in sections)
    if as_json:
        verdict = {
            "holds": holds,
            "sections": [{**asdict(section), "holds": section.holds} for section in sections],
        }
        print(json.dumps(verdict, default=str))  # noqa: T201 - it is what was asked for
    else:
        _print(sections, holds=holds)
    return holds


def _reading(progress: Callable[[str, int, int], None], topic: str, done: int, total: int) -> None:
    progress(f"reading topic {topic}", done, total)


def _print(sections: Sequence[Section], *, holds: bool) -> None:
    console = Console(highlight=False, soft_wrap=True, emoji=False)
    for section in sections:
        mark = "[green]✓[/green]" if section.holds else "[red]✗[/red]"
        facts = ", ".join(
            f"{name.replace('_', ' ')} {value}" for name, value in section.facts.items()
        )
        console.print(f"{mark} [bold]{section.title}[/bold]  [dim]{facts}[/dim]")
        for problem in section.problems:
            said = plain(" ".join(problem.split()))
            console.print("    " + said, style="red", markup=False)
    if holds:
        console.print(
            "No event is lost, and none was applied twice: every table agrees with the log."
        )
    else:
        found = sum(len(section.problems) for section in sections)
        console.print(f"{found} problem(s) found. Each line above says what to do.", style="red")
