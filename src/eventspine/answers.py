"""An answer to a client, and the key under which it is stored and repeated.

A module of its own, because a request carries its key (`context.py`), and `idempotency.py` needs the request.
"""

from collections.abc import Callable
from hashlib import sha256
from typing import Any, NamedTuple

FORM = b"\x01"
"""The version of the form that `canonical` returns. It rises when the form changes."""


class Answer(NamedTuple):
    """An answer to a client, byte for byte. `about` is the person whose data it holds, if any."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    about: str | None = None


class Key:
    """A key, the request that it belongs to, and how a result becomes an answer.

    `asked` is the request in canonical form (`canonical`). The same key with another request is
    refused. `answer` returns None for a result that must not be stored: a refusal for a temporary
    reason.
    """

    __slots__ = ("answer", "hash", "salted")

    def __init__(self, key: str, asked: bytes, answer: Callable[[Any], Answer | None]) -> None:
        self.hash = sha256(key.encode()).digest()
        self.salted = FORM + sha256(b"%b %b" % (key.encode(), asked)).digest()
        """The fingerprint, as it is stored."""
        self.answer = answer
