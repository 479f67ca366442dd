"""What a relay has put into a log, and saved."""

from collections.abc import Sequence

from eventspine.database import Database
from eventspine.log import EventLog
from eventspine.relay import Relay
from tests.support import notes


async def holds(log: EventLog, last: int) -> bool:
    """Whether every position up to the last is in the log."""
    found = {position for partition in await notes.positions_in(log) for position in partition}
    return found >= set(range(1, last + 1))


async def is_saved(database: Database, position: int) -> bool:
    return await database.fetch("SELECT position FROM relay") == [(position,)]


def firsts(positions: Sequence[int]) -> list[int]:
    """The positions as a consumer counts them: what is not above the last is a repeat."""
    counted: list[int] = []
    for position in positions:
        if not counted or position > counted[-1]:
            counted.append(position)
    return counted


async def assert_whole(log: EventLog, last: int) -> None:
    """A consumer of this log sees every position once, and none is overtaken in its partition."""
    partitions = await notes.positions_in(log)
    assert sorted(p for positions in partitions for p in firsts(positions)) == [*range(1, last + 1)]


async def leads(relay: Relay) -> bool:
    return relay.leads
