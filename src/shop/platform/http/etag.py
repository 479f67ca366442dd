"""`If-Match`: do it only if nothing has changed since (RFC 9110, 13.1.1)."""

import re
from typing import Annotated

from fastapi import Header

from shop.platform.problems import Invalid

_TAG = r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"'
LIST = rf"[ \t]*(?:\*|{_TAG}(?:[ \t]*,[ \t]*{_TAG})*)[ \t]*"

IfMatch = Annotated[
    str | None,
    Header(
        alias="if-match",
        json_schema_extra={"pattern": f"^{LIST}$"},
        description='the ETag you read, as `"3"`; 412 if it has changed since',
        examples=['"1"'],
    ),
]


def versions(if_match: str | None) -> list[int] | None:
    """The versions that will do; None for any. Raises `Invalid` for what is no ETag."""
    if if_match is None or if_match.strip() == "*":
        return None
    if not re.fullmatch(LIST, if_match):
        raise Invalid.field("header", "if-match", 'must be an ETag as it was given, like "3"')
    # The comparison is the strong one: a weak tag, or one we never gave, matches nothing.
    tags = re.findall(_TAG, if_match)
    return [int(tag[1:-1]) for tag in tags if re.fullmatch('"[1-9][0-9]{0,17}"', tag)]
