"""`--since` and `--grep`: the same in every command that has them."""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from shop.cli.common import stop

Since = Annotated[
    str | None,
    typer.Option(
        "--since",
        metavar="TIME",
        help="show only what is not older than this: 90s, 15m, 2h, 3d, or a time like 2026-11-26T12:00:00Z",
    ),
]
Grep = Annotated[
    str | None,
    typer.Option(
        "--grep",
        metavar="PATTERN",
        help="show only what this regular expression matches; upper and lower case are the same",
    ),
]

_LONGEST = timedelta(days=36_500)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def time_of(text: str, option: str) -> datetime:
    """A time with a time zone. Ends the command if it is none."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        stop(f"{option} {text} is not a time like 2026-11-26T12:00:00Z")
    if time.tzinfo is None:
        stop(f"{option} {text} has no time zone: add Z for UTC, or one like +01:00")
    return time


def since_or_stop(text: str | None) -> datetime | None:
    """What `--since` means: so long before now, or at a time."""
    if text is None:
        return None
    span = _span(text, "--since")
    if span is not None:
        return datetime.now(UTC) - span
    if not text[:4].isdecimal():
        stop(
            f"--since {text} is neither a time span like 90s, 15m, 2h or 3d nor a time like 2026-11-26T12:00:00Z"
        )
    return time_of(text, "--since")


def span_or_stop(text: str, option: str) -> timedelta:
    """A time span like 90s. Ends the command if it is none."""
    span = _span(text, option)
    if span is None:
        stop(f"{option} {text} is not a time span like 90s, 15m, 2h or 3d")
    return span


def _span(text: str, option: str) -> timedelta | None:
    """None if it is not written like one."""
    parts = re.fullmatch(r"([0-9]{1,9})([smhd])", text)
    if parts is None:
        return None
    span = timedelta(**{_UNITS[parts[2]]: int(parts[1])})
    if span > _LONGEST:
        stop(f"{option} {text} is longer than {_LONGEST.days} days")
    return span


def pattern_or_stop(text: str | None) -> re.Pattern[str] | None:
    """What `--grep` looks for."""
    try:
        return None if text is None else re.compile(text, re.IGNORECASE)
    except (re.error, OverflowError) as error:
        stop(f"--grep {text} is not a regular expression: {error}")
