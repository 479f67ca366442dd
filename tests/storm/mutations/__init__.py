"""Proof that the storm can see: one thing that safety rests on is taken away, and it must fail.

Each module takes one thing away as the shop starts (`apply`), says what, and which faults should bring
it to light. It does so by an interceptor, or by another text in an SQL statement. That one fails, and
loudly, when the statement no longer reads as it did: a mutation that silently does nothing would prove
a blind storm.
"""

from importlib import import_module
from types import ModuleType
from typing import Protocol, cast

from eventspine.interceptors import Interceptor

NAMES = (
    "head_lock",
    "repeat_check",
    "compare_and_set",
    "outbox_transaction",
    "broker_ack",
    "verifying_keys",
)


class Mutation(Protocol):
    FAULTS: tuple[str, ...]
    """The names of those that should bring it to light, best first."""

    def apply(self) -> Interceptor | None:
        """Gives what is to be around the shop's steps, if it is done that way."""


class ChangedShape(Exception):
    """What is to be patched does not read as it did when the mutation was written."""


def load(name: str) -> Mutation:
    if name not in NAMES:
        raise ValueError(f"there is no mutation {name}; there are: {', '.join(NAMES)}")
    return cast("Mutation", import_module(f"{__name__}.{name}"))


def take_away(name: str) -> Interceptor | None:
    return load(name).apply()


def replace_text(module: ModuleType, name: str, old: str, new: str) -> None:
    """In a constant of a module."""
    setattr(module, name, _replaced(getattr(module, name), old, new, f"{module.__name__}.{name}"))


def _replaced(text: str, old: str, new: str, where: str) -> str:
    if text.count(old) != 1:
        raise ChangedShape(f"{where} has this {text.count(old)} times, and not once: {old}")
    return text.replace(old, new)
