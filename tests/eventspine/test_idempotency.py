"""Erasure and the answers that are being stored at that moment."""

import asyncio
from collections.abc import Callable, Sequence
from hashlib import sha256

from eventspine.database import Database
from eventspine.idempotency import Answer, Key, Once, forget, hold_answers, once_in_transaction
from eventspine.outbox import Transaction, transaction
from tests.eventspine import notes
from tests.eventspine.conftest import opened, run

GONE = Answer(410, (), b"gone")


def keyed(key: str) -> Once[int]:
    return Once(1, Key(key, "print", lambda text: Answer(200, (), text.encode(), "1")))


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

    await notes.eventually(one_does, within=5.0, what="the wait for a lock")


def test_an_answer_made_before_the_erasure_is_not_stored_after_it(notes_url: str) -> None:
    async def scenario() -> None:
        async with opened(notes_url) as database:
            await notes.publish(database, notes.event(1, 1, "a secret"))
            has_read, go_on = asyncio.Event(), asyncio.Event()

            async def slow(tx: Transaction, commands: Sequence[int]) -> list[str]:
                texts = [await read(tx) for _ in commands]
                has_read.set()
                await go_on.wait()
                return texts

            answering = asyncio.create_task(once_in_transaction(database, slow)([keyed("k")]))
            await has_read.wait()
            erasing = asyncio.create_task(erase(database))
            await waits(database, "ExclusiveLock")
            go_on.set()
            assert [answer.body for answer in await answering] == [b"a secret"]
            await erasing
            assert await answers(database) == {"k": (410, "gone", None)}
            again = await once_in_transaction(database, slow)([keyed("k")])
            assert again == [GONE]

    run(scenario())


def test_an_answer_made_after_the_erasure_knows_of_it(notes_url: str) -> None:
    async def scenario() -> None:
        async with opened(notes_url) as database:
            await notes.publish(database, notes.event(1, 1, "a secret"))

            async def quick(tx: Transaction, commands: Sequence[int]) -> list[str]:
                return [await read(tx) for _ in commands]

            async with transaction(database) as tx:
                await tx.execute("UPDATE notes SET text = '' WHERE id = 1")
                await hold_answers(tx)
                answering = asyncio.create_task(once_in_transaction(database, quick)([keyed("k")]))
                await waits(database, "ShareLock")
                await forget(tx, ["1"], GONE)
            assert [answer.body for answer in await answering] == [b""]

    run(scenario())


def test_only_what_is_about_them_is_forgotten(notes_url: str) -> None:
    async def scenario() -> None:
        async with opened(notes_url) as database:

            async def named(tx: Transaction, commands: Sequence[str]) -> list[str]:
                return list(commands)

            def about(whom: str | None) -> Callable[[str], Answer]:
                return lambda text: Answer(200, (("etag", "x"),), text.encode(), whom)

            commands = [
                Once(key, Key(key, "print", about(whom)))
                for key, whom in (("a", "1"), ("b", "2"), ("c", None), ("d", "1"), ("e", "3"))
            ]
            await once_in_transaction(database, named)(commands)
            async with transaction(database) as tx:
                await forget(tx, ["1", "3", "4"], GONE)
            assert {key: body for key, (_, body, _) in (await answers(database)).items()} == {
                "a": "gone", "b": "b", "c": "c", "d": "gone", "e": "gone"
            }  # fmt: skip

    run(scenario())


async def answers(database: Database) -> dict[str, tuple[object, ...]]:
    """By key, of those that these tests use."""
    names = {sha256(name.encode()).digest(): name for name in "abcdek"}
    rows = await database.fetch("SELECT key_hash, status, body, about FROM idempotency_keys")
    return {names[key_hash]: tuple(row) for key_hash, *row in rows}
