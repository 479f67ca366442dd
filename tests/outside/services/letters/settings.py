"""The letter service's settings: `SHOP_LETTERS__…`."""

from pydantic import Field

from shop.platform.settings import Port, ServiceSettings


class LettersSettings(ServiceSettings):
    port: Port = 9011
    provider_url: str = Field(default="", description="where letters are posted; empty: nowhere")
    provider_timeout_s: float = Field(default=10, description="how long it may take to answer")


SETTINGS = LettersSettings
