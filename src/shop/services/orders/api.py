"""The order service's HTTP interface: schema in, schema or problem out."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query

from eventspine.batching import Batcher
from eventspine.database import Database
from shop.contracts.orders import Status
from shop.kit.fields import PathId, PlainId, Traceparent
from shop.kit.web import pages
from shop.kit.web.etag import IfMatch, versions
from shop.kit.web.problems import (
    BodyTooLarge,
    Invalid,
    MalformedBody,
    PreconditionFailed,
    TemporarilyUnavailable,
    UnknownOutcome,
    UnsupportedMediaType,
    documented,
)
from shop.kit.web.route import FastRoute, Reply
from shop.services.orders import queries
from shop.services.orders.errors import OrderNotFound, UnknownCustomer
from shop.services.orders.schemas import CancelOrder, NewOrder, Order, Orders, PlaceOrder

_READS = (Invalid, TemporarilyUnavailable)
_WRITES = (Invalid, TemporarilyUnavailable, UnknownOutcome)
_TAKES_JSON = (MalformedBody, BodyTooLarge, UnsupportedMediaType)

# A customer's event is a few milliseconds behind the customer. Ask again soon, then less often.
_FIRST_LOOK = 0.004  # seconds
_LOOK_LESS_OFTEN = 1.6


def routes(
    database: Database,
    *,
    placing: Batcher[PlaceOrder, Order],
    cancelling: Batcher[CancelOrder, Order],
    getting: Batcher[int, Order],
    customer_grace: float,
) -> APIRouter:
    """`customer_grace` is how many seconds an order waits for a customer not heard of yet."""
    router = APIRouter(route_class=FastRoute, tags=["orders"])

    @router.post(
        "/orders",
        status_code=201,
        response_model=Order,
        responses=documented(UnknownCustomer, *_WRITES, *_TAKES_JSON),
    )
    async def place_order(new: NewOrder, traceparent: Traceparent = None) -> Reply:
        """Place an order. A user just created is waited for, briefly, before it is refused."""
        command = PlaceOrder(new.user_id, new.product, new.quantity, new.total_price, traceparent)
        try:
            order = await placing.submit(command)
        except UnknownCustomer:
            order = await _placed_within(customer_grace, placing, command)
        return Reply(order, etag=1, location=f"/orders/{order.id}")

    @router.get(
        "/orders/{order_id}", response_model=Order, responses=documented(OrderNotFound, *_READS)
    )
    async def get_order(order_id: PathId) -> Reply:
        """An order, by id."""
        order = await getting.submit(order_id)
        return Reply(order, etag=order.version)

    @router.get("/orders", response_model=Orders, responses=documented(*_READS))
    async def get_orders(
        user_id: Annotated[PlainId | None, Query()] = None,
        status: Annotated[Status | None, Query()] = None,
        limit: pages.Limit = pages.DEFAULT_LIMIT,
        cursor: pages.Cursor = None,
    ) -> Orders:
        """Orders, newest first."""
        below = pages.decode_cursor(cursor)
        return await queries.page(
            database, user_id=user_id, status=status, below=below, limit=limit
        )

    @router.post(
        "/orders/{order_id}/cancel",
        response_model=Order,
        responses=documented(OrderNotFound, PreconditionFailed, *_WRITES),
    )
    async def cancel_order(
        order_id: PathId, if_match: IfMatch = None, traceparent: Traceparent = None
    ) -> Reply:
        """Cancel an order. To do it again changes nothing and answers the same."""
        order = await cancelling.submit(CancelOrder(order_id, versions(if_match), traceparent))
        return Reply(order, etag=order.version)

    return router


async def _placed_within(
    seconds: float, placing: Batcher[PlaceOrder, Order], command: PlaceOrder
) -> Order:
    """Try until the customer has arrived or the time is over. Raises `UnknownCustomer`."""
    now = asyncio.get_running_loop().time
    deadline = now() + seconds
    pause = _FIRST_LOOK
    while True:
        left = deadline - now()
        await asyncio.sleep(max(0.0, min(pause, left)))
        try:
            return await placing.submit(command)
        except UnknownCustomer:
            if left <= pause:
                raise
        pause *= _LOOK_LESS_OFTEN
