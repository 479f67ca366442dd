"""Consumers that are told what to read; and logs in which others have written as well."""

import asyncio
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

from hypothesis import strategies as st

from eventspine.consumer import Consumer
from eventspine.database import Database
from eventspine.errors import Unavailable
from eventspine.event import NotAnEvent, envelope
from eventspine.handlers import Handlers
from eventspine.log import Message, Record
from eventspine.outbox import Transaction
from eventspine.received import Received
from tests.support import notes
from tests.support.memory_log import MemoryLog, MemorySubscription
from tests.support.notes import NoteChanged, NoteEvent, NoteTaken

PARTITIONS = 3


def changed(message: Message, **headers: str | None) -> Message:
    merged = {**message.headers, **headers}
    return message._replace(headers={k: v for k, v in merged.items() if v is not None})


def poison() -> dict[str, Message | None]:
    """Records that are no events of ours, by what is wrong with them."""
    good = notes.wire(2, notes.event(901, 1))
    late = notes.event(901, 1)
    values: dict[str, bytes | None] = {
        "a tombstone": None,
        "an empty value": b"",
        "bad JSON": b"{",
        "not UTF-8": b"\xff\xfe",
        "two values in one": notes.as_json(late) + b"," + notes.as_json(notes.event(902, 1)),
        "another shape": b'{"id": 901}',
        "a list": b"[1]",
        "U+0000": notes.as_json(late, text="a\0b"),
        "U+0000 after a backslash": notes.as_json(late, text="a\\\0b"),
        "a lone surrogate": b'{"id": 901, "version": 1, "text": "\\ud800"}',
        "an id beyond bigint": notes.as_json(late, id=2**63),
        "a version beyond bigint": notes.as_json(late, version=2**63),
        "a version of 0": notes.as_json(late, version=0),
        "a number without end": b'{"id": 1' + b"0" * 5000 + b', "version": 1, "text": ""}',
        "a nest without end": b'{"id": 901, "version": 1, "text": ' + b"[" * 100_000,
        "a huge value": b'{"text": "' + b"x" * 5_000_000,
    }
    headers: dict[str, dict[str, str | None]] = {
        "no position": {"ce_id": None},
        "no source": {"ce_source": None},
        "no type": {"ce_type": None},
        "another source": {"ce_source": "/others", "ce_id": "999999"},
        **{
            f"position {position!r}": {"ce_id": position}
            for position in (
                "", "0", "-1", "+7", "1.5", "1_0", " 1", "x", "９", "9" * 30, "9" * 5000, str(2**63)
            )
        },
    }  # fmt: skip
    return {
        "nothing at all": None,
        **{what: good._replace(value=value) for what, value in values.items()},
        **{what: changed(good, **wrong) for what, wrong in headers.items()},
    }


POISON = poison()


# A record that claims a position of ours is one of ours, whatever it holds.
ODD = {
    what: odd
    for what, odd in POISON.items()
    if not (
        odd and odd.headers.get("ce_id") == "2" and odd.headers.get("ce_source") == notes.SOURCE
    )
}


UNKNOWN = changed(notes.wire(1, notes.event(901, 1)), ce_type="note.burnt")


def is_foreign(record: Record) -> bool:
    try:
        return envelope(record).source != notes.SOURCE
    except NotAnEvent:
        return True


@st.composite
def logs(draw: st.DrawFn) -> tuple[list[NoteEvent], MemoryLog]:
    """A history, and a log fed with it by relays that start again from earlier positions.

    Others have written to it as well.
    """
    history: list[NoteEvent] = []
    versions: Counter[int] = Counter()
    for id_ in draw(st.lists(st.integers(1, 5), min_size=1, max_size=25)):
        versions[id_] += 1
        history.append(notes.event(id_, versions[id_]))
    log = MemoryLog(PARTITIONS)
    reached = 0  # what all relays together have put into the log: prefixes only
    start = 0
    while reached < len(history):
        end = draw(st.integers(min(start + 1, len(history)), len(history)))
        for n in range(start, end):
            log.put(history[n].id % PARTITIONS, notes.wire(n + 1, history[n]))
            if draw(st.integers(0, 9)) == 0:
                odd = draw(st.sampled_from([*ODD.values(), UNKNOWN]))
                log.put(draw(st.integers(0, PARTITIONS - 1)), odd)
        reached = max(reached, end)
        start = draw(st.integers(0, reached))
    return history, log


steps = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.one_of(
            st.tuples(*[st.integers(0, 6)] * PARTITIONS),
            st.just("restarts"),
            st.tuples(st.just("fails"), st.integers(1, 4)),
            st.tuples(st.just("rewinds"), st.integers(0, PARTITIONS - 1), st.integers(0, 9)),
        ),
    ),
    max_size=25,
)


class Failure(Unavailable):
    """In the midst of the work, and of a kind that passes."""


class Member:
    """A consumer that reads what it is told, and can be replaced and made to fail.

    Events of notes that are `broken` it can't apply at all.
    """

    def __init__(self, database: Database, log: MemoryLog, broken: Collection[int] = ()) -> None:
        self.broken = broken
        self._database = database
        self._log = log
        self._fails = 0

    async def start(self) -> None:
        async def taken(tx: Transaction, received: Sequence[Received[NoteTaken]]) -> None:
            await notes.taken(tx, received)
            self._fail([one.event for one in received])

        async def changed(tx: Transaction, received: Sequence[Received[NoteChanged]]) -> None:
            self._fail([one.event for one in received])
            await notes.changed(tx, received)

        self.handlers = Handlers("copy", {NoteTaken: taken, NoteChanged: changed})
        consumer = Consumer(self._database, self._log, self.handlers)
        already = len(self._log.subscriptions)
        self._task = asyncio.create_task(consumer.run())
        while len(self._log.subscriptions) == already:
            await asyncio.sleep(0)
        self.subscription: MemorySubscription = self._log.subscriptions[-1]
        self.subscription.told = asyncio.Queue()

    def _fail(self, events: Sequence[NoteEvent]) -> None:
        if self._fails:
            self._fails -= 1
            raise Failure
        if found := [one for one in events if one.id in self.broken]:
            raise ValueError(f"{found[0].key} is broken")

    async def stop(self) -> None:
        assert not await notes.cancel([self._task])

    async def take(self, step: Any) -> None:
        match step:
            case "restarts":
                await self.stop()
                await self.start()
            case ("fails", int(times)):
                self._fails = times
            case ("rewinds", int(partition), int(count)):
                await self.subscription.polled.wait()
                next_ = self.subscription.next
                next_[partition] = max(0, next_[partition] - count)
            case cuts:
                await self.subscription.tell(cuts)


async def has_applied(database: Database, count: int) -> bool:
    try:
        return await database.fetch("SELECT count(*) FROM applied") == [(count,)]
    except Unavailable:
        return False
