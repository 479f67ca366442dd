"""The description of a service: the parts from which the command line builds its processes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from eventspine.database import Database
from eventspine.handlers import Handlers
from eventspine.projections import Aggregate, Invariant, Projection
from eventspine.pruning import Aged
from eventspine.reactions import Reaction
from shop.platform.settings import NotConfigured, Settings

if TYPE_CHECKING:
    from fastapi import APIRouter
    from sqlalchemy import MetaData
    from starlette.types import Receive, Scope, Send


class Bounded(Protocol):
    @property
    def concurrency(self) -> int:
        """How many batches run at the same time. Each may hold one connection."""

    async def close(self) -> None:
        """Wait until all accepted commands are done."""


@dataclass(frozen=True)
class Endpoints:
    """A service's routes, and the batchers behind them. When the service stops, it waits for the batchers.

    A route uses the database only through a batcher. The batcher limits the load, and the number of connections
    that the route uses.
    """

    router: "APIRouter"
    batchers: tuple[Bounded, ...]
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """What the service counts for `shop_outcomes_total`: by action and outcome, such as `login` and `refused`. The
    service adds to it while it runs. Both must have few values, and never a client's text."""


class Served(Protocol):
    """The ASGI application of an API process. Its server sets these two when the process is asked to stop."""

    stopping: bool
    """Whether the process has been asked to stop. Then it is not ready any more."""
    finish_by: float
    """The deadline of accepted requests after a stop, by `time.monotonic()`."""

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None: ...


@dataclass(frozen=True)
class Front:
    """Pages over the other services: one API process, without a database, a topic or a worker of its own.

    Its front.py describes it. It reads the databases of the services, and the log, by their settings.
    """

    name: str
    title: str
    app: Callable[[Settings], Served]


def _none(_: Settings) -> tuple[()]:
    return ()


@dataclass(frozen=True)
class Service:
    """One service. Its app.py describes it on one screen."""

    name: str
    title: str
    topic: str
    """The topic to which it publishes. Other services only read it. Empty if the service only reads."""
    source: str
    """Its name as a publisher, the `source` of CloudEvents. Empty without a topic."""
    handlers: Handlers
    projections: tuple[Projection | Aggregate, ...]
    """Its tables that can be recomputed from the event log."""
    migrations: Path
    # These two are functions, so that they are imported only where they are needed. A worker needs neither the
    # web framework nor SQLAlchemy. Without them it starts in half the time, with two thirds of the memory.
    tables: Callable[[], "MetaData"]
    endpoints: Callable[[Settings, Database], Endpoints]
    invariants: tuple[Invariant, ...] = ()
    """Rules that hold in its database at every commit. `shop audit` checks them."""
    reactions: Callable[[Settings], tuple[Reaction, ...]] = _none
    """Creates its reactions, the consumers that ask an external provider. Returns none if the settings name no
    provider.
    """
    aged: Callable[[Settings], tuple[Aged, ...]] = _none
    """Its own tables whose old rows its worker deletes. Those of projections are in `projections`."""

    def all_aged(self, settings: Settings) -> tuple[Aged, ...]:
        copies = [each for each in self.projections if isinstance(each, Projection)]
        return (*self.aged(settings), *(each.aged for each in copies if each.aged))

    def consumers(self, settings: Settings) -> tuple[Handlers, ...]:
        """Its handlers and its reactions. Raises `NotConfigured` if a reaction's name is wrong."""
        reactions = self.reactions(settings)
        names = [reaction.consumer for reaction in reactions]
        for name in names:
            if not name.startswith(f"{self.name}.") or names.count(name) > 1:
                raise NotConfigured(
                    f"a reaction of {self.name} is named {name}: its name must begin with"
                    f" `{self.name}.`, and no other may have it"
                )
        return (self.handlers, *reactions)
