"""The greeting service's settings: `SHOP_GREETINGS__…`."""

from pydantic import Field

from shop.platform.settings import Port, ServiceSettings


class GreetingsSettings(ServiceSettings):
    port: Port = 9003
    signature: str = Field(default="", description="follows every greeting")
    provider_url: str = Field(default="", description="who delivers greetings; empty: nobody")


SETTINGS = GreetingsSettings
