"""How events flow, now: API → database and outbox → log → consumers, for each service.

    reader = FlowReader(discovery.load_all(), settings)
    flow = await reader.look()      # again after a second: now it has rates
    await reader.close()

`shop top` and the console show the same `Flow`. Everything in it comes from the services' own positions and
checkpoints and from the log's ends. Rates are differences between two looks. So looking needs nothing in the
processes that do the work, and costs them nothing.
"""

from shop.platform.flow.model import (
    Api,
    ConsumerFlow,
    Flow,
    LogFlow,
    Outbox,
    PartitionLag,
    ServiceFlow,
    State,
    Trouble,
)
from shop.platform.flow.reader import FlowReader

__all__ = [
    "Api",
    "ConsumerFlow",
    "Flow",
    "FlowReader",
    "LogFlow",
    "Outbox",
    "PartitionLag",
    "ServiceFlow",
    "State",
    "Trouble",
]
