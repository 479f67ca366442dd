"""The greeting service, on one screen."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from eventspine.answers import Answer
from eventspine.batching import Batcher
from eventspine.context import Request
from eventspine.database import Database
from eventspine.idempotency import once_in_transaction
from eventspine.reactions import Reaction
from shop.platform.service import Endpoints, Service
from shop.platform.settings import Settings
from tests.more.services.greetings.handlers import HANDLERS
from tests.more.services.greetings.projections import PROJECTIONS
from tests.more.services.greetings.settings import GreetingsSettings

if TYPE_CHECKING:
    from sqlalchemy import MetaData


def tables() -> "MetaData":
    from tests.more.services.greetings.tables import metadata

    return metadata


def endpoints(settings: Settings, database: Database) -> Endpoints:
    from tests.more.services.greetings import actions, queries
    from tests.more.services.greetings.api import routes
    from tests.more.services.greetings.schemas import Greeting, SendGreeting

    bounds = settings.bounds()
    sending: Batcher[Request[SendGreeting], Greeting | Answer] = Batcher(
        once_in_transaction(database, actions.send), **bounds
    )
    getting = Batcher(partial(queries.get, database), **bounds)
    signature = settings.section(GreetingsSettings).signature
    return Endpoints(
        routes(sending=sending, getting=getting, signature=signature), (sending, getting)
    )


def reactions(settings: Settings) -> tuple[Reaction, ...]:
    from tests.more.services.greetings.reactions import deliver

    url = settings.section(GreetingsSettings).provider_url
    return (deliver(url),) if url else ()


SERVICE = Service(
    name="greetings",
    title="Greeting service",
    topic="greetings",
    source="/greetings",
    handlers=HANDLERS,
    projections=PROJECTIONS,
    migrations=Path(__file__).parent / "migrations",
    tables=tables,
    endpoints=endpoints,
    reactions=reactions,
)
