"""Makes text safe for a terminal, whatever its author and whatever the terminal can show.

Names, keys and errors come from clients, and on Kafka from any writer. A terminal executes what it shows: an escape
sequence in a name can clear the screen, rewrite earlier lines, or worse. And not every terminal has every
character.
"""

import codecs
import io
from typing import TextIO

STAND_INS = {"·": "-", "│": "|", "…": "...", "✓": "ok", "✗": "no"}
"""For our own signs, where the encoding has none of them."""


def plain(text: object) -> str:
    """On one line, and whatever is no printable character by its number, as Python writes it."""
    shown = str(text)
    if shown.isprintable():
        return shown
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in shown
    )


def accept_any_character(stream: TextIO | None) -> None:
    """From here on no character is an error: what the stream's encoding lacks is written by its
    number, our own signs by a stand-in.
    """
    if isinstance(stream, io.TextIOWrapper):
        codecs.register_error("eventshop.stand_in", _stand_in)
        stream.reconfigure(errors="eventshop.stand_in")


def _stand_in(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    missing = error.object[error.start : error.end]
    shown = (STAND_INS.get(char) or ascii(char)[1:-1] for char in missing)
    return "".join(shown), error.end
