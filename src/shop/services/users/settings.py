"""The user service's settings: `SHOP_USERS__…`."""

from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, Any, ClassVar

from pydantic import Field, field_validator
from pydantic_settings import NoDecode

from shop.platform.settings import Port, ServiceSettings

_DAY = 24 * 3600


class UsersSettings(ServiceSettings):
    issues_tokens: ClassVar[bool] = True
    port: Port = 8001
    password_threads: Annotated[int, Field(ge=1, le=64)] = Field(
        default=1,
        description="passwords that an API hashes at a time. Each takes a processor for some 12 ms, and 19 MiB",
    )
    max_waiting_passwords: Annotated[int, Field(ge=1, le=10_000)] = Field(
        default=64,
        description="logins and the like that may wait for their hash; one more gets a 503 at once",
    )
    session_idle_s: Annotated[int, Field(ge=3600)] = Field(
        default=14 * _DAY,
        description="a session that is not refreshed for so long is over ([how time is counted](#clocks))",
    )
    session_longest_s: Annotated[int, Field(ge=3600)] = Field(
        default=90 * _DAY, description="a session is over after so long, however it is used"
    )
    refresh_grace_s: Annotated[int, Field(ge=0, le=300)] = Field(
        default=30,
        description="for so long a refresh token that was used gets the same answer again; after that its use ends "
        "the session",
    )
    key_lead_s: Annotated[int, Field(ge=0, le=7 * _DAY)] = Field(
        default=600,
        description="how long a signing key must have been published before it signs",
    )
    trusted_proxies: Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode] = Field(
        default=(),
        description="addresses or networks of the gateways whose `X-Forwarded-For` is believed: `127.0.0.1,10.0.0.0/8`. "
        "Limits on wrong passwords go by the client's address",
    )

    @field_validator("trusted_proxies", mode="before")
    @classmethod
    def _separate(cls, given: Any) -> Any:
        if isinstance(given, str):
            return [each.strip() for each in given.split(",") if each.strip()]
        return given


SETTINGS = UsersSettings
