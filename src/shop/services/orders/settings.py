"""The order service's settings: `SHOP_ORDERS__…`."""

from typing import Annotated

from pydantic import Field

from shop.platform.settings import Port, ServiceSettings


class OrdersSettings(ServiceSettings):
    port: Port = 8002
    customer_grace_ms: Annotated[int, Field(ge=0, le=10_000)] = Field(
        default=2_000,
        description="how long an order from an unknown customer waits for the customer to arrive",
    )


SETTINGS = OrdersSettings
