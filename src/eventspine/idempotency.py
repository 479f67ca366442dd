"""One idempotency key, one outcome.

The first answer to a request that carries a key is stored in the transaction that did the work, and
every repeat of the request is given those same bytes: after a lost answer, after a crash, from
another process. Two at once do the work twice and commit it once: the second to commit finds the key
taken, rolls everything back, and answers what the first one stored.

An answer may hold somebody's personal data. When they are erased, it is overwritten (`forget`).
What was asked for may hold some too, and is kept as a hash. Whoever has such a hash could find out by
guessing, so it is salted with the key, and of the key too only a hash is kept: the salt is known to
nobody but the client. So it can stay after an erasure, and tells a repeat from another request.

The header and its meaning follow the IETF draft "The Idempotency-Key HTTP Header Field".
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from hashlib import sha256
from typing import Any, Generic, NamedTuple, TypeVar

from pydantic_core import to_json

from eventspine.batching import Run
from eventspine.database import Database
from eventspine.errors import Raced, SpineError
from eventspine.outbox import Transaction, transaction

Command = TypeVar("Command")
Result = TypeVar("Result")

# The keys as JSON, like everything else that comes by the batch: psycopg quotes an array string by
# string. The lock, shared, tells `hold_answers` of whoever may store an answer. It stands on the
# left, or PostgreSQL need not take it where no key is found.
_FIND = """
WITH storing AS MATERIALIZED (SELECT pg_advisory_xact_lock_shared(7409))
SELECT key_hash, fingerprint, status, headers, body
FROM storing LEFT JOIN idempotency_keys
    ON key_hash = ANY(ARRAY(
        SELECT decode(hex, 'hex') FROM jsonb_array_elements_text(%(hashes)s::jsonb) AS hashes(hex)
    ))
"""

# In the order of the keys, or two batches could wait for each other. Waits for whoever is about to
# commit the same key.
_STORE = """
INSERT INTO idempotency_keys (key_hash, fingerprint, status, headers, body, about)
SELECT decode(key_hash, 'hex'), decode(fingerprint, 'hex'), status, headers, body, about
FROM jsonb_to_recordset(%(answers)s::jsonb) AS a(
    key_hash text, fingerprint text, status integer, headers jsonb, body text, about text)
ORDER BY key_hash
ON CONFLICT DO NOTHING
"""

_HOLD = "SELECT pg_advisory_xact_lock(7409)"

_FORGET = """
UPDATE idempotency_keys
SET status = %(status)s, headers = %(headers)s, body = %(body)s, about = NULL
WHERE about = ANY(%(about)s)
"""


class Answer(NamedTuple):
    """What a client was told, to the byte. `about` is whose personal data it holds, if anybody's."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    about: str | None = None


class Key(NamedTuple):
    """A key, what it may be used for, and how to put a result into an answer.

    `fingerprint` tells whether a repeat is one: the same key with another is refused. `answer` gives
    None for a result that a repeat must not be bound to: a refusal for a reason that may pass.
    """

    key: str
    fingerprint: str
    answer: Callable[[Any], Answer | None]

    def hash(self) -> bytes:
        return sha256(self.key.encode()).digest()

    def salted(self) -> bytes:
        return sha256(f"{self.key} {self.fingerprint}".encode()).digest()


class Once(NamedTuple, Generic[Command]):
    """A command, to be done once for its key; as often as it is sent, if it has none."""

    command: Command
    key: Key | None = None


class KeyReused(SpineError):
    """The key has been used for something else."""


def once_in_transaction(
    database: Database,
    action: Callable[[Transaction, Sequence[Command]], Awaitable[Sequence[Result | Exception]]],
) -> Run[Once[Command], Result | Answer]:
    """An action as something a batcher can run, each batch in one transaction, each key once.

    A command with a key is answered with an `Answer`, and `KeyReused` is a refusal. Raises `Raced`
    when somebody else commits one of the keys first. A batch without
    keys costs nothing more than it did.
    """

    async def run(commands: Sequence[Once[Command]]) -> Sequence[Result | Answer | Exception]:
        async with transaction(database) as tx:
            # Leaving the block commits; only then are callers told.
            return await _run(tx, action, commands)

    return run


