"""`If-Match`: execute a request only if the resource has not changed (RFC 9110, 13.1.1)."""

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
        description='The ETag that you read, such as `"3"`. The answer is 412 if the resource has changed since.',
        examples=['"1"'],
    ),
]


def versions(if_match: str | None) -> list[int] | None:
    """The versions that match; None if any version matches. Raises `Invalid` for a malformed ETag."""
    if if_match is None or if_match.strip() == "*":
        return None
    if not re.fullmatch(LIST, if_match):
        raise Invalid.field(
            "header", "if-match", 'must be an ETag from an earlier answer, like "3"'
        )
    # The comparison is the strong one. A weak or unknown tag matches no version.
    tags = re.findall(_TAG, if_match)
    return [int(tag[1:-1]) for tag in tags if re.fullmatch('"[1-9][0-9]{0,17}"', tag)]
