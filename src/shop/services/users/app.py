"""The user service, on one screen: what it answers, what it publishes, what it listens to."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from eventspine.answers import Answer
from eventspine.batching import Batcher
from eventspine.context import Request
from eventspine.database import Database
from eventspine.idempotency import once_in_transaction
from shop.platform.service import Bounded, Endpoints, Service
from shop.platform.settings import Settings
from shop.services.users.handlers import HANDLERS
from shop.services.users.identity.ages import aged
from shop.services.users.projections import PROJECTIONS

if TYPE_CHECKING:
    from sqlalchemy import MetaData


def tables() -> "MetaData":
    from shop.services.users.tables import metadata

    return metadata


def endpoints(settings: Settings, database: Database) -> Endpoints:
    from shop.services.users import actions, queries
    from shop.services.users.api import routes
    from shop.services.users.identity.issuing import issuing
    from shop.services.users.schemas import CreateUser, EraseUser, UpdateUser, User

    bounds = settings.bounds()
    creating: Batcher[Request[CreateUser], User | Answer] = Batcher(
        once_in_transaction(database, actions.create), **bounds, name="create"
    )
    updating: Batcher[Request[UpdateUser], User | Answer] = Batcher(
        once_in_transaction(database, actions.update), **bounds, name="update"
    )
    erasing: Batcher[Request[EraseUser], Answer | None] = Batcher(
        once_in_transaction(database, actions.erase), **bounds, name="erase"
    )
    getting = Batcher(partial(queries.get, database), **bounds, concurrency=2, name="get")
    # Each reads up to a hundred rows, so together is not cheaper; and two at a time leave the
    # processor, too, to the writes.
    finding = Batcher(
        partial(queries.pages, database), **bounds, max_batch=1, concurrency=2, name="find"
    )
    listing = Batcher(
        partial(queries.orders_of, database), **bounds, max_batch=1, concurrency=2, name="orders_of"
    )
    tokens = issuing(settings, database)
    router = routes(
        creating=creating,
        updating=updating,
        erasing=erasing,
        getting=getting,
        finding=finding,
        listing=listing,
        passwords=tokens.passwords,
    )
    for more in tokens.routers:
        # Not `include_router`, which would put the router among the routes and not its routes.
        router.routes.extend(more.routes)
    batchers: tuple[Bounded, ...] = (
        *tokens.batchers,
        creating,
        updating,
        erasing,
        getting,
        finding,
        listing,
    )
    return Endpoints(router, batchers, tokens.counts)


SERVICE = Service(
    name="users",
    title="User service",
    topic="users",
    source="/users",
    handlers=HANDLERS,
    projections=PROJECTIONS,
    migrations=Path(__file__).parent / "migrations",
    tables=tables,
    endpoints=endpoints,
    aged=aged,
)
