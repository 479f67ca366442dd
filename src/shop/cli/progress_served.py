"""The progress of a long command as metrics, while it runs, if it was given a port for them."""

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from shop.cli.progress import SO_FAR
from shop.platform.settings import Settings
from shop.platform.telemetry.serving import Page, serving

if TYPE_CHECKING:
    from shop.platform.telemetry.histogram import Sample


@asynccontextmanager
async def progress_served(settings: Settings, command: str, service: str) -> AsyncIterator[None]:
    """Serve `/metrics` until the block ends. Without a port in the settings, nothing is served: nobody would find
    a free one of a command.
    """
    own = settings.telemetry
    if not own.metrics or not own.metrics_port:
        yield
        return
    from shop.platform.telemetry.metrics import Metrics  # noqa: PLC0415 - only where it is served

    metrics = Metrics(command)
    metrics.add(lambda: _samples(command))

    async def show(headers: Mapping[str, str]) -> Page:
        return metrics.page(headers.get("accept", ""))

    labels = {"service": service, "part": command}
    async with serving(
        {"/metrics": show}, own.metrics_host, own.metrics_port, own.target_file, labels, silent=True
    ):
        yield


def _samples(command: str) -> "Iterator[Sample]":
    from shop.platform.telemetry.declared import DONE, EXPECTED  # noqa: PLC0415
    from shop.platform.telemetry.histogram import Sample  # noqa: PLC0415

    for step, (done, total) in list(SO_FAR.items()):
        yield Sample(DONE, (command, step), done)
        yield Sample(EXPECTED, (command, step), total)
