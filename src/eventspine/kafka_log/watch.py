"""Whether a member of a group has been forgotten.

After a broker was killed, and with it the memory of who is a member and until when, a whole group
has been seen standing still: no error, no record, and a log that grew. Nothing in the client heals
that. So a member looks now and then at what it should know anyway, and when the same thing is wrong
at two looks in a row it joins the group anew, which loses nothing: its place is in its database.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from eventspine.kafka_log.client import Settings, quiet

LOOK_EVERY = 10.0
"""Seconds. Longer than a partition takes to change hands: a heartbeat of each side, 5 s by default."""

_ANSWER_WITHIN = 2.0

Partition = tuple[str, int]


class Watch:
    """One member's, used by one thread at a time; it looks in a thread of its own."""

    def __init__(self, config: Settings, group: str, topics: Sequence[str]) -> None:
        own = {name: value for name, value in config.items() if not name.startswith("group.")}
        self._config = own
        self._group = group
        self._topics = list(topics)
        self._admin: AdminClient | None = None
        self._looking: Future[set[str]] | None = None
        self._look_at = 0.0
        self._seen: set[str] = set()
        self.records = 0
        """How many have come; counted by whoever reads."""
        self._records = 0

    def joined(self) -> None:
        """What was seen before is over."""
        self._look_at = time.monotonic() + LOOK_EVERY
        self._looking = None
        self._seen.clear()

    def look(
        self, consumer: Consumer, starts: Mapping[Partition, int], given: AbstractSet[Partition]
    ) -> list[str]:
        """What has been wrong at two looks in a row. Returns at once: the next call says more.

        `starts` is where the reading of each partition was begun; `given` are those not begun yet.
        """
        if self._looking is None:
            if time.monotonic() >= self._look_at:
                silent, self._records = self.records == self._records, self.records
                sent = dict(starts) if silent else {}
                ours = starts.keys() | given
                self._looking = _in_background(partial(self._look, consumer, sent, ours))
            return []
        if not self._looking.done():
            return []
        seen, self._looking = self._looking.result(), None
        self._look_at = time.monotonic() + LOOK_EVERY
        lasting, self._seen = seen & self._seen, seen
        return sorted(lasting)

    def _look(
        self, consumer: Consumer, sent: Mapping[Partition, int], ours: AbstractSet[Partition]
    ) -> set[str]:
        # What can't be asked now is asked the next time.
        with suppress(KafkaException, RuntimeError):
            return {*self._not_as_the_group_says(consumer, ours), *self._not_sent(consumer, sent)}
        return set()

    def _not_sent(self, consumer: Consumer, starts: Mapping[Partition, int]) -> Iterator[str]:
        listed = [TopicPartition(*at) for at in starts]
        if not listed:
            return
        # Not by the consumer, whose every question waits behind a fetch that waits for records.
        latest: Any = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        ends = self._ask().list_offsets(
            dict.fromkeys(listed, latest), request_timeout=_ANSWER_WITHIN
        )
        for at in consumer.position(listed):
            # Below zero: nothing has come since it was begun.
            place = at.offset if at.offset >= 0 else starts[at.topic, at.partition]
            if place < ends[at].result().offset:
                yield f"nothing is sent of {at.topic}/{at.partition} from {place} on"

    def _not_as_the_group_says(
        self, consumer: Consumer, ours: AbstractSet[Partition]
    ) -> Iterator[str]:
        held = self._held()
        mine = held.get(consumer.memberid() or "", set())
        for topic, partition in sorted(mine - ours):
            yield f"{topic}/{partition} is held for us, and was never given to us"
        for topic, partition in sorted(self._all() - set(ours).union(*held.values())):
            yield f"{topic}/{partition} is held by nobody"

    def _held(self) -> dict[str, set[Partition]]:
        """By member, as the group's coordinator sees it."""
        asked: Any = self._ask().describe_consumer_groups(
            [self._group], request_timeout=_ANSWER_WITHIN
        )
        return {
            member.member_id: {
                (each.topic, each.partition) for each in member.assignment.topic_partitions
            }
            for member in asked[self._group].result().members
        }

    def _all(self) -> set[Partition]:
        return {
            (topic, partition)
            for topic in self._topics
            for partition in self._ask().list_topics(topic, _ANSWER_WITHIN).topics[topic].partitions
        }

    def _ask(self) -> AdminClient:
        self._admin = self._admin or AdminClient(quiet(self._config, lambda _: None))
        return self._admin


def _in_background(look: Callable[[], set[str]]) -> Future[set[str]]:
    """Not an executor's: the end of the process waits for those."""
    seen: Future[set[str]] = Future()
    thread = threading.Thread(
        target=lambda: seen.set_result(look()), name="kafka-watch", daemon=True
    )
    thread.start()
    return seen
