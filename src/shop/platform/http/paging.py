"""Lists in pages: `{"items": […], "next_cursor": "…" | null}`, with `limit` and `cursor`.

A cursor is the id below which the next page starts, in base64, with a prefix that distinguishes it from an invented
one. It is neither secret nor a promise.
"""

import base64
import re
import struct
from typing import Annotated

from fastapi import Query
from pydantic import Field

from shop.platform.http.fields import MAX_BIGINT, PLAIN
from shop.platform.problems import Invalid

_FORMAT = struct.Struct(">2sq")
_MARK = b"c1"
# Matches only the prefix and a 63-bit number, in base64.
_PATTERN = "Yz[EF][A-Za-z0-9_-]{10}[AEIMQUYcgkosw048]"

Limit = Annotated[
    int, Field(ge=1, le=100), PLAIN, Query(description="The number of items per page.")
]
Cursor = Annotated[
    str | None,
    Query(
        description="The `next_cursor` of the previous page.",
        json_schema_extra={"pattern": f"^{_PATTERN}$"},
    ),
]

DEFAULT_LIMIT = 50


def encode_cursor(below: int) -> str:
    return base64.urlsafe_b64encode(_FORMAT.pack(_MARK, below)).rstrip(b"=").decode()


def decode_cursor(cursor: str | None) -> int:
    """The id below which the page starts. Raises `Invalid` for an invented cursor."""
    if cursor is None:
        return MAX_BIGINT
    if not re.fullmatch(_PATTERN, cursor):
        raise Invalid.field("query", "cursor", "Invalid cursor")
    _, below = _FORMAT.unpack(base64.urlsafe_b64decode(cursor + "=="))
    return int(below)
