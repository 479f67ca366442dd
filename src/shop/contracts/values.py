"""The bounds of what events carry: what every reader's columns can hold.

They are never narrower than anything that was ever published, or the log could not be read. What a
client may send is said in each service's schemas, and lies within.
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
            # A pattern, because to count a Decimal's digits takes Python three times as long.
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
"""In the shop's one currency; on the wire a decimal string with two places."""

Time = Annotated[
    AwareDatetime,
    # Years beyond these have no place in Python's calendar once they are brought to UTC.
    Field(strict=True, ge=datetime(1970, 1, 1, tzinfo=UTC), lt=datetime(9999, 1, 1, tzinfo=UTC)),
]
