"""Field types that several schemas share, with the limits of what the database can hold."""

from decimal import Decimal
from typing import Annotated

from fastapi import Header
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

MAX_BIGINT = 9_223_372_036_854_775_807
MAX_INTEGER = 2_147_483_647

Id = Annotated[int, Field(ge=1, le=MAX_BIGINT)]


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


Line = Annotated[str, Field(min_length=1, max_length=200, pattern=r"\S"), AfterValidator(_one_line)]
"""A name or a title: 1 to 200 characters, not all of them white space."""

# The pattern browsers use for <input type=email>, from the WHATWG HTML standard, section 4.10.5.1.5.
# It is ASCII, so upper and lower case are the same everywhere.
_EMAIL = (
    r"^[a-zA-Z0-9.!#$%&'*+/=?^_`{|}~-]+@[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
    r"(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)*$"
)

Email = Annotated[str, Field(min_length=3, max_length=254, pattern=_EMAIL)]


def _not_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("must be a number")  # noqa: TRY004 - Pydantic turns this into a 422
    return value


Money = Annotated[
    Decimal,
    BeforeValidator(_not_bool),
    Field(ge=0, max_digits=12, decimal_places=2, allow_inf_nan=False),
]
"""An amount with at most two decimals, below 10,000,000,000, in the shop's one currency. Taken as a
number or a decimal string, answered as a decimal string."""

Traceparent = Annotated[
    str | None,
    Header(
        alias="traceparent",
        max_length=100,
        description="W3C trace context; carried on by the events this request causes",
    ),
]
