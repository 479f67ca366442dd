"""Keys that are taken, among those that are not; erasure, and the answers that are being stored."""

import asyncio
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any

from eventspine.answers import Answer, Key
from eventspine.batching import Batcher
from eventspine.context import Request
from eventspine.database import Database
from eventspine.idempotency import KeyReused, forget, hold_answers, once_in_transaction
from eventspine.outbox import Transaction, transaction
from tests.support import notes
from tests.support.spine import opened
from tests.support.waiting import eventually

GONE = Answer(410, (), b"gone")


def keyed(key: str) -> Request[int]:
    return Request(1, key=Key(key, b"print", lambda text: Answer(200, (), text.encode(), "1")))


async def read(tx: Transaction) -> str:
    """As others do who answer with a row that they do not lock."""
    [(text,)] = await tx.fetch("SELECT text FROM notes WHERE id = 1")
    return str(text)


async def erase(database: Database) -> None:
    async with transaction(database) as tx:
        await tx.execute("UPDATE notes SET text = '' WHERE id = 1")
        await hold_answers(tx)
        await forget(tx, ["1"], GONE)


async def waits(database: Database, mode: str) -> None:
    """Until somebody waits for the lock."""

    async def one_does() -> bool:
        return bool(
            await database.fetch(
                "SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
                " AND mode = %(mode)s",
                {"mode": mode},
            )
        )

    await eventually(one_does, what="the wait for a lock")


async def test_an_answer_made_before_the_erasure_is_not_stored_after_it(notes_url: str) -> None:
    async with opened(notes_url) as database:
        await notes.publish(database, notes.event(1, 1, "a secret"))
        has_read, go_on = asyncio.Event(), asyncio.Event()

        async def slow(tx: Transaction, requests: Sequence[Request[int]]) -> list[str]:
            texts = [await read(tx) for _ in requests]
            has_read.set()
            await go_on.wait()
            return texts

        answering: asyncio.Future[Sequence[Any]] = asyncio.ensure_future(
            once_in_transaction(database, slow)([keyed("k")])
        )
        await has_read.wait()
        erasing = asyncio.create_task(erase(database))
        await waits(database, "ExclusiveLock")
        go_on.set()
        assert [answer.body for answer in await answering] == [b"a secret"]
        await erasing
        assert await answers(database) == {"k": (410, "gone", None)}
        again = Batcher(once_in_transaction(database, slow))
        assert await again.submit(keyed("k")) == GONE
        await again.close()


async def test_an_answer_made_after_the_erasure_knows_of_it(notes_url: str) -> None:
    async with opened(notes_url) as database:
        await notes.publish(database, notes.event(1, 1, "a secret"))

        async def quick(tx: Transaction, requests: Sequence[Request[int]]) -> list[str]:
            return [await read(tx) for _ in requests]

        async with transaction(database) as tx:
            await tx.execute("UPDATE notes SET text = '' WHERE id = 1")
            await hold_answers(tx)
            answering: asyncio.Future[Sequence[Any]] = asyncio.ensure_future(
                once_in_transaction(database, quick)([keyed("k")])
            )
            await waits(database, "ShareLock")
            await forget(tx, ["1"], GONE)
        assert [answer.body for answer in await answering] == [b""]


async def test_only_what_is_about_them_is_forgotten(notes_url: str) -> None:
    async with opened(notes_url) as database:

        async def named(tx: Transaction, requests: Sequence[Request[str]]) -> list[str]:
            return [request.command for request in requests]

        def about(whom: str | None) -> Callable[[str], Answer]:
            return lambda text: Answer(200, (("etag", "x"),), text.encode(), whom)

        commands = [
            Request(key, key=Key(key, b"print", about(whom)))
            for key, whom in (("a", "1"), ("b", "2"), ("c", None), ("d", "1"), ("e", "3"))
        ]
        await once_in_transaction(database, named)(commands)
        async with transaction(database) as tx:
            await forget(tx, ["1", "3", "4"], GONE)
        assert {key: body for key, (_, body, _) in (await answers(database)).items()} == {
            "a": "gone", "b": "b", "c": "c", "d": "gone", "e": "gone"
        }  # fmt: skip


