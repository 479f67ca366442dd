"""Proof that the storm can see: one thing that safety rests on is taken away, and it must fail.

Each module takes one thing away, by patching the shop as it starts (`apply`), says what, and which
faults should bring it to light. A patch is a piece of source text and what stands there instead, so
that it fails, and loudly, when the shop no longer reads as it did: a mutation that silently does
nothing would prove a blind storm.
"""

import inspect
import sys
import textwrap
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any, Protocol, cast

NAMES = ("head_lock", "repeat_check", "compare_and_set", "outbox_transaction", "broker_ack")

_OURS = ("eventspine", "shop")


class Mutation(Protocol):
    FAULTS: tuple[str, ...]
    """The names of those that should bring it to light, best first."""

    def apply(self) -> None: ...


class ChangedShape(Exception):
    """What is to be patched does not read as it did when the mutation was written."""


def load(name: str) -> Mutation:
    if name not in NAMES:
        raise ValueError(f"there is no mutation {name}; there are: {', '.join(NAMES)}")
    return cast("Mutation", import_module(f"{__name__}.{name}"))


def replace_text(module: ModuleType, name: str, old: str, new: str) -> None:
    """In a constant of a module."""
    setattr(module, name, _replaced(getattr(module, name), old, new, f"{module.__name__}.{name}"))


def rewrite(of: ModuleType | type, name: str, old: str, new: str, **also: Any) -> None:
    """In the source of a function, wherever it has been imported; or of a method.

    The source is dedented first. `also` are names that the new text needs.
    """
    original = getattr(of, name)
    source = textwrap.dedent(inspect.getsource(original))
    where = f"{of.__module__ if isinstance(of, type) else of.__name__}.{original.__qualname__}"
    original.__globals__.update(also)
    namespace: dict[str, Any] = {}
    code = compile(_replaced(source, old, new, where), f"<{where}, mutated>", "exec")
    exec(code, original.__globals__, namespace)
    for holder, attribute in _holders(of, name, original):
        setattr(holder, attribute, namespace[name])


def _replaced(text: str, old: str, new: str, where: str) -> str:
    if text.count(old) != 1:
        raise ChangedShape(f"{where} has this {text.count(old)} times, and not once: {old}")
    return text.replace(old, new)


def _holders(
    of: ModuleType | type, name: str, original: Callable[..., Any]
) -> list[tuple[ModuleType | type, str]]:
    if isinstance(of, type):
        return [(of, name)]
    return [
        (module, attribute)
        for module_name, module in list(sys.modules.items())
        if module_name.partition(".")[0] in _OURS
        for attribute, value in list(vars(module).items())
        if value is original
    ]
