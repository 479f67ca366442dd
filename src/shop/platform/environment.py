"""Finds environment variables that look like settings but are none.

A misspelled setting must cause an error. Otherwise the shop would silently run with the default.
"""

import re
from collections.abc import Iterable, Iterator
from difflib import get_close_matches

from pydantic import BaseModel
from pydantic.fields import FieldInfo

_NO_SETTINGS = frozenset({"SHOP_DATA_DIR", "SHOP_READY_FD", "SHOP_SERVICES"})
"""Variables that other modules read: the command line, `shop.platform.processes.ready` and `.discovery`."""

# Kubernetes sets variables for every Service of the namespace in every container, unless `enableServiceLinks`
# is false. For a Service `shop-users` these are SHOP_USERS_SERVICE_HOST, SHOP_USERS_PORT_8001_TCP_ADDR, ….
_KUBERNETES = re.compile(r"\w+_(SERVICE_(HOST|PORT(_\w+)?)|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)")
_KUBERNETES_PORT = re.compile(r"(tcp|udp|sctp)://\S+:\d+")


def names(model: type[BaseModel], prefix: str) -> Iterator[str]:
    """The environment variables of a model's fields. `SHOP_KAFKA__*` means that any name may follow."""
    for name, field in model.model_fields.items():
        variable = f"{prefix}{name.upper()}"
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            yield from names(section, f"{variable}__")
            continue
        yield variable
        if _is_mapping(field):
            yield f"{variable}__*"


def unknown(variables: Iterable[tuple[str, str]], known: Iterable[str], prefix: str) -> list[str]:
    """A sentence for each unknown variable with this prefix, with a suggestion if there is a similar setting."""
    settings = set(known)
    free = tuple(name.removesuffix("*") for name in settings if name.endswith("*"))
    taken = {name for name in settings if not name.endswith("*")}
    return [
        f"{name} is not a setting; {_meant(name, taken, prefix)}"
        for name, value in sorted(variables)
        if name.startswith(prefix)
        and not {name, name.removesuffix("_FILE")} & taken
        and name not in _NO_SETTINGS
        and not name.startswith(free or "\0")
        and not _is_of_kubernetes(name, value)
    ]


def _meant(name: str, known: Iterable[str], prefix: str) -> str:
    suffix = "_FILE" if name.endswith("_FILE") else ""
    own = {each.removeprefix(prefix) for each in {*known, *_NO_SETTINGS}}
    near = get_close_matches(name.removeprefix(prefix).removesuffix(suffix), sorted(own), n=1)
    return f"did you mean {prefix}{near[0]}{suffix}?" if near else "docs/operations.md lists them"


def _is_of_kubernetes(name: str, value: str) -> bool:
    return bool(
        _KUBERNETES.fullmatch(name)
        or (name.endswith("_PORT") and _KUBERNETES_PORT.fullmatch(value))
    )


def _is_mapping(field: FieldInfo) -> bool:
    return getattr(field.annotation, "__origin__", None) is dict
