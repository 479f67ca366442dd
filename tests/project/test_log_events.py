"""Log events have stable names, and the table in docs/operations.md has each with its level and fields."""

import ast
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = [
    path for package in ("eventspine", "shop") for path in (ROOT / "src" / package).rglob("*.py")
]

LEVELS = ("debug", "info", "warning", "error", "exception", "critical")
NAME = re.compile(r"[a-z_]+(\.[a-z_]+)*\.[a-z_]+(ing|ed)")


class LogEvent(NamedTuple):
    name: str
    level: str
    fields: frozenset[str]


def events_in(source: str) -> Iterator[LogEvent]:
    """Raises `ValueError` for a name that can't be read in the source."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        fields = frozenset(word.arg for word in node.keywords if word.arg)
        match node:
            case ast.Call(
                func=ast.Name("Backoff"), args=[ast.Name(), ast.Constant(str(component))]
            ):
                yield LogEvent(f"{component}.waiting", "warning", fields | {"reason"})
                yield LogEvent(f"{component}.recovered", "info", fields | {"after_failures"})
            case ast.Call(
                func=ast.Attribute(attr="_say_now_and_then"), args=[ast.Constant(name), _]
            ):
                yield LogEvent(str(name), "warning", frozenset({"limit", "count"}))
            case ast.Call(func=ast.Attribute(ast.Name("LOG" | "_LOG"), level)) if level in LEVELS:
                yield from _logged(node, level, fields)


def _logged(call: ast.Call, level: str, fields: frozenset[str]) -> Iterator[LogEvent]:
    match call.args:
        case [ast.Constant(str(name))] if level == "exception" or "exc_info" in fields:
            yield LogEvent(name, "error", fields - {"exc_info"} | {"exception"})
        case [ast.Constant(str(name))]:
            yield LogEvent(name, level, fields)
        case [ast.Name("log_event")]:
            """Given by the caller, which is looked at."""
        case _:
            raise ValueError(f"not one stable name: {ast.unparse(call)}")


@cache
def in_source() -> Sequence[LogEvent]:
    return [event for path in SOURCES for event in events_in(path.read_text())]


def in_page(page: str) -> dict[str, tuple[str, set[str]]]:
    section = page.partition("\n## Log events\n")[2].partition("\n## ")[0]
    rows = re.findall(
        r"^\| `([^`]+)` \| (\w+) \| ([^|]*) \| [^|]+ \| [^|]+ \|$", section, re.MULTILINE
    )
    return {name: (level, set(re.findall(r"`([^`]+)`", fields))) for name, level, fields in rows}


def test_each_log_event_is_named_by_a_component_and_a_participle() -> None:
    assert [event.name for event in in_source() if not NAME.fullmatch(event.name)] == []


def test_the_page_lists_each_log_event_of_the_source_and_no_other() -> None:
    listed = in_page((ROOT / "docs/operations.md").read_text())
    assert sorted(listed) == sorted({event.name for event in in_source()})


@pytest.mark.parametrize("event", sorted(in_source()), ids=lambda event: event.name)
def test_the_page_has_its_level_and_its_fields(event: LogEvent) -> None:
    level, fields = in_page((ROOT / "docs/operations.md").read_text())[event.name]
    assert level == event.level
    assert event.fields <= fields


@pytest.mark.parametrize(
    "source", ['_LOG.info(f"{who} waits")', '_LOG.info("away: %s", why)', "LOG.error(NAMES[0])"]
)
def test_a_name_that_can_not_be_searched_for_is_refused(source: str) -> None:
    with pytest.raises(ValueError, match="not one stable name"):
        list(events_in(source))
