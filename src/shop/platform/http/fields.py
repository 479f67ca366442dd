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


def _plain(value: object) -> object:
    if isinstance(value, str) and not re.fullmatch("-?(0|[1-9][0-9]*)", value):
        raise ValueError("must be an integer, in plain digits")
    return value


PLAIN = BeforeValidator(_plain)
"""For an integer in a path or a query, after its limits. Python takes `1_0`, ` 1`, `+1` and `1.0` for
one as well, and one thing would have many addresses."""

PlainId = Annotated[Id, PLAIN]
PathId = Annotated[PlainId, Path(examples=[1])]


class Body(BaseModel):
    """A request's body: unknown fields are refused, types are not guessed at."""

    model_config = ConfigDict(extra="forbid")


class View(BaseModel):
    """What an answer shows."""

    model_config = ConfigDict(frozen=True)


def _storable(value: str) -> str:
    # PostgreSQL's text holds every character but this one.
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
        # What `_one_line` asks for, said to programs.
        json_schema_extra={"pattern": r"^[^\x00]*[^\s\x00][^\x00]*$"},
    ),
    AfterValidator(_one_line),
]
"""A name or a title: 1 to 200 characters, not all of them white space."""

# The pattern browsers use for <input type=email>, from the WHATWG HTML standard, section 4.10.5.1.5.
# It is ASCII, so upper and lower case are the same everywhere.
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


# RFC 3339. Pydantic also takes a number of seconds and a day, and one time would have many spellings.
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
    # Python's Decimal also takes True, "1_0", " 1", "1E+2" and digits of every alphabet.
    if isinstance(value, bool) or (isinstance(value, str) and not _AMOUNT.fullmatch(value)):
        if isinstance(value, str) and _TOO_MUCH.fullmatch(value):
            return value  # the limits say what is wrong with it
        raise ValueError('must be a number, or a decimal string like "12.50"')
    return value


_BELOW = 10_000_000_000

Money = Annotated[
    Decimal,
    # In this order the limits are checked in Rust, before it is Python's turn. No `max_digits`: it
    # would be looked at first, and say of a price with too many decimals that it is too large.
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
"""An amount with at most two decimals, below 10,000,000,000, in the shop's one currency. Taken as a
number or a decimal string, answered as a decimal string."""
