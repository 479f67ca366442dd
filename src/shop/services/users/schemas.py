"""What goes in and out of the user service."""

from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from shop.contracts.orders import Status
from shop.platform.http.fields import Body, Email, Line, View
from shop.services.users.identity.password_rules import NewPassword

_EMAIL = "setiadi@example.com"


class NewUser(Body):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"email": _EMAIL, "name": "Setiadi"}]}
    )

    email: Email = Field(description="unique, without regard to upper and lower case")
    name: Line
    password: NewPassword | None = Field(
        default=None, description="if the user is to log in (`POST /sessions`)"
    )


class UserChanges(Body):
    """What is left out stays as it is."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"name": "Setiadi Wijaya"}], "minProperties": 1}
    )

    # Factories, so that no default is documented: there is none, only what was given counts.
    email: Email = Field(default_factory=str, description="unique, without regard to case")
    name: Line = Field(default_factory=str)

    @model_validator(mode="before")
    @classmethod
    def _something(cls, given: Any) -> Any:
        if given == {}:
            raise ValueError("must change something: email, name, or both")
        return given


class User(View):
    id: int
    email: str
    name: str
    version: int
    created_at: datetime


class Users(View):
    """A page of users, newest first."""

    items: list[User]
    next_cursor: str | None


class UserOrder(View):
    """An order, as its events told of it."""

    id: int
    product: str
    quantity: int
    total_price: Decimal
    status: Status
    version: int
    placed_at: datetime


class UserOrders(View):
    """A page of a user's orders, newest first."""

    items: list[UserOrder]
    next_cursor: str | None
    count: int = Field(description="all the user's orders, on every page")
    total: Decimal = Field(description="what those that are not cancelled cost together")


class ListUsers(NamedTuple):
    """All, or the one who has this address; ids below `below`, newest first. If `owner` is given, this user alone."""

    email: str | None
    below: int
    limit: int
    owner: int | None = None


class ListUserOrders(NamedTuple):
    """Ids below `below`, newest first."""

    user_id: int
    below: int
    limit: int


class GetUser(NamedTuple):
    """`owner` is the one user whom the caller may see; None for anybody."""

    user_id: int
    owner: int | None = None


class HashedPassword(BaseModel):
    """Shown and compared without the hash: each hash of a password is another. So a request that is sent again
    with its idempotency key is a repeat, whatever password it has.
    """

    model_config = ConfigDict(frozen=True)

    hash: SecretStr


class CreateUser(NamedTuple):
    email: str
    name: str
    password: HashedPassword | None = None


class UpdateUser(NamedTuple):
    """None leaves a field as it is; `versions` are those the caller will have changed. `owner` as above."""

    user_id: int
    email: str | None
    name: str | None
    versions: list[int] | None
    owner: int | None = None


class EraseUser(NamedTuple):
    user_id: int
    versions: list[int] | None
    owner: int | None = None
