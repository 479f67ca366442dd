"""The order service's HTTP interface: schema in, schema or problem out."""

import asyncio
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query

from eventspine.batching import Batcher
from eventspine.context import Request
from eventspine.idempotency import Answer
from shop.contracts.orders import Status
from shop.platform.http import paging as pages
from shop.platform.http.context import Asked
from shop.platform.http.etag import IfMatch, versions
from shop.platform.http.fields import Line, PathId, PlainId, Time
from shop.platform.http.idempotency import answer_once
from shop.platform.http.route import FastRoute, Reply, admitted_by
from shop.platform.problems import READS, TAKES_JSON, WRITES, PreconditionFailed, documented
from shop.services.orders.arrivals import Arrivals
from shop.services.orders.errors import OrderNotFound, UnknownCustomer, UserGone
from shop.services.orders.schemas import (
    CancelOrder,
    ListOrders,
    NewOrder,
    Order,
    Orders,
    PlaceOrder,
)


def routes(
    *,
    placing: Batcher[Request[PlaceOrder], Order | Answer],
    cancelling: Batcher[Request[CancelOrder], Order | Answer],
    getting: Batcher[int, Order],
    listing: Batcher[ListOrders, Orders],
    arrivals: Arrivals,
    customer_grace: float,
) -> APIRouter:
    """`customer_grace` is how many seconds an order waits for a customer not heard of yet."""
    router = APIRouter(route_class=FastRoute, tags=["orders"])

    @router.post(
        "/orders",
        status_code=201,
        response_model=Order,
        responses=documented(UnknownCustomer, UserGone, *WRITES, *TAKES_JSON),
    )
    @admitted_by(placing.admit)
    async def place_order(new: NewOrder, context: Asked) -> Reply | Answer:
        """Place an order. A user just created is waited for, briefly, before it is refused."""
        command = PlaceOrder(**vars(new))
        place = partial(answer_once, placing, command, _placed, context)
        try:
            return await place()
        except UnknownCustomer:
            until = min(asyncio.get_running_loop().time() + customer_grace, context.deadline)
            if not customer_grace or not await arrivals.wait(new.user_id, until):
                raise
        return await place()

    @router.get(
        "/orders/{order_id}", response_model=Order, responses=documented(OrderNotFound, *READS)
    )
    @admitted_by(getting.admit)
    async def get_order(order_id: PathId) -> Reply:
        """An order, by id."""
        return _shown(await getting.submit(order_id))

    @router.get("/orders", response_model=Orders, responses=documented(*READS))
    @admitted_by(listing.admit)
    async def get_orders(
        user_id: Annotated[PlainId | None, Query()] = None,
        status: Annotated[Status | None, Query()] = None,
        product: Annotated[Line | None, Query(description="exactly this one")] = None,
        placed_from: Annotated[Time | None, Query(description="placed then or later")] = None,
        placed_before: Annotated[Time | None, Query(description="placed before then")] = None,
        limit: pages.Limit = pages.DEFAULT_LIMIT,
        cursor: pages.Cursor = None,
    ) -> Orders:
        """Orders for which all that is asked for holds, newest first."""
        below = pages.decode_cursor(cursor)
        asked = ListOrders(user_id, status, below, limit, product, placed_from, placed_before)
        return await listing.submit(asked)

    @router.post(
        "/orders/{order_id}/cancel",
        response_model=Order,
        responses=documented(OrderNotFound, UserGone, PreconditionFailed, *WRITES),
    )
    @admitted_by(cancelling.admit)
    async def cancel_order(
        order_id: PathId,
        context: Asked,
        if_match: IfMatch = None,
    ) -> Reply | Answer:
        """Cancel an order. To do it again changes nothing and answers the same."""
        command = CancelOrder(order_id, versions(if_match))
        return await answer_once(cancelling, command, _shown, context)

    return router


def _placed(order: Order) -> Reply:
    return Reply(order, 201, order.version, f"/orders/{order.id}", about=order.user_id)


def _shown(order: Order) -> Reply:
    return Reply(order, etag=order.version, about=order.user_id)
