"""Lists in pages: `{"items": […], "next_cursor": "…" | null}`, with `limit` and `cursor`.

A cursor is the id the next page starts below, in base64 with a mark that tells it from something
made up. It is not a secret and not a promise: it says where to go on, and no more.
"""

import base64
import binascii
import struct
from typing import Annotated

from fastapi import Query

from shop.kit.web.problems import Invalid

Limit = Annotated[int, Query(ge=1, le=100, description="items a page")]
Cursor = Annotated[
    str | None, Query(max_length=100, description="the `next_cursor` of the page before")
]

DEFAULT_LIMIT = 50

_FORMAT = struct.Struct(">2sq")
_MARK = b"c1"


def encode_cursor(below: int) -> str:
    return base64.urlsafe_b64encode(_FORMAT.pack(_MARK, below)).rstrip(b"=").decode()


def decode_cursor(cursor: str | None) -> int | None:
    """The id to go on below; None for the first page. Raises `Invalid` for a made-up one."""
    if cursor is None:
        return None
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        mark, below = _FORMAT.unpack(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (ValueError, binascii.Error, struct.error):
        mark, below = b"", 0
    if mark != _MARK or below < 1:
        raise Invalid.field("query", "cursor", "This is no cursor that a page was given with")
    return int(below)
