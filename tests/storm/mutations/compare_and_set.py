"""A cursor is moved whoever has moved it in the meantime.

A member that is frozen between reading and applying for longer than its group waits for it brings
it to light: thawed, it applies again what another has applied since, and moves the checkpoint back.
"""

from eventspine import applying
from tests.storm.mutations import replace_text

FAULTS = ("read",)


def apply() -> None:
    replace_text(
        applying,
        "_MOVE",
        "AND c.next_offset = %(from_offset)s AND c.last_position = %(from_position)s",
        # Always true, and takes the same parameters.
        "AND (c.next_offset = %(from_offset)s AND c.last_position = %(from_position)s) IS NOT NULL",
    )
