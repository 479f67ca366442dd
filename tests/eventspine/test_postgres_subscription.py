"""How a member of a group reads a log that is a table."""

from tests.support import notes
from tests.support.spine import opened_log


async def start_at(topic: str, partition: int) -> int:
    return 0


async def test_a_partition_that_is_never_empty_keeps_no_other_waiting(
    postgres_log_url: str,
) -> None:
    async with opened_log(postgres_log_url, 2) as log:
        await log.append(notes.TOPIC, [notes.wire(n, notes.event(n, 1)) for n in range(1, 101)])
        subscription = log.subscribe("copy", [notes.TOPIC], start_at)
        try:
            polls = [await subscription.poll(10, timeout=1.0) for _ in range(2)]
        finally:
            await subscription.close()
        assert [{record.partition for record in poll} for poll in polls] == [{0}, {1}]
