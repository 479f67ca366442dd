"""What a service is, in one value: the parts that the command line puts processes together from."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from eventspine.database import Database
from eventspine.handlers import Handlers
from eventspine.projections import Aggregate, Invariant, Projection
from eventspine.reactions import Reaction
from shop.platform.settings import NotConfigured, Settings

if TYPE_CHECKING:
    from fastapi import APIRouter
    from sqlalchemy import MetaData


class Bounded(Protocol):
    @property
    def concurrency(self) -> int:
        """How much of its work is under way at a time; each may hold one connection."""

    async def close(self) -> None:
        """Finish what was accepted."""


@dataclass(frozen=True)
class Endpoints:
    """A service's routes, and the batchers behind them, which are finished when it stops.

    Whatever a route does with the database goes through one of them: that is what bounds it, and
    what leaves a connection for everything else.
    """

    router: "APIRouter"
    batchers: tuple[Bounded, ...]


def _none(_: Settings) -> tuple[Reaction, ...]:
    return ()


@dataclass(frozen=True)
class Service:
    """One service. Its app.py says it all on one screen."""

    name: str
    title: str
    topic: str
    """What it publishes, it publishes here. Other services only read it. Empty of a service that only reads."""
    source: str
    """Its name as a publisher: CloudEvents' `source`. Empty with no topic."""
    handlers: Handlers
    projections: tuple[Projection | Aggregate, ...]
    """Its tables that can be recomputed from the event log."""
    migrations: Path
    # These two are loaded where they are needed: a worker needs neither the web framework nor
    # SQLAlchemy, and without them it starts in half of the time and in two thirds of the memory.
    tables: Callable[[], "MetaData"]
    endpoints: Callable[[Settings, Database], Endpoints]
    invariants: tuple[Invariant, ...] = ()
    """What holds in its database at every commit. `shop audit` checks it."""
    reactions: Callable[[Settings], tuple[Reaction, ...]] = _none
    """Its consumers that ask a provider outside. Each call makes new ones; none, if the settings name no provider."""

    def consumers(self, settings: Settings) -> tuple[Handlers, ...]:
        """Its handlers, and its reactions. Raises `NotConfigured` for a reaction of another's name."""
        reactions = self.reactions(settings)
        names = [reaction.consumer for reaction in reactions]
        for name in names:
            if not name.startswith(f"{self.name}.") or names.count(name) > 1:
                raise NotConfigured(
                    f"a reaction of {self.name} is named {name}: its name must begin with"
                    f" `{self.name}.`, and no other may have it"
                )
        return (self.handlers, *reactions)
