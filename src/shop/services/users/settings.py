"""The user service's settings: `SHOP_USERS__…`."""

from shop.platform.settings import Port, ServiceSettings


class UsersSettings(ServiceSettings):
    port: Port = 8001


SETTINGS = UsersSettings
