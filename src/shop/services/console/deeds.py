"""What an administrator does to parked keys, one after the other, with progress; and the undo of a discard.

Deeds are kept in this process: the last ones, until it ends.
"""

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

import psycopg
import structlog

from eventspine import dead_letters
from eventspine.database import Database
from eventspine.dead_letters import PASSING, Parked
from eventspine.error_text import text_of
from eventspine.reactions import Reaction
from shop.services.console.reading import Reading
from shop.services.console.stuck import Key, consumer_of, grouped, records_of

_LOG = structlog.get_logger("shop.console")

_KEPT = 20
_PAGE = 500  # records that are discarded in one transaction
_MOST_UNDO_BYTES = 64 * 1024 * 1024
"""Of the records of a discard. If there are more, they are discarded for good."""
_MOST_FAILURES = 100
"""Failures that are shown; the others are counted."""
_BEAT_S = 0.25

Kind = Literal["retry", "discard"]


@dataclass
class Deed:
    """One deed: under way, or done."""

    id: str
    kind: Kind
    by: str
    back: str
    """The address of the page that it was begun on."""
    keys: Sequence[Key]
    accept_gaps: bool = False
    only_first: bool = False
    """Discard only the record that failed, and keep what waits behind it."""
    began: datetime = field(default_factory=lambda: datetime.now(UTC))
    done: int = 0
    """Keys."""
    records: int = 0
    """Records that were applied or discarded."""
    well: int = 0
    """Keys of which nothing is left that was meant."""
    failed: int = 0
    failures: list[tuple[Key, str]] = field(default_factory=list)
    discarded: list[tuple[Key, list[Parked]]] = field(default_factory=list)
    bytes: int = 0
    undone: int | None = None
    """Records that an undo has put back."""
    state: Literal["runs", "done", "stopped"] = "runs"
    asked_to_stop: bool = False

    @property
    def total(self) -> int:
        return len(self.keys)

    @property
    def can_be_undone(self) -> bool:
        return (
            self.kind == "discard"
            and self.state != "runs"
            and self.undone is None
            and 0 < self.bytes <= _MOST_UNDO_BYTES
        )

    def fail(self, key: Key, why: str) -> None:
        self.failed += 1
        if len(self.failures) < _MOST_FAILURES:
            self.failures.append((key, " ".join(why.split())[:500]))


class Deeds:
    """All deeds of this process. One runs at a time, so that none hurts a service."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._kept: OrderedDict[str, Deed] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Lock()

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Stops what is under way at the end. Each key is a transaction, so nothing is half done."""
        yield
        for deed in self._kept.values():
            deed.asked_to_stop = True
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5)
        for task in self._tasks:
            task.cancel()

    def begin(
        self,
        kind: Kind,
        keys: Sequence[Key],
        *,
        by: str,
        back: str,
        accept_gaps: bool = False,
        only_first: bool = False,
    ) -> Deed:
        deed = Deed(secrets.token_hex(6), kind, by, back, keys, accept_gaps, only_first)
        self._kept[deed.id] = deed
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        task = asyncio.create_task(self._run(deed))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return deed

    def get(self, id_: str) -> Deed | None:
        return self._kept.get(id_)

    def latest(self) -> list[Deed]:
        """The newest first."""
        return list(reversed(self._kept.values()))

    async def looks(self, deed: Deed) -> AsyncIterator[Deed]:
        """The deed each time that it may have moved, and once more when it has ended."""
        while deed.state == "runs":
            yield deed
            await asyncio.sleep(_BEAT_S)
        yield deed

    async def undo(self, deed: Deed) -> None:
        """Put back what was discarded. Raises `Unavailable`; then nothing of that service was put back."""
        async with self._turn:
            if not deed.can_be_undone:
                return
            deed.undone = 0
            left = deed.discarded
            try:
                while left:
                    key, records = left[0]
                    async with self._reading.writing(key.service) as database:
                        deed.undone += await dead_letters.park_again(
                            database, key.consumer, records
                        )
                    left.pop(0)
            except BaseException:
                deed.undone = None
                raise
        _LOG.info("console.deed_reversed", deed=deed.id, records=deed.undone)

    async def _run(self, deed: Deed) -> None:
        async with self._turn:
            _LOG.info("console.deed_started", deed=deed.id, kind=deed.kind, keys=deed.total)
            try:
                for name, keys in grouped(deed.keys).items():
                    await self._in_service(deed, name, keys)
            finally:
                # This is also done after an error. Otherwise the page would always show it as running.
                deed.state = "stopped" if deed.done < deed.total else "done"
        _LOG.info(
            "console.deed_ended",
            deed=deed.id, state=deed.state, keys=deed.done, records=deed.records, failed=deed.failed,
        )  # fmt: skip

    async def _in_service(self, deed: Deed, name: str, keys: Sequence[Key]) -> None:
        do = self._retry if deed.kind == "retry" else self._discard
        async with self._reading.writing(name) as database:
            for key in keys:
                if deed.asked_to_stop:
                    return
                try:
                    await do(deed, key, database)
                except (*PASSING, psycopg.Error) as error:
                    # Of the database, for instance: a role that may not do it.
                    deed.fail(key, text_of(error) or type(error).__name__)
                deed.done += 1

    async def _retry(self, deed: Deed, key: Key, database: Database) -> None:
        handlers = consumer_of(self._reading, key)
        if handlers is None:
            deed.fail(key, f"there is no consumer {key.consumer}")
            return
        try:
            done = await dead_letters.retry(
                database, handlers, key.topic, key.key, accept_gaps=deed.accept_gaps
            )
        finally:
            if isinstance(handlers, Reaction):
                await handlers.close()
        deed.records += done.applied
        if done.left:
            deed.fail(key, done.error or f"{done.left} record(s) are left")
        else:
            deed.well += 1

    async def _discard(self, deed: Deed, key: Key, database: Database) -> None:
        while True:
            limit = 1 if deed.only_first else _PAGE
            # From the beginning each time: what was found before is gone.
            records = await records_of(self._reading, key, skip=0, limit=limit)
            gone = await dead_letters.discard(database, key.consumer, records)
            deed.records += gone
            if gone and deed.bytes <= _MOST_UNDO_BYTES:
                deed.bytes += sum(len(each.value or b"") + 200 for each in records)
                deed.discarded.append((key, records))
                if deed.bytes > _MOST_UNDO_BYTES:
                    deed.discarded.clear()
            if len(records) < limit or deed.only_first:
                break
        deed.well += 1
