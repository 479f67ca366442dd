"""One idempotency key, one outcome.

The first answer to a request with a key is stored in the transaction that does the work. Every repeat of the
request gets those same bytes: after a lost answer, after a crash, from another process. If two such requests run
at once, both do the work and one commits. The second to commit finds the key taken, rolls back, and returns the
answer that the first one stored.

An answer may contain personal data. When the person is erased, it is overwritten (`forget`). The request may
contain personal data too, so only a hash of it is kept. The hash is salted with the key, and of the key, too,
only a hash is kept. So a reader of the table can't find the request by guessing: only the client knows the
salt. The hash can stay after an erasure, and distinguishes a repeat from another request.

The header and its meaning follow the IETF draft "The Idempotency-Key HTTP Header Field".
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from hashlib import sha256
from typing import Any, NamedTuple, TypeVar

from pydantic_core import to_json

from eventspine.answers import FORM, Answer, Key
from eventspine.batching import Action, Run
from eventspine.context import Request
from eventspine.database import Database
from eventspine.errors import Conflict, SpineError
from eventspine.outbox import Transaction, transaction

Command = TypeVar("Command")
Result = TypeVar("Result")

# The lock that `hold_answers` waits for. Every transaction that may store an answer takes it before it
# reads anything.
_STORING = "SELECT pg_advisory_xact_lock_shared(7409)"

# The keys are one JSON parameter, because psycopg would quote the strings of an array one by one.
_FIND = """
SELECT key_hash, fingerprint, status, headers, body
FROM idempotency_keys
WHERE key_hash = ANY(ARRAY(
    SELECT decode(hex, 'hex') FROM jsonb_array_elements_text(%(hashes)s::jsonb) AS hashes(hex)
))
"""

# In the order of the keys; otherwise two batches could deadlock. It waits for a transaction that is about to
# commit the same key.
_STORE = """
INSERT INTO idempotency_keys (key_hash, fingerprint, status, headers, body, about, running_ms)
SELECT decode(key_hash, 'hex'), decode(fingerprint, 'hex'), status, headers, body, about,
    (SELECT ms FROM running_time)
FROM jsonb_to_recordset(%(answers)s::jsonb) AS a(
    key_hash text, fingerprint text, status integer, headers jsonb, body text, about text)
