"""The user service's settings: `SHOP_USERS__…`."""

from typing import ClassVar

from shop.platform.settings import Port, ServiceSettings


class UsersSettings(ServiceSettings):
    issues_tokens: ClassVar[bool] = True
    port: Port = 8001


SETTINGS = UsersSettings
