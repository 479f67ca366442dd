"""A consumer drops no repeats: an event is applied though its position is not above the last one.

Whatever makes a relay begin again brings it to light, and a batch that is simply repeated: the
ledger holds those events twice.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from eventspine import applying
from eventspine.handlers import Handlers
from eventspine.log import Record
from eventspine.reading import (
    AppliedBefore,
    Checkpoint,
    Partition,
    Reading,
    Rejected,
    read,
)
from eventspine.received import Received

FAULTS = ("duplicate", "appended", "two-relays")


def apply() -> None:
    vars(applying)["read"] = _read_all


def _read_all(
    records: Sequence[Record],
    checkpoints: Mapping[Partition, Checkpoint],
    handlers: Handlers,
    earlier: Mapping[str, AppliedBefore] = MappingProxyType({}),
) -> Reading:
    """Each record alone, as if nothing had been applied before it."""
    moves: dict[Partition, Checkpoint] = {}
    items: list[Received[Any] | Rejected] = []
    for record in records:
        at = (record.topic, record.partition)
        next_offset = (moves.get(at) or checkpoints[at]).next_offset
        reading = read([record], {at: Checkpoint(next_offset, 0)}, handlers, earlier)
        moves |= reading.moves
        items += reading.items
    return Reading(moves, items)
