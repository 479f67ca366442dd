"""What a log may say of an error: its text without the data that caused it.

PostgreSQL quotes whole rows ("Failing row contains …"), and Pydantic quotes the values that it refuses. In a log
they would be personal data that no erasure reaches.
"""

import traceback
from collections.abc import Iterator

import psycopg
from pydantic_core import ValidationError


def text_of(error: BaseException) -> str:
    """The error's text, without values of rows, events or requests."""
    match error:
        case psycopg.Error() if error.diag.message_primary is not None:
            # Not its detail and its context, which quote rows. Class 22: `invalid input syntax: "…"`.
            primary = error.diag.message_primary
            is_about_a_value = (error.sqlstate or "").startswith("22")
            return primary.partition(":")[0] if is_about_a_value else primary
        case ValidationError():
            found = error.errors(include_url=False, include_context=False, include_input=False)
            return "; ".join(": ".join((*map(str, each["loc"]), each["msg"])) for each in found)
    return str(error)


def traceback_of(error: BaseException) -> str:
    """The traceback as Python prints it, with the errors that led to this one, by `text_of`."""
    return "\n".join(_lines(error, set())).rstrip("\n")


def _lines(error: BaseException, seen: set[int]) -> Iterator[str]:
    seen.add(id(error))
    cause, context = error.__cause__, error.__context__
    if cause is not None and id(cause) not in seen:
        yield from _lines(cause, seen)
        yield "\nThe above exception was the direct cause of the following exception:\n"
    elif context is not None and not error.__suppress_context__ and id(context) not in seen:
        yield from _lines(context, seen)
        yield "\nDuring handling of the above exception, another exception occurred:\n"
    yield "Traceback (most recent call last):"
    yield "".join(traceback.format_tb(error.__traceback__)).rstrip("\n")
    kind = type(error)
    named = kind.__qualname__
    if kind.__module__ not in {"builtins", "__main__"}:
        named = f"{kind.__module__}.{named}"
    yield f"{named}: {text_of(error)}"
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield from _lines(one, seen)
