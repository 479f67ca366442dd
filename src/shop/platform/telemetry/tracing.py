"""What traces the work of one process: its interceptors, and the thread that sends their spans."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from eventspine.interceptors import Interceptor
from shop.platform.settings import Settings
from shop.platform.telemetry.traces import Traces
from shop.platform.telemetry.traces_batches import TracedBatches

if TYPE_CHECKING:
    from shop.platform.http.interceptors import Choose


class Tracing:
    def __init__(self, settings: Settings, part: str, service: str) -> None:
        self._traces = Traces(settings, part, service)
        self.export = self._traces.export
        """It knows how many spans were sent, and how many dropped."""

    def steps(self) -> tuple[Interceptor, ...]:
        return (TracedBatches(self._traces),)

    def choosers(self) -> "tuple[Choose, ...]":
        # It loads the web framework, which a worker does not have.
        from shop.platform.telemetry.traces_requests import choosing  # noqa: PLC0415

        return (choosing(self._traces),)

    @asynccontextmanager
    async def sending(self) -> AsyncIterator[None]:
        """Send spans until the block ends. Its end takes a second at most."""
        self.export.start()
        try:
            yield
        finally:
            await asyncio.to_thread(self.export.close)
