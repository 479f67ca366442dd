"""The settings of tokens and rules: `SHOP_AUTH__…`."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_settings import NoDecode

LONGEST_TOKEN_S = 600
"""Seconds. No access token of the user service is valid for longer."""


class OutsideIssuer(BaseModel):
    """Another OpenID Connect issuer whose access tokens are accepted."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    issuer: Annotated[str, Field(pattern=r"^https?://[^\s?#]+$")]
    """Exactly as in the tokens' `iss`."""
    audience: Annotated[str, Field(min_length=1)]
    jwks_url: Annotated[str, Field(pattern=r"^https?://\S+$")] | None = None
    """By default it is read from the issuer's discovery document."""
    roles_claim: str = "roles"
    """The claim that holds the roles: a name, or names with dots between them for nested objects."""
    typ: Literal["at+jwt", "JWT"] = "at+jwt"
    """The `typ` of its tokens. `JWT` does not tell access tokens from id tokens, so id tokens for the same audience are then accepted, too."""


class AuthSettings(BaseModel):
    required: bool = Field(
        default=False,
        description="whether requests need an access token. If not, any request may do anything",
    )
    issuer: str = Field(
        default="http://127.0.0.1:8001",
        description="the name of the user service as an issuer of tokens: the address at which clients reach it",
    )
    audience: Annotated[str, Field(min_length=1)] = Field(
        default="eventshop", description="for whom tokens are: their `aud`"
    )
    issuers: Annotated[tuple[OutsideIssuer, ...], NoDecode] = Field(
        default=(),
        description="OpenID Connect issuers whose tokens are taken, too, as a JSON list: "
        '`[{"issuer": "https://id.example", "audience": "shop"}]`; `jwks_url`, `roles_claim` and `typ` may be added',
    )
    access_token_s: Annotated[int, Field(ge=60, le=LONGEST_TOKEN_S)] = Field(
        default=300, description="how long an access token is valid"
    )
    requests_a_second: Annotated[float, Field(gt=0)] = Field(
        default=50,
        description="requests that each user may send to one API process, on average; ten seconds' worth at once. "
        "One more gets a 429",
    )
    service_requests_a_second: Annotated[float, Field(gt=0)] = Field(
        default=1000, description="the same for each client that has the role `service`"
    )
    key_encryption_key_file: Path | None = Field(
        default=None,
        description="a file with the keys that encrypt private signing keys; the user service alone needs it",
    )

    @field_validator("issuers", mode="before")
    @classmethod
    def _read(cls, given: Any) -> Any:
        if not isinstance(given, str):
            return given
        try:
            return json.loads(given) if given.strip() else ()
        except ValueError as error:
            raise ValueError(f"it is not a JSON list: {error}") from None