async def _run(
    tx: Transaction,
    action: Callable[[Transaction, Sequence[Command]], Awaitable[Sequence[Result | Exception]]],
    commands: Sequence[Once[Command]],
) -> Sequence[Result | Answer | Exception]:
    if all(once.key is None for once in commands):
        return await action(tx, [once.command for once in commands])
    known = await _find(tx, commands)
    # The first of each key not known yet, and all without one, are done; the rest are answered.
    todo: list[Once[Command]] = []
    first: set[str] = set()
    for once in commands:
        if once.key is None or not (once.key.key in known or once.key.key in first):
            todo.append(once)
            if once.key is not None:
                first.add(once.key.key)
    results = await action(tx, [once.command for once in todo])
    done = dict(zip(map(id, todo), results, strict=True))
    refused = await _store(tx, todo, results, known)
    return [
        done[id(once)] if once.key is None else _repeated(once.key, known, refused)
        for once in commands
    ]


class _Stored(NamedTuple):
    fingerprint: bytes
    """Salted."""
    answer: Answer


async def _find(tx: Transaction, commands: Sequence[Once[Command]]) -> dict[str, _Stored]:
    keys = {once.key.hash(): once.key.key for once in commands if once.key is not None}
    hashes = [key_hash.hex() for key_hash in keys]
    return {
        keys[key_hash]: _Stored(fingerprint, _answer(status, headers, body))
        for key_hash, fingerprint, status, headers, body in await tx.fetch(
            _FIND, {"hashes": to_json(hashes).decode()}
        )
        if key_hash is not None
    }


def _answer(status: int, headers: list[list[str]], body: str) -> Answer:
    return Answer(status, tuple((name, value) for name, value in headers), body.encode())


async def _store(
    tx: Transaction,
    todo: Sequence[Once[Command]],
    results: Sequence[Result | Exception],
    known: dict[str, _Stored],
) -> dict[str, tuple[bytes, Result | Exception]]:
    """Store the answers and add them to `known`; gives the results that are not to be stored."""
    passing: dict[str, tuple[bytes, Result | Exception]] = {}
    new = []
    for once, result in zip(todo, results, strict=True):
        if once.key is None:
            continue
        key, fingerprint = once.key.key, once.key.salted()
        answer = once.key.answer(result)
        if answer is None:
            passing[key] = (fingerprint, result)
            continue
        known[key] = _Stored(fingerprint, answer)
        new.append(
            {
                "key_hash": once.key.hash().hex(),
                "fingerprint": fingerprint.hex(),
                "status": answer.status,
                "headers": answer.headers,
                "body": answer.body,
                "about": answer.about,
            }
        )
    if new:
        stored = await tx.execute(_STORE, {"answers": to_json(new).decode()})
        if stored.rowcount != len(new):
            raise Raced("others keep committing the same idempotency keys")
    return passing


def _repeated(
    key: Key,
    known: dict[str, _Stored],
    passing: Mapping[str, tuple[bytes, Result | Answer | Exception]],
) -> Result | Answer | Exception:
    fingerprint, outcome = known[key.key] if key.key in known else passing[key.key]
    if fingerprint != key.salted():
        return KeyReused("the idempotency key has been used for another request")
    return outcome


async def hold_answers(tx: Transaction) -> None:
    """Wait for every transaction that may store an answer; none begins until this one ends.

    Call it before `forget` where answers are made of rows that are read and not locked: one made
    before the erasure could be stored after it. Never call it holding a row that such a
    transaction may wait for.
    """
    await tx.execute(_HOLD)


async def forget(tx: Transaction, about: Sequence[str], answer: Answer) -> None:
    """Put `answer` in the place of every stored one about these. Their keys stay taken."""
    await tx.execute(
        _FORGET,
        {
            "about": list(about),
            "status": answer.status,
            "headers": to_json(answer.headers).decode(),
            "body": answer.body.decode(),
        },
    )