class Desk:
    """Takes notes: what its callers submit, by their keys, is done once."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.asked: list[list[int]] = []
        self.refuses = False
        self._once = once_in_transaction(database, self._take)

    async def _take(
        self, tx: Transaction, requests: Sequence[Request[int]]
    ) -> list[str | Exception]:
        ids = [request.command for request in requests]
        self.asked.append(list(ids))
        if self.refuses:
            return [LookupError("not now") for _ in ids]
        await notes.save(tx, [notes.event(id_, 1) for id_ in ids])
        return [f"took {id_}, try {len(self.asked)}" for id_ in ids]

    async def submit(self, *wanted: tuple[int, str | None]) -> list[object]:
        """One batch of ids and their keys."""

        def answer(result: object) -> Answer | None:
            return Answer(200, (), result.encode()) if isinstance(result, str) else None

        batcher = Batcher(self._once)
        outcomes = await asyncio.gather(
            *(
                batcher.submit(
                    Request(id_, key=Key(key, b"take %d" % id_, answer) if key else None)
                )
                for id_, key in wanted
            ),
            return_exceptions=True,
        )
        await batcher.close()
        return [
            outcome.body.decode() if isinstance(outcome, Answer) else outcome
            for outcome in outcomes
        ]

    async def taken(self) -> list[tuple[int, int]]:
        """The notes, and the positions that were given out."""
        [(head,)] = await self.database.fetch("SELECT position FROM outbox_head")
        return [
            (id_, head) for (id_,) in await self.database.fetch("SELECT id FROM notes ORDER BY id")
        ]


async def test_a_key_that_is_taken_takes_its_batch_back_and_nothing_is_done_twice(
    notes_url: str,
) -> None:
    async with opened(notes_url) as database:
        desk = Desk(database)
        assert await desk.submit((1, "a"), (2, "b")) == ["took 1, try 1", "took 2, try 1"]
        *told, reused = await desk.submit((3, "c"), (1, "a"), (4, None), (9, "b"))
        assert told == ["took 3, try 3", "took 1, try 1", "took 4, try 3"]
        assert isinstance(reused, KeyReused)
        assert desk.asked == [[1, 2], [3, 1, 4, 9], [3, 4]]
        assert await desk.taken() == [(1, 4), (2, 4), (3, 4), (4, 4)]


async def test_keys_are_looked_up_first_for_as_long_as_some_are_taken(notes_url: str) -> None:
    async with opened(notes_url) as database:
        desk = Desk(database)
        await desk.submit((1, "a"))
        await desk.submit((1, "a"))
        desk.asked.clear()
        await desk.submit((1, "a"))
        for id_ in range(10, 26):
            await desk.submit((id_, f"new {id_}"))
        await desk.submit((1, "a"))
        assert desk.asked == [[], *([id_] for id_ in range(10, 26)), [1], []]


async def test_a_repeat_that_would_be_refused_for_now_is_given_its_first_answer(
    notes_url: str,
) -> None:
    async with opened(notes_url) as database:
        desk = Desk(database)
        await desk.submit((1, "a"))
        desk.refuses = True
        first, new, reused = await desk.submit((1, "a"), (2, "b"), (3, "a"))
        assert first == "took 1, try 1"
        assert isinstance(new, LookupError)
        assert isinstance(reused, KeyReused)
        desk.refuses = False
        assert await desk.submit((2, "b")) == ["took 2, try 3"]


async def answers(database: Database) -> dict[str, tuple[object, ...]]:
    """By key, of those that these tests use."""
    names = {sha256(name.encode()).digest(): name for name in "abcdek"}
    rows = await database.fetch("SELECT key_hash, status, body, about FROM idempotency_keys")
    return {names[key_hash]: tuple(row) for key_hash, *row in rows}
