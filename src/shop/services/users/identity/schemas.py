"""The requests, answers and commands of the issuing side."""

from datetime import datetime
from typing import Annotated, Any, NamedTuple
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from shop.platform.http.fields import Body, Email, View
from shop.services.users.identity.password_rules import GivenPassword, NewPassword
from shop.services.users.identity.refresh_tokens import RefreshToken

USER_SCOPES = ("users:read", "users:write", "orders:read", "orders:write")
"""The scopes of a user's own tokens. Roles and ownership decide which rows they give access to."""

FIRST_PARTY = "eventshop"
"""The `client_id` of tokens that a user got without a client."""

Secret = Annotated[SecretStr, Field(min_length=1, max_length=200)]


class NewSession(Body):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"email": "setiadi@example.com", "password": "correct horse battery staple"}
            ]
        }
    )

    email: Email
    password: GivenPassword
    device_token: Secret | None = Field(
        default=None,
        description="the one that this device was given at its last login: wrong passwords that others try"
        " then do not slow it",
    )


class Tokens(View):
    """RFC 6749, 5.1."""

    access_token: str
    token_type: str = "Bearer"  # noqa: S105 - not a password
    expires_in: int = Field(description="seconds")
    scope: str


class UserTokens(Tokens):
    refresh_token: str


class OpenedSession(UserTokens):
    session_id: UUID
    user_id: int
    device_token: str = Field(description="keep it, and send it with the next login")


class Session(View):
    id: UUID
    device: str | None = Field(description="what the device said of itself: its User-Agent")
    created_at: datetime
    refreshed_at: datetime


class Sessions(View):
    """Sessions that have not ended. The last used one comes first."""

    items: list[Session]


class PasswordChange(Body):
    """Either the current password or a reset token."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "current_password": "correct horse battery staple",
                    "new_password": "four other words here",
                }
            ],
            "oneOf": [{"required": ["current_password"]}, {"required": ["reset_token"]}],
        }
    )

    # Factories, so that the document shows no default: only given fields count.
    current_password: GivenPassword = Field(default_factory=lambda: SecretStr(""))
    reset_token: Secret = Field(
        default_factory=lambda: SecretStr(""),
        description="from staff (`POST /users/{user_id}/password-reset`); works once",
    )
    new_password: NewPassword

    @model_validator(mode="after")
    def _one_proof(self) -> "PasswordChange":
        if len({"current_password", "reset_token"} & self.model_fields_set) != 1:
            raise ValueError("give either current_password or reset_token")
        return self


class PasswordReset(View):
    reset_token: str = Field(description="hand it to the user; it works once")
    expires_in: int = Field(description="seconds")


class TokenRequest(BaseModel):
    """The form of `POST /token`. Unknown parameters are ignored (RFC 6749, 3.2)."""

    model_config = ConfigDict(extra="ignore")

    grant_type: str | None = None
    refresh_token: SecretStr | None = None
    scope: str | None = None
    client_id: str | None = None
    client_secret: SecretStr | None = None


# The commands.


class FindCredential(NamedTuple):
    """Find the user by address or by id."""

    email: str | None
    user_id: int | None
    device: bytes | None
    """The hash of a device token."""


class Credential(NamedTuple):
    user_id: int
    password_hash: str | None
    password_of: datetime | None
    """When the password was set. It stays when the same password is hashed again."""
    knows_device: bool


class OpenSession(NamedTuple):
    user_id: int
    password_of: datetime
    """When the password that was compared was set. It may have been changed since."""
    better_hash: str | None
    """A hash of the same password with the current parameters."""
    device: str | None
    device_token: str | None
    """None for an unknown device."""


class Refresh(NamedTuple):
    token: RefreshToken
    scope: str | None


class EndSession(NamedTuple):
    session_id: UUID
    owner: int | None
    """None: any user's."""


class EndSessions(NamedTuple):
    user_id: int
    owner: int | None


class ListSessions(NamedTuple):
    user_id: int
    owner: int | None


class ChangePassword(NamedTuple):
    user_id: int
    password_of: datetime | None
    """When the password that was compared was set."""
    reset_hash: bytes | None
    new_hash: str


class MakeReset(NamedTuple):
    user_id: int


class ClientToken(NamedTuple):
    client_id: str
    secret_hash: bytes
    scope: str | None
    by_header: bool


Command = Any
