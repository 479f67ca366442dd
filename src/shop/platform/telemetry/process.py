"""The telemetry of one process, put together from its settings."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from eventspine.interceptors import Interceptor
from shop.platform.settings import Settings
from shop.platform.telemetry.serving import Page, Show, serving

if TYPE_CHECKING:
    from shop.platform.http.interceptors import Choose, Observe
    from shop.platform.telemetry.metrics import Metrics
    from shop.platform.telemetry.tracing import Tracing


class Telemetry:
    """What one process shows of itself.

    `part` is the kind of process: `api`, `worker`, or the name of a command. Create it before the other parts,
    because its interceptors go around them. It does nothing until it is `running`.
    """

    def __init__(self, settings: Settings, part: str, service: str) -> None:
        self._settings = settings.telemetry
        self._labels = {"service": service, "part": part}
        self.pages: dict[str, Show] = {}
        """What it serves besides `/metrics`, by path. Add to it before it runs."""
        self.metrics = _metrics(part) if self._settings.metrics else None
        if self.metrics is not None:
            self.pages["/metrics"] = self._show
        self.traces = tracing_of(settings, part, service)
        if self.metrics is not None and self.traces is not None:
            from shop.platform.telemetry.parts import of_traces  # noqa: PLC0415 - only with metrics

            self.metrics.add(partial(of_traces, self.traces.export))

    def steps(self) -> "tuple[Interceptor, ...]":
        """Its interceptors around the steps of the spine, the outermost first."""
        return (
            *(() if self.metrics is None else self.metrics.steps()),
            *(() if self.traces is None else self.traces.steps()),
        )

    def choosers(self) -> "tuple[Choose, ...]":
        """What chooses requests to be traced. Of the answer of another than a fast route, a span has the status alone."""
        return () if self.traces is None else self.traces.choosers()

    def observers(self) -> "tuple[Observe, ...]":
        """What measures the requests of fast routes."""
        return () if self.metrics is None else self.metrics.observers()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Serve what there is to see, until the block ends."""
        async with AsyncExitStack() as held:
            if self.traces is not None:
                await held.enter_async_context(self.traces.sending())
            if self.pages:
                shown = self._settings
                await held.enter_async_context(
                    serving(
                        self.pages,
                        shown.metrics_host,
                        shown.metrics_port,
                        shown.target_file,
                        self._labels,
                    )
                )
            yield

    async def _show(self, headers: Mapping[str, str]) -> Page:
        assert self.metrics is not None
        return self.metrics.page(headers.get("accept", ""))


def _metrics(part: str) -> "Metrics":
    # It loads the metrics client, which a process without metrics does not need.
    from shop.platform.telemetry.metrics import Metrics  # noqa: PLC0415

    return Metrics(part)


def tracing_of(settings: Settings, part: str, service: str) -> "Tracing | None":
    """What traces a process; None if its settings name no collector."""
    if not settings.telemetry.otlp_endpoint:
        return None
    # It loads OpenTelemetry: 26 megabytes, and a third of a second.
    from shop.platform.telemetry.tracing import Tracing  # noqa: PLC0415

    return Tracing(settings, part, service)
