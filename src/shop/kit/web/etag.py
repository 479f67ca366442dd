"""`If-Match`: do it only if nothing has changed since (RFC 9110, 13.1.1)."""

import re
from typing import Annotated

from fastapi import Header

from shop.kit.web.problems import Invalid

IfMatch = Annotated[
    str | None,
    Header(
        alias="if-match",
        max_length=200,
        description='the ETag you read, as `"3"`; 412 if it has changed since',
        examples=['"1"'],
    ),
]

_TAG = re.compile(r'\s*(W/)?"([\x21\x23-\x7e\x80-\xff]*)"\s*')


def versions(if_match: str | None) -> list[int] | None:
    """The versions that will do; None for any. Raises `Invalid` for what is no ETag."""
    if if_match is None or if_match.strip() == "*":
        return None
    found = []
    for tag in if_match.split(","):
        match = _TAG.fullmatch(tag)
        if match is None:
            raise Invalid.field("header", "If-Match", 'Must be an ETag as it was given: "3"')
        weak, value = match.groups()
        # The comparison is the strong one: a weak tag, or one we never gave, matches nothing.
        if not weak and re.fullmatch(r"[1-9][0-9]{0,17}", value):
            found.append(int(value))
    return found
