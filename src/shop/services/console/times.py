"""Times that a person types."""

from datetime import UTC, datetime


def time_typed(text: str) -> tuple[datetime | None, str]:
    """A time that a person typed, in UTC if it names no zone; and what is wrong with it."""
    if not text.strip():
        return None, ""
    try:
        found = datetime.fromisoformat(text.strip().removesuffix(" UTC"))
    except ValueError:
        return None, f"{text!r} is not a time like 2026-01-31 13:45 or 2026-01-31T13:45:10.5+01:00"
    return (found if found.tzinfo else found.replace(tzinfo=UTC)), ""
