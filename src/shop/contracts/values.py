"""The limits of values in events: the values that every reader's columns can hold.

They must include every value that was ever published, because readers must be able to read the whole log. The
limits for clients are in each service's schemas, and are narrower.
"""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated

from pydantic import AwareDatetime, Field, GetPydanticSchema
from pydantic_core import core_schema

Id = Annotated[int, Field(strict=True, ge=1, lt=2**63)]
Quantity = Annotated[int, Field(strict=True, ge=1, lt=2**31)]
Line = Annotated[str, Field(min_length=1, max_length=200)]
Email = Annotated[str, Field(min_length=3, max_length=254)]

Money = Annotated[
    Decimal,
    GetPydanticSchema(
        lambda _source, _handler: core_schema.json_or_python_schema(
            # A pattern, because counting a Decimal's digits takes Python three times as long.
            json_schema=core_schema.chain_schema(
                [
                    core_schema.str_schema(pattern=r"^[0-9]{1,10}(\.[0-9]{1,2})?$"),
                    core_schema.decimal_schema(),
                ]
            ),
            python_schema=core_schema.decimal_schema(ge=0, lt=10**10),
        )
    ),
]
"""An amount in the shop's one currency. In JSON it is a decimal string with two places."""

Time = Annotated[
    AwareDatetime,
    # Python's datetime can't hold later times after a conversion to UTC.
    Field(strict=True, ge=datetime(1970, 1, 1, tzinfo=UTC), lt=datetime(9999, 1, 1, tzinfo=UTC)),
]
