"""`Idempotency-Key`: send it again as often as you like, it is done once.

A refusal counts as an answer, and is repeated too; but not one for a reason that may pass
(`Problem.may_pass`): that leaves the key unused. An answer that holds data about a subject is kept until
the subject is erased; from then on a repeat is a `SubjectErased`.
"""

import hashlib
from collections.abc import Callable
from typing import Annotated, TypeVar

from fastapi import Header

from eventspine.batching import Batcher
from eventspine.idempotency import Answer, Key, Once
from shop.platform.http.route import Reply
from shop.platform.problems import Problem

Command = TypeVar("Command")
Result = TypeVar("Result")

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="idempotency-key",
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="any text without spaces, new for each request and the same when it is sent "
        "again: every repeat is given the first answer; kept for at least 24 hours, unless it is set "
        "otherwise, but none with data that has been erased since",
    ),
]

Caller = Annotated[str | None, Header(alias="authorization", include_in_schema=False)]
"""Who asks: a key belongs to its first caller."""


async def answer_once(
    batcher: Batcher[Once[Command], Result | Answer],
    command: Command,
    reply: Callable[[Result], Reply],
    key: str | None,
    caller: str | None,
    deadline: float | None = None,
) -> Reply | Answer:
    """Submit the command, and give the answer: the one stored for the key, if it has one."""

    def answer(result: Result | Exception) -> Answer | None:
        if isinstance(result, Problem):
            return None if result.may_pass else result.answer()
        return None if isinstance(result, Exception) else reply(result).answer()

    once = Once(command, Key(key, _fingerprint(command, caller), answer) if key else None)
    outcome = await batcher.submit(once, deadline)
    return outcome if isinstance(outcome, Answer) else reply(outcome)


def _fingerprint(command: object, caller: str | None) -> str:
    # A command's class says what was asked for and its fields say how; a trace is not a part of it.
    assert isinstance(command, tuple)
    asked = command._replace(traceparent=None)  # type: ignore[attr-defined]
    return hashlib.sha256(f"{caller!r} {asked!r}".encode(errors="surrogatepass")).hexdigest()
