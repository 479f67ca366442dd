"""Detects that Kafka has forgotten a member of a group.

A killed broker can lose its state of the members. After that, a whole group once stopped, and another time a single
partition. There was no error and no record, while the log grew. The client does not repair this. So a member
regularly checks its own state against the broker's. If the same check fails twice in a row, it joins the group again.
That loses nothing, because its checkpoint is in its database.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from eventspine.kafka_log.client import LOG, Settings, quiet
from eventspine.kafka_log.passwords import is_refusal
from eventspine.log import Record

LOOK_EVERY = 6.0
"""Seconds. A partition can be without a holder until the next heartbeat of its next holder, 5 s by default. This is
longer."""

_MORE_THAN_ARE_QUEUED = 100_000
"""Records. All partitions share one queue of the client, of at most 8 MiB. After so many records of other partitions, a
record of this one would have arrived, too."""

_ANSWER_WITHIN = 2.0

Partition = tuple[str, int]


class Watch:
    """The watch of one member. One thread at a time uses it. It checks in its own thread."""

    def __init__(self, config: Settings, group: str, topics: Sequence[str]) -> None:
        own = {name: value for name, value in config.items() if not name.startswith("group.")}
        self._config = own
        self._refused = False
        self._group = group
        self._topics = list(topics)
        self._admin: AdminClient | None = None
        self._looking: Future[set[str]] | None = None
        self._look_at = 0.0
        self._seen: set[str] = set()
        self._records = 0
        self._came: dict[Partition, int] = {}
        """For each partition, the number of all records when its latest record arrived."""
        self._records_then = 0
        """The number of records at the last check."""
        self._ran_empty = False
        """Whether the client had nothing to hand out since then."""

    def joined(self) -> None:
        """The member has joined. Results of earlier checks no longer count."""
        self._look_at = time.monotonic() + LOOK_EVERY
        self._looking = None
        self._seen.clear()
        self._came.clear()
        self._records = self._records_then = 0
        self._ran_empty = False

    def rest(self) -> None:
        """Kafka is unavailable. Drop the client, because one that is not polled keeps its errors."""
        self._admin = None

    def came(self, records: Sequence[Record]) -> None:
        """Call this with all records that the client hands out."""
        self._records += len(records)
        for at in {(record.topic, record.partition) for record in records}:
            self._came[at] = self._records

    def ran_empty(self) -> None:
        """Call this when the client had nothing to hand out."""
        self._ran_empty = True

    def look(
        self, consumer: Consumer, starts: Mapping[Partition, int], given: AbstractSet[Partition]
    ) -> list[str]:
        """The faults that two checks in a row have found. Returns at once; a later call returns the result of a check.

        `starts` has the offset at which the reading of each partition began. `given` are assigned partitions that are not
        read yet.
        """
        if self._looking is None:
            if time.monotonic() >= self._look_at:
                silent = [at for at in starts if self._is_silent(at)]
                self._records_then, self._ran_empty = self._records, False
                # In this thread, because the consumer may be closed while the other thread checks.
                member, places = consumer.memberid() or "", _places(consumer, silent, starts)
                ours = starts.keys() | given
                self._looking = _in_background(partial(self._look, member, places, ours))
            return []
        if not self._looking.done():
            return []
        seen, self._looking = self._looking.result(), None
        self._look_at = time.monotonic() + LOOK_EVERY
        lasting, self._seen = seen & self._seen, seen
        return sorted(lasting)

    def _is_silent(self, at: Partition) -> bool:
        """Whether nothing of it has arrived since the last check, although the client has handed out all it had."""
        came = self._came.get(at, 0)
        drained = self._ran_empty or self._records - came > _MORE_THAN_ARE_QUEUED
        return drained and came <= self._records_then

    def _look(
        self, member: str, places: Mapping[Partition, int], ours: AbstractSet[Partition]
    ) -> set[str]:
        wrong: set[str] = set()
        # A failed request is repeated at the next check.
        with suppress(KafkaException):
            wrong.update(self._not_as_the_group_says(member, ours))
        with suppress(KafkaException):
            wrong.update(self._not_sent(places))
        self._ask().poll(0)
        return wrong

    def _not_sent(self, places: Mapping[Partition, int]) -> Iterator[str]:
        if not places:
            return
        # Not with the consumer, whose requests wait behind a fetch that waits for records.
        latest: Any = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        asked = {TopicPartition(*at): latest for at in places}
        ends = self._ask().list_offsets(asked, request_timeout=_ANSWER_WITHIN)
        for at, end in ends.items():
            place = places[at.topic, at.partition]
            if place < end.result().offset:
                yield f"nothing is sent of {at.topic}/{at.partition} from {place} on"

    def _not_as_the_group_says(self, member: str, ours: AbstractSet[Partition]) -> Iterator[str]:
        held = self._held()
        mine = held.get(member, set())
        for topic, partition in sorted(mine - ours):
            yield f"{topic}/{partition} is held for us, and was never given to us"
        for topic, partition in sorted(self._all() - set(ours).union(*held.values())):
            yield f"{topic}/{partition} has no holder"

    def _held(self) -> dict[str, set[Partition]]:
        """The partitions of each member, according to the group's coordinator."""
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
        if self._admin is not None:
            self._admin.poll(0)  # otherwise it reports no errors
        if self._admin is None or self._refused:
            # Another client, with the current password. Changing it in a client with requests under way
            # aborts the process (librdkafka 2.16: `eonce->refcnt > 0`).
            self._refused = False
            self._admin = AdminClient(quiet(self._config, self._heard))
        return self._admin

    def _heard(self, error: KafkaError) -> None:
        self._refused = self._refused or is_refusal(error)


def _places(
    consumer: Consumer, partitions: Sequence[Partition], starts: Mapping[Partition, int]
) -> dict[Partition, int]:
    """The next offset of each partition. If nothing has arrived yet, it is the offset at which reading began."""
    told = consumer.position([TopicPartition(*at) for at in partitions]) if partitions else []
    offsets = {(each.topic, each.partition): each.offset for each in told}
    return {at: offsets[at] if offsets[at] >= 0 else starts[at] for at in partitions}


def _in_background(look: Callable[[], set[str]]) -> Future[set[str]]:
    """Run it in a thread of its own. The process would wait for a thread of an executor when it ends."""
    seen: Future[set[str]] = Future()

    def run() -> None:
        try:
            seen.set_result(look())
        except Exception:  # noqa: BLE001 - a failed check must not stop the reader
            LOG.exception("kafka.watch_failed")
            seen.set_result(set())

    threading.Thread(target=run, name="kafka-watch", daemon=True).start()
    return seen
