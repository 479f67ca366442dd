"""What runs around each step of the pipeline: the chains of interceptors, built by `interceptors.chained`.

It is a module of its own, because the code of the steps needs it, and `interceptors.py` needs the types of that code.
"""

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import NamedTuple

from eventspine.context import Context
from eventspine.event import Event

Around = Callable[..., Awaitable[None]]
"""Called as `around(*what, proceed)`."""

Publish = Callable[[Event, Context], Context]

GROUP: ContextVar[str] = ContextVar("group", default="")
"""In the step `receive`: the name of the consumer, which is that of its group in the log."""


class Steps(NamedTuple):
    """A chain for each step. A step without interceptors is None."""

    publish: Publish | None = None
    commit: Around | None = None
    append: Around | None = None
    save: Around | None = None
    receive: Around | None = None
    apply: Around | None = None
    park: Around | None = None


NO_STEPS = Steps()
