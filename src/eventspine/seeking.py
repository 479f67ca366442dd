"""Where in a topic a time is. Nothing in a log says so but the events themselves."""

from datetime import datetime

from eventspine.log import EventLog, Record

_AT_ONCE = 50  # records in which one with a time is looked for


async def offset_at(log: EventLog, topic: str, partition: int, time: datetime, *, end: int) -> int:
    """The offset of the first event that was committed at `time` or later; `end` if there is none.

    Times rise with the offsets, apart from repeats and foreign records near it. So the result is where to begin,
    and the reader still compares each event's time. It reads some twenty times, however long the topic is.
    Raises `LogUnavailable`.
    """
    low, high = 0, end
    while low < high:
        middle = (low + high) // 2
        found, next_offset = await _time_from(log, topic, partition, middle, high)
        if found is None or found >= time:
            high = middle
        else:
            low = next_offset
    return low


async def _time_from(
    log: EventLog, topic: str, partition: int, offset: int, end: int
) -> tuple[datetime | None, int]:
    """The time of the first event from `offset` on, and the offset after it; None if there is none before `end`."""
    while offset < end:
        records = await log.read(topic, partition, offset, min(_AT_ONCE, end - offset))
        for record in records:
            if (time := committed_at(record)) is not None:
                return time, record.offset + 1
        if not records:
            break
        offset = records[-1].offset + 1
    return None, end


def committed_at(record: Record) -> datetime | None:
    """When the record's event was committed, by its publisher's clock; None for a foreign record."""
    try:
        time = datetime.fromisoformat(record.headers.get("ce_time", ""))
    except ValueError:
        return None
    return time if time.tzinfo is not None else None
