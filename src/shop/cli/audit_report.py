"""`shop audit`: prints the result, for a person or for a program."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial

from eventspine.audit import audit
from eventspine.audit_sections import Audited, Section
from eventspine.log import EventLog
from shop.cli.console import Console
from shop.cli.progress import shown
from shop.platform.terminal import plain


async def audit_all(
    services: Sequence[Audited],
    log: EventLog,
    pattern: re.Pattern[str] | None,
    *,
    as_json: bool,
) -> bool:
    """Audit each service and print the results, only those with the pattern if there is one.

    Returns whether all checks passed.
    """
    sections: list[Section] = []
    for service in services:
        with shown(service.name) as progress:
            sections += await audit(service, log, partial(_reading, progress))
    holds = all(section.holds for section in sections)
    wanted = sections if pattern is None else list(_matching(sections, pattern))
    if as_json:
        verdict = {
            "holds": holds,
            "sections": [{**asdict(section), "holds": section.holds} for section in wanted],
        }
        print(json.dumps(verdict, default=str))  # noqa: T201 - it is what was asked for
    else:
        _print(wanted)
        _say_verdict(sections)
    return holds


def _matching(sections: Sequence[Section], pattern: re.Pattern[str]) -> Iterator[Section]:
    """The sections whose title matches, whole, and others with those of their problems that match."""
    for section in sections:
        problems = [each for each in section.problems if pattern.search(each)]
        if pattern.search(section.title):
            yield section
        elif problems:
            yield replace(section, problems=problems)


def _reading(progress: Callable[[str, int, int], None], topic: str, done: int, total: int) -> None:
    progress(f"reading topic {topic}", done, total)


def _console() -> Console:
    return Console(highlight=False, soft_wrap=True, emoji=False)


def _print(sections: Sequence[Section]) -> None:
    console = _console()
    for section in sections:
        mark = "[green]✓[/green]" if section.holds else "[red]✗[/red]"
        facts = ", ".join(
            f"{name.replace('_', ' ')} {value}" for name, value in section.facts.items()
        )
        console.print(f"{mark} [bold]{section.title}[/bold]  [dim]{facts}[/dim]")
        for problem in section.problems:
            said = plain(" ".join(problem.split()))
            console.print("    " + said, style="red", markup=False)


def _say_verdict(sections: Sequence[Section]) -> None:
    found = sum(len(section.problems) for section in sections)
    if found:
        said = f"{found} problem(s) found. Each of their lines says what to do."
        _console().print(said, style="red")
    else:
        _console().print(
            "No event is lost, and none was applied twice: every table agrees with the log."
        )