ORDER BY 1
ON CONFLICT DO NOTHING
"""

_CALM = 16
"""After so many batches without a known key, keys are no longer looked up first."""

_HOLD = "SELECT pg_advisory_xact_lock(7409)"

_FORGET = """
UPDATE idempotency_keys
SET status = %(status)s, headers = %(headers)s, body = %(body)s, about = NULL
WHERE about = ANY(%(about)s)
"""


_FINGERPRINT_SIZE = len(FORM) + sha256().digest_size


def canonical(command: tuple[Any, ...], caller: str | None) -> bytes:
    """The request and its caller in canonical form: JSON of the command's name and fields, in order.

    `50`, `50.0` and `50.00` are the same number. A field that has its default value is omitted. So a
    release that adds a field still recognises the requests of the release before. `command` is a
    NamedTuple, and its name is part of the form.
    """
    defaults = command._field_defaults  # type: ignore[attr-defined]
    fields = {
        name: _plain(command[place])
        for name, place in _in_order(type(command))
        if name not in defaults or command[place] != defaults[name]
    }
    return to_json([type(command).__name__, fields, caller], inf_nan_mode="strings")


@cache
def _in_order(kind: Any) -> list[tuple[str, int]]:
    """The fields of a NamedTuple, by name, with their places."""
    return sorted((name, place) for place, name in enumerate(kind._fields))


def _plain(value: Any) -> Any:
    match value:
        case str() | int():
            return value
        case Decimal():
            # `normalize` would round to 28 digits.
            text = f"{value:f}"
            return text.rstrip("0").rstrip(".") if "." in text else text
        case datetime():
            return value.astimezone(UTC).isoformat()
        case set() | frozenset():
            return sorted(map(_plain, value))
        case list() | tuple():
            return [_plain(each) for each in value]
    return value


def is_comparable(fingerprint: bytes) -> bool:
    """Whether a stored fingerprint has the form of this release.

    A fingerprint of another release can't be compared with a request. Then the stored answer is
    returned, so nothing is done twice. After a refusal, the client would use a new key, and the work
    would be done twice.
    """
    return len(fingerprint) == _FINGERPRINT_SIZE and fingerprint.startswith(FORM)


class KeyReused(SpineError):
    """The key was used for another request."""


class _Stored(NamedTuple):
    fingerprint: bytes
    """Salted."""
    answer: Answer


def once_in_transaction(
    database: Database,
    action: Action[Command, Result],
) -> Run[Request[Command], Result | Answer]:
    """Make an action into a batcher's `run`: each batch in one transaction, and each key once.

    The result of a command with a key is an `Answer`; `KeyReused` is a refusal. Raises `Conflict` if
    one of the keys is already taken. Then nothing was done.

    Nearly every key is new. So the work is done first, and a taken key is noticed when the answers
    are stored. The batch is then rolled back and must be run again. After that, keys are looked up
    first, until `_CALM` batches had no known key.
    """
    suspicious = 0

    async def run(requests: Sequence[Request[Command]]) -> Sequence[Result | Answer | Exception]:
        nonlocal suspicious
        keys = [request.key.hash for request in requests if request.key is not None]
        # The commit happens when the block ends; callers get their results after it.
        if not keys:
            async with transaction(database) as tx:
                return await action(tx, requests)
        async with transaction(database, first=_STORING) as tx:
            known = None
            if suspicious:
                known = await _find(tx, keys)
                suspicious = _CALM if known else max(0, suspicious - 1)
            try:
                outcomes, repeated = await _run(tx, action, requests, known)
            except Conflict:
                suspicious = _CALM
                raise
        database.repeated_keys += repeated
        return outcomes

    return run


async def _run(
    tx: Transaction,
    action: Action[Command, Result],
    requests: Sequence[Request[Command]],
    found: dict[bytes, _Stored] | None,
) -> tuple[Sequence[Result | Answer | Exception], int]:
    """Execute a batch. `found` is what is stored for its keys; None if they were not looked up.

    Returns the outcomes, and how many of them are those of earlier requests.
    """
    known = found or {}
    # Requests without a key, and the first request of each unknown key, are executed. The others get
    # stored answers.
    todo: list[Request[Command]] = []
    first: set[bytes] = set()
    for request in requests:
        if request.key is None:
            todo.append(request)
        elif request.key.hash not in known and request.key.hash not in first:
            todo.append(request)
            first.add(request.key.hash)
    results = await action(tx, todo)
    done = dict(zip(map(id, todo), results, strict=True))
    repeated = len(requests) - len(todo)
    passing = await _store(tx, todo, results, known)
    if passing and found is None:
        # A repeat of an answered request may now be refused, for example because an email address is taken.
        # It stores no answer, so `_store` would not notice that its key is taken.
        again = await _find(tx, passing)
        known |= again
        repeated += len(again)
    outcomes = [
        done[id(request)] if request.key is None else _repeated(request.key, known, passing)
        for request in requests
    ]
    return outcomes, repeated


async def _find(tx: Transaction, hashes: Iterable[bytes]) -> dict[bytes, _Stored]:
    return {
        key_hash: _Stored(fingerprint, _answer(status, headers, body))
        for key_hash, fingerprint, status, headers, body in await tx.fetch(
            _FIND, {"hashes": to_json([key_hash.hex() for key_hash in hashes]).decode()}
        )
    }


def _answer(status: int, headers: list[list[str]], body: str) -> Answer:
    return Answer(status, tuple((name, value) for name, value in headers), body.encode())


async def _store(
    tx: Transaction,
    todo: Sequence[Request[Command]],
    results: Sequence[Result | Exception],
    known: dict[bytes, _Stored],
) -> dict[bytes, tuple[bytes, Result | Exception]]:
    """Store the answers and add them to `known`. Returns the results that must not be stored."""
    passing: dict[bytes, tuple[bytes, Result | Exception]] = {}
    new = []
    for request, result in zip(todo, results, strict=True):
        key = request.key
        if key is None:
            continue
        answer = key.answer(result)
        if answer is None:
            passing[key.hash] = (key.salted, result)
            continue
        known[key.hash] = _Stored(key.salted, answer)
        new.append(
            {
                "key_hash": key.hash.hex(),
                "fingerprint": key.salted.hex(),
                "status": answer.status,
                "headers": answer.headers,
                "body": answer.body,
                "about": answer.about,
            }
        )
    if new:
        stored = await tx.execute(_STORE, {"answers": to_json(new).decode()})
        if stored.rowcount != len(new):
            raise Conflict("other transactions keep committing the same idempotency keys")
    return passing


def _repeated(
    key: Key,
    known: Mapping[bytes, _Stored],
    passing: Mapping[bytes, tuple[bytes, Result | Answer | Exception]],
) -> Result | Answer | Exception:
    fingerprint, outcome = known[key.hash] if key.hash in known else passing[key.hash]
    if fingerprint != key.salted and is_comparable(fingerprint):
        return KeyReused("the idempotency key has been used for another request")
    return outcome


async def hold_answers(tx: Transaction) -> None:
    """Wait for all transactions that may store an answer; no new one starts until this one ends.

    Call it before `forget` if answers are built from rows that are read without a lock. Otherwise an
    answer built before the erasure could be stored after it. Never call it while this transaction
    holds a row lock that such a transaction may wait for.
    """
    await tx.execute(_HOLD)


async def forget(tx: Transaction, about: Iterable[str], answer: Answer) -> None:
    """Replace every stored answer about these persons with `answer`. Their keys stay taken."""
    await tx.execute(
        _FORGET,
        {
            "about": list(about),
            "status": answer.status,
            "headers": to_json(answer.headers).decode(),
            "body": answer.body.decode(),
        },
    )
