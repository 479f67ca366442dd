"""What the console reads: the database of each service, and the event log.

Addresses and passwords are those of the services' own settings, as for the command line. The sessions are
read-only, and a statement ends after two seconds, so that no page can harm a service. Only what an administrator
does has a session that may write, opened for that deed.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from eventspine.database import Database
from eventspine.errors import Unavailable
from eventspine.event import Event
from shop.platform import discovery
from shop.platform.event_log import database_address, log_address, open_event_log
from shop.platform.interceptors import steps
from shop.platform.service import Service
from shop.platform.settings import Settings
from shop.services.console.quick_log import QuickLog

if TYPE_CHECKING:
    from shop.platform.telemetry.tracing import Tracing

STATEMENT_WITHIN_S = 2
"""After so long PostgreSQL ends a statement of a page."""

_CONNECTIONS = 4
"""To each database, at most."""

_WAIT_S = 1.0
"""For a connection. A page that says at once what is away is better than one that waits."""

_READS_ONLY: Mapping[str, Any] = {
    "application_name": "eventshop console",
    "default_transaction_read_only": "on",
    "statement_timeout": f"{STATEMENT_WITHIN_S}s",
}


class Reading:
    """Read-only access to each service's database and to the event log. Raises `NotConfigured`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.tracing: Tracing | None = None
        """What traces this process, if anything does. The spans of deeds are made by it."""
        self.services: Mapping[str, Service] = {each.name: each for each in discovery.load_all()}
        self._databases = {
            name: Database(
                database_address(settings, name), size=_CONNECTIONS, timeout=_WAIT_S, **_READS_ONLY
            )
            for name in self.services
        }
        self.log = QuickLog(open_event_log(settings))
        self.log_table: Database | None = None
        """The log's own database, if the log is a table. It knows what the protocol of a log does not tell, such
        as when a record was appended."""
        if settings.event_log == "postgres":
            self.log_table = Database(log_address(settings), size=2, timeout=_WAIT_S, **_READS_ONLY)

    def database(self, service: str) -> Database:
        """For reads alone: PostgreSQL refuses a statement that writes. Raises `KeyError`."""
        return self._databases[service]

    @property
    def topics(self) -> Mapping[str, Service]:
        """Each topic, and the service that publishes to it."""
        return {each.topic: each for each in self.services.values() if each.topic}

    def contracts(self, service: str) -> list[type[Event]]:
        """The events that a service publishes."""
        return discovery.contracts(service)

    async def open(self) -> None:
        await asyncio.gather(*(each.open() for each in self._all()))

    async def close(self) -> None:
        await asyncio.gather(*(each.close() for each in self._all()), self.log.close())

    async def check(self) -> None:
        """Raises `Unavailable` if no database answers. One that is away is shown, and does not stop the console."""
        asked = [each.fetch("SELECT 1") for each in self._databases.values()]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        failed = [each for each in answers if isinstance(each, BaseException)]
        if failed and len(failed) == len(answers):
            raise Unavailable("no database answers") from failed[0]

    @asynccontextmanager
    async def writing(self, service: str) -> AsyncIterator[Database]:
        """A service's database for one deed of an administrator, as the command line has it. Raises `KeyError`."""
        address = database_address(self.settings, service)
        chain = steps(self.settings.interceptors, "parked", service, self.tracing)
        database = Database(address, size=1, timeout=5.0, steps=chain)
        await database.open()
        try:
            yield database
        finally:
            await database.close()

    def _all(self) -> list[Database]:
        return [*self._databases.values(), *([self.log_table] if self.log_table else [])]
