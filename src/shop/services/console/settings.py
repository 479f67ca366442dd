"""The console's settings: `SHOP_CONSOLE__…`."""

from pydantic import Field

from shop.platform.settings import ApiSettings, Port


class ConsoleSettings(ApiSettings):
    port: Port = 8000
    hosts: str = Field(
        default="localhost,127.0.0.1,[::1]",
        description="the names by which browsers reach the console, without ports, separated by commas. A request"
        " with another `Host` is refused, so that no page of another site can read the console by a name of its own",
    )
    apis: str = Field(
        default="",
        description="the services' APIs, whose readiness the console shows: `orders=http://orders-api:8002,…`. If not"
        " set, in development those of this machine, and in production none",
    )


SETTINGS = ConsoleSettings
