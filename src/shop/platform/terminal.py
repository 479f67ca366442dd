"""What others wrote, on a terminal.

Names, keys and errors come from clients, and on Kafka from anybody. A terminal obeys what it is shown:
an escape sequence in a name can clear the screen, rewrite the lines above, or worse.
"""


def plain(text: object) -> str:
    """On one line, and whatever is no printable character by its number, as Python writes it."""
    shown = str(text)
    if shown.isprintable():
        return shown
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in shown
    )
