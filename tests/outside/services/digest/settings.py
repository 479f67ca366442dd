"""The digest service's settings: `SHOP_DIGEST__…`."""

from shop.platform.settings import Port, ServiceSettings


class DigestSettings(ServiceSettings):
    port: Port = 9012


SETTINGS = DigestSettings
