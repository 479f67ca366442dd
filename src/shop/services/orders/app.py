"""The order service, on one screen: what it answers, what it publishes, what it listens to."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from eventspine.batching import Batcher
from eventspine.context import Request
from eventspine.database import Database
from eventspine.idempotency import Answer, once_in_transaction
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
    from shop.services.orders.schemas import CancelOrder, Order, PlaceOrder

    bounds = settings.bounds()
    # New orders lock nothing of each other's but the outbox head, as they commit. So while one batch is
    # being committed the next can be done.
    placing: Batcher[Request[PlaceOrder], Order | Answer] = Batcher(
        once_in_transaction(database, actions.place), **bounds, concurrency=2
    )
    cancelling: Batcher[Request[CancelOrder], Order | Answer] = Batcher(
        once_in_transaction(database, actions.cancel), **bounds
    )
    getting = Batcher(partial(queries.get, database), **bounds, concurrency=2)
    # Each reads up to a hundred rows, so together is not cheaper; and two at a time leave the
    # processor, too, to the writes.
    listing = Batcher(partial(queries.pages, database), **bounds, max_batch=1, concurrency=2)
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
