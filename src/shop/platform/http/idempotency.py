"""`Idempotency-Key`: a request that is sent again is executed once.

A refusal is an answer too, and is repeated, unless its reason may pass (`Problem.may_pass`): then the key stays
unused. An answer with data about a subject is kept until the subject is erased. After that a repeat is a
`SubjectErased`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from eventspine.answers import Answer, Key
from eventspine.batching import Batcher
from eventspine.context import Context, Request
from eventspine.idempotency import canonical
from shop.platform.http.route import Reply
from shop.platform.problems import Problem

Command = TypeVar("Command", bound=tuple[Any, ...])
Result = TypeVar("Result")


async def answer_once(
    batcher: Batcher[Request[Command], Result | Answer],
    command: Command,
    reply: Callable[[Result], Reply],
    context: Context,
) -> Reply | Answer:
    """Submit the command and return the answer. If an answer is stored for the key, that one is returned.

    A key belongs to its first caller. The caller may authenticate in another way for a repeat.
    """
    key = None
    if context.idempotency_key is not None:
        asked = canonical(command, context.caller)
        key = Key(context.idempotency_key, asked, partial(_stored, reply))
    outcome = await batcher.submit(Request(command, context, key), context.deadline)
    return outcome if isinstance(outcome, Answer) else reply(outcome)


# A function inside the other one would evaluate its annotations for each request.
def _stored(reply: Callable[[Result], Reply], result: Result | Exception) -> Answer | None:
    if isinstance(result, Problem):
        return None if result.may_pass else result.answer()
    return None if isinstance(result, Exception) else reply(result).answer()
