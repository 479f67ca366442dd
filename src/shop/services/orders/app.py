"""The order service on one screen: its routes, its events, and the events that it handles."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from eventspine.answers import Answer
from eventspine.batching import Batcher
from eventspine.context import Request
from eventspine.database import Database
from eventspine.idempotency import once_in_transaction
from shop.platform.service import Endpoints, Service
from shop.platform.settings import Settings
from shop.services.orders.handlers import HANDLERS
from shop.services.orders.projections import PROJECTIONS
from shop.services.orders.settings import OrdersSettings

if TYPE_CHECKING:
    from sqlalchemy import MetaData


def tables() -> "MetaData":
    from shop.services.orders.tables import metadata

    return metadata


def endpoints(settings: Settings, database: Database) -> Endpoints:
    from shop.services.orders import actions, queries
    from shop.services.orders.api import routes
    from shop.services.orders.arrivals import Arrivals
    from shop.services.orders.schemas import CancelOrder, Order, PlacedOrder, PlaceOrder

    bounds = settings.bounds()
    # The only lock that new orders share is the outbox head, at the commit. So the next batch can run while
    # one is being committed.
    placing: Batcher[Request[PlaceOrder], PlacedOrder | Answer] = Batcher(
        once_in_transaction(database, actions.place), **bounds, concurrency=2, name="place"
    )
    cancelling: Batcher[Request[CancelOrder], Order | Answer] = Batcher(
        once_in_transaction(database, actions.cancel), **bounds, name="cancel"
    )
    getting = Batcher(partial(queries.get, database), **bounds, concurrency=2, name="get")
    # Each list reads up to a hundred rows, so a batch of lists is not cheaper. Only two run at a time, so that
    # CPU remains for writes.
    listing = Batcher(
        partial(queries.pages, database), **bounds, max_batch=1, concurrency=2, name="list"
    )
    arrivals = Arrivals(partial(queries.known, database), max_waiting=settings.max_waiting)
    router = routes(
        placing=placing,
        cancelling=cancelling,
        getting=getting,
        listing=listing,
        arrivals=arrivals,
        callers=settings.auth.required,
        customer_grace=settings.section(OrdersSettings).customer_grace_ms / 1000,
    )
    return Endpoints(router, (placing, cancelling, getting, listing, arrivals))


SERVICE = Service(
    name="orders",
    title="Order service",
    topic="orders",
    source="/orders",
    handlers=HANDLERS,
    projections=PROJECTIONS,
    migrations=Path(__file__).parent / "migrations",
    tables=tables,
    endpoints=endpoints,
)
