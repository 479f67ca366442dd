"""The HTTP interface of the order service."""

import asyncio
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query

from eventspine.answers import Answer
from eventspine.batching import Batcher
from eventspine.context import Request
from shop.contracts.orders import Status
from shop.platform.auth.caller import Caller, WhoAsks, reads, visible, writes
from shop.platform.auth.rules import OWN, allowed
from shop.platform.http import paging as pages
from shop.platform.http.context import Asked
from shop.platform.http.etag import IfMatch, versions
from shop.platform.http.fields import Line, PathId, PlainId, Time
from shop.platform.http.idempotency import answer_once
from shop.platform.http.route import FastRoute, Reply, admitted_by
from shop.platform.problems import (
    READS,
    TAKES_JSON,
    WRITES,
    Forbidden,
    Invalid,
    PreconditionFailed,
    documented,
)
from shop.services.orders.arrivals import Arrivals
from shop.services.orders.errors import OrderNotFound, UnknownCustomer, UserGone
from shop.services.orders.schemas import (
    CancelOrder,
    GetOrder,
    ListOrders,
    NewOrder,
    NewOwnOrder,
    Order,
    Orders,
    PlacedOrder,
    PlaceOrder,
    StoredOrder,
)


def routes(
    *,
    placing: Batcher[Request[PlaceOrder], PlacedOrder | Answer],
    cancelling: Batcher[Request[CancelOrder], Order | Answer],
    getting: Batcher[GetOrder, StoredOrder],
    listing: Batcher[ListOrders, Orders],
    arrivals: Arrivals,
    customer_grace: float,
    callers: bool,
) -> APIRouter:
    """The routes. An order of an unknown customer waits `customer_grace` seconds for the customer. `callers` tells
    whether requests have an authenticated caller.
    """
    router = APIRouter(route_class=FastRoute, tags=["orders"])

    posted = router.post(
        "/orders",
        status_code=201,
        response_model=Order,
        responses=documented(UnknownCustomer, UserGone, *WRITES, *TAKES_JSON),
    )

    @allowed("orders:write", rows=OWN)
    @admitted_by(placing.admit)
    async def place_order(new: NewOrder, context: Asked) -> Reply | Answer:
        """Place an order. If the user is unknown, the request waits briefly, because the user may be new."""
        command = PlaceOrder(**vars(new))
        place = partial(answer_once, placing, command, _placed, context)
        try:
            return await place()
        except UnknownCustomer:
            until = min(asyncio.get_running_loop().time() + customer_grace, context.deadline)
            if not customer_grace or not await arrivals.wait(new.user_id, until):
                raise
        return await place()

    @allowed("orders:write", rows=OWN)
    @admitted_by(placing.admit)
    async def place_own_order(
        new: NewOwnOrder, context: Asked, caller: WhoAsks = None
    ) -> Reply | Answer:
        """Place an order. A user just created is waited for, briefly, before it is refused.

        A customer's order is its own.
        """
        return await place_order(_owned(new, caller), context)

    # One operation: what a caller may leave out differs.
    place_own_order.__name__ = place_order.__name__
    posted(place_own_order if callers else place_order)

    @router.get(
        "/orders/{order_id}", response_model=Order, responses=documented(OrderNotFound, *READS)
    )
    @allowed("orders:read", rows=OWN)
    @admitted_by(getting.admit)
    async def get_order(order_id: PathId, caller: WhoAsks = None) -> Reply:
        """Get an order by its id."""
        order = await getting.submit(GetOrder(order_id, reads(caller)))
        return Reply(order.body, etag=order.version, about=order.user_id)

    @router.get("/orders", response_model=Orders, responses=documented(*READS))
    @allowed("orders:read", rows=OWN)
    @admitted_by(listing.admit)
    async def get_orders(
        user_id: Annotated[PlainId | None, Query()] = None,
        status: Annotated[Status | None, Query()] = None,
        product: Annotated[
            Line | None, Query(description="Only orders of exactly this product.")
        ] = None,
        placed_from: Annotated[
            Time | None, Query(description="Only orders placed at this time or later.")
        ] = None,
        placed_before: Annotated[
            Time | None, Query(description="Only orders placed before this time.")
        ] = None,
        limit: pages.Limit = pages.DEFAULT_LIMIT,
        cursor: pages.Cursor = None,
        caller: WhoAsks = None,
    ) -> Orders:
        """List the orders that match all filters, newest first."""
        below = pages.decode_cursor(cursor)
        owner = reads(caller)
        if owner is not None:
            user_id = owner if user_id is None else visible(user_id, owner)
        asked = ListOrders(user_id, status, below, limit, product, placed_from, placed_before)
        return await listing.submit(asked)

    @router.post(
        "/orders/{order_id}/cancel",
        response_model=Order,
        responses=documented(OrderNotFound, UserGone, PreconditionFailed, *WRITES),
    )
    @allowed("orders:write", rows=OWN)
    @admitted_by(cancelling.admit)
    async def cancel_order(
        order_id: PathId,
        context: Asked,
        if_match: IfMatch = None,
        caller: WhoAsks = None,
    ) -> Reply | Answer:
        """Cancel an order. Another cancellation changes nothing and gets the same answer."""
        command = CancelOrder(order_id, versions(if_match), writes(caller))
        return await answer_once(cancelling, command, _shown, context)

    return router


def _owned(new: NewOwnOrder, caller: Caller | None) -> NewOrder:
    """The order with its user. Raises `Invalid` and `Forbidden`."""
    owner = writes(caller)
    own = None if caller is None else caller.user_id
    if "user_id" not in new.model_fields_set:
        if own is None:
            raise Invalid.field("body", "user_id", "Field required, since the caller is no user")
        new.user_id = own
    elif owner is not None and owner != new.user_id:
        raise Forbidden("A customer may order for itself alone: leave user_id out")
    return new


def _placed(order: PlacedOrder) -> Reply:
    return Reply(order.body, 201, 1, f"/orders/{order.id}", about=order.user_id)


def _shown(order: Order) -> Reply:
    return Reply(order, etag=order.version, about=order.user_id)
