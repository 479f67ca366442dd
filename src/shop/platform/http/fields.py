"""Field types that several schemas share, with the limits of what the database can hold."""

import re
from decimal import Decimal
from typing import Annotated

from fastapi import Path
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
)

MAX_BIGINT = 9_223_372_036_854_775_807
MAX_INTEGER = 2_147_483_647

Id = Annotated[int, Field(ge=1, le=MAX_BIGINT)]

_PLAIN = re.compile("-?(0|[1-9][0-9]*)")


def _plain(value: object) -> object:
    if isinstance(value, str) and not _PLAIN.fullmatch(value):
        raise ValueError("must be an integer, in plain digits")
    return value


PLAIN = BeforeValidator(_plain)
"""For an integer in a path or a query, after its limits. Python would also accept `1_0`, ` 1`, `+1` and `1.0`, and
one resource would have many addresses."""

PlainId = Annotated[Id, PLAIN]
PathId = Annotated[PlainId, Path(examples=[1])]


class Body(BaseModel):
    """A request's body. Unknown fields are refused, and types are not converted."""

    model_config = ConfigDict(extra="forbid")


class View(BaseModel):
    """The fields of an answer."""

    model_config = ConfigDict(frozen=True)


def _storable(value: str) -> str:
    # PostgreSQL's text can't hold this character.
    if "\x00" in value:
        raise ValueError("must not contain the character U+0000")
    return value


def _one_line(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be blank")
    return _storable(value)


Line = Annotated[
    str,
    Field(
        min_length=1,
        max_length=200,
        # The check of `_one_line` as a pattern, for clients.
        json_schema_extra={"pattern": r"^[^\x00]*[^\s\x00][^\x00]*$"},
    ),
    AfterValidator(_one_line),
]
"""A name or a title: 1 to 200 characters, not all of them white space."""

# The pattern that browsers use for <input type=email>, from the WHATWG HTML standard, section 4.10.5.1.5.
# It allows only ASCII, so case conversion does not depend on the locale.
_EMAIL = (
    r"[a-zA-Z0-9.!#$%&'*+/=?^_`{|}~-]+@[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
    r"(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)*"
)


def _address(value: str) -> str:
    if not re.fullmatch(_EMAIL, value):
        raise ValueError("must be an e-mail address, like setiadi@example.com")
    return value


Email = Annotated[
    str,
    Field(min_length=3, max_length=254, json_schema_extra={"pattern": f"^{_EMAIL}$"}),
    AfterValidator(_address),
]


# RFC 3339. Pydantic would also accept a number of seconds or a date, and one time would have many forms.
_TIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)


def _time(value: object) -> object:
    if not isinstance(value, str) or not _TIME.fullmatch(value):
        raise ValueError(
            "must be a time with its offset, like 2026-11-26T09:30:00Z (in a URL, + is %2B)"
        )
    return value


Time = Annotated[AwareDatetime, BeforeValidator(_time)]
"""A point in time, to the microsecond."""


_AMOUNT = re.compile(r"[0-9]{1,10}(\.[0-9]{1,2})?")
_TOO_MUCH = re.compile(r"[0-9]{1,100}(\.[0-9]{1,100})?")


def _amount(value: object) -> object:
    # Python's Decimal would also accept True, "1_0", " 1", "1E+2" and digits of every script.
    if isinstance(value, bool) or (isinstance(value, str) and not _AMOUNT.fullmatch(value)):
        if isinstance(value, str) and _TOO_MUCH.fullmatch(value):
            return value  # the limits below report the error
        raise ValueError('must be a number, or a decimal string like "12.50"')
    return value


_BELOW = 10_000_000_000

Money = Annotated[
    Decimal,
    # In this order, Rust checks the limits before Python code runs. `max_digits` is not used. It would
    # be checked first, and report a price with too many decimals as too large.
    Field(ge=0, lt=_BELOW, decimal_places=2, allow_inf_nan=False),
    BeforeValidator(_amount),
    WithJsonSchema(
        {
            "anyOf": [
                {
                    "type": "number",
                    "minimum": 0,
                    "exclusiveMaximum": _BELOW,
                    "multipleOf": 0.01,
                },
                {"type": "string", "pattern": f"^{_AMOUNT.pattern}$"},
            ]
        },
        mode="validation",
    ),
]
"""An amount with at most two decimals, below 10,000,000,000, in the shop's one currency. Requests may have a
number or a decimal string. Answers have a decimal string."""
