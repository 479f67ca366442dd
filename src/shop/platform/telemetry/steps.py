"""Measures the steps of the spine: commits, appends and batches of records. It costs a batch, and not an event."""

from collections.abc import Sequence
from time import perf_counter
from typing import TYPE_CHECKING

from eventspine.interceptors import Interceptor, Proceed
from shop.platform.telemetry import declared
from shop.platform.telemetry.histogram import Histogram

if TYPE_CHECKING:
    from eventspine.backlog import Batch
    from eventspine.log import Record
    from eventspine.outbox import Transaction


class MeasuredSteps(Interceptor):
    def __init__(self) -> None:
        self.commits = Histogram(declared.COMMIT_SECONDS.bounds)
        self.published = 0
        self.appends = Histogram(declared.APPEND_SECONDS.bounds)
        self.relayed = 0
        self.relay_batches = Histogram(declared.RELAY_BATCH.bounds)
        self.receives = Histogram(declared.RECEIVE_SECONDS.bounds)

    async def commit(self, tx: "Transaction", proceed: Proceed) -> None:
        began = perf_counter()
        await proceed()
        self.commits.observe(perf_counter() - began)
        self.published += tx.published

    async def append(self, batch: "Batch", proceed: Proceed) -> None:
        began = perf_counter()
        try:
            await proceed()
        finally:
            self.appends.observe(perf_counter() - began)
        self.relayed += len(batch)
        self.relay_batches.observe(len(batch))

    async def receive(self, records: "Sequence[Record]", proceed: Proceed) -> None:  # noqa: ARG002
        began = perf_counter()
        try:
            await proceed()
        finally:
            self.receives.observe(perf_counter() - began)
