"""The phases of a rebuild, and processes that are killed in one of them."""

import os
import signal
import sys
from typing import Any

from eventspine import rebuilding, shadow_tables, staging

PHASES = {
    "copy": "staging.Staging._take_others",
    "create": "shadow_tables.create",
    "build": "rebuilding.fill",
    "index": "shadow_tables.index",
    "follow": "rebuilding.Rebuild._follow",
    "compare": "rebuilding._compare",
    "consumers are held": "rebuilding.Rebuild._mark_changed",
    "tables are locked": "shadow_tables.replace",
}

_MODULES: dict[str, Any] = {
    "staging": staging,
    "rebuilding": rebuilding,
    "shadow_tables": shadow_tables,
}


def die_in(phase: str, *, after: bool) -> None:
    """This process is killed as this phase begins, or when it is done."""
    module, *where, name = PHASES[phase].split(".")
    owner = _MODULES[module]
    for part in where:
        owner = getattr(owner, part)
    whole = getattr(owner, name)

    async def and_die(*given: Any, **more: Any) -> None:
        if after:
            await whole(*given, **more)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, name, and_die)


if __name__ == "__main__":
    # A phase, and the words of a command of the shop.
    from shop.cli.main import main

    phase, when, *words = sys.argv[1:]
    die_in(phase, after=when == "after")
    sys.argv = ["shop", *words]
    main()
