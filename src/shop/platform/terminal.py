"""Makes text from any source safe for any terminal.

Names, keys and errors come from clients, and on Kafka from any writer. A terminal executes what it shows: an escape
sequence in a name can clear the screen, rewrite earlier lines, or worse. And not every terminal has every
character.
"""

import codecs
import io
from typing import TextIO

STAND_INS = {"·": "-", "│": "|", "…": "...", "✓": "ok", "✗": "no"}
"""Replacements for symbols that the output uses, if the encoding lacks them."""


def plain(text: object) -> str:
    """The text on one line. Characters that are not printable become Python escapes."""
    shown = str(text)
    if shown.isprintable():
        return shown
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in shown
    )


def accept_any_character(stream: TextIO | None) -> None:
    """Make the stream accept every character. If its encoding lacks a character, the stream writes an escape, or
    the replacement of a symbol.
    """
    if isinstance(stream, io.TextIOWrapper):
        codecs.register_error("eventshop.stand_in", _stand_in)
        stream.reconfigure(errors="eventshop.stand_in")


def _stand_in(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    missing = error.object[error.start : error.end]
    shown = (STAND_INS.get(char) or ascii(char)[1:-1] for char in missing)
    return "".join(shown), error.end
