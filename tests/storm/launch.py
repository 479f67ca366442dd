"""`shop`, with places in it where a storm can strike: `python -m tests.storm.launch worker orders`.

The shop itself knows nothing of tests. Here, before it runs, it is patched with

* failpoints: moments between two steps that matter, where this very process is killed or frozen,
  once somebody has armed them (`STORM_ARMED` names the directory where that is done);
* a ledger (`STORM_LEDGER=1`): a row for every event applied, written in the transaction that
  applies it. Handlers leave out a version they have, so tables don't show what was applied twice;
* at most one mutation (`STORM_MUTATION`): one of the things that safety rests on, taken away.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from shop.cli.main import main
from tests.storm import failpoints, ledger, mutations
from tests.storm.failpoints import POINTS, Fired, arm, disarm, fired
from tests.storm.ledger import LEDGER_SQL

__all__ = ["LEDGER_SQL", "POINTS", "Fired", "arm", "command", "disarm", "environment", "fired"]


def command(*words: object) -> list[str]:
    """To be run in the project's directory."""
    return [sys.executable, "-m", "tests.storm.launch", *map(str, words)]


def environment(
    armed: Path | None = None, *, with_ledger: bool = True, mutation: str | None = None
) -> dict[str, str]:
    """What the launcher wants to know, besides the shop's own settings."""
    wanted = {
        "STORM_ARMED": str(armed) if armed else None,
        "STORM_LEDGER": "1" if with_ledger else None,
        "STORM_MUTATION": mutation,
    }
    return {name: value for name, value in wanted.items() if value is not None}


def patch(words: list[str], settings: Mapping[str, str]) -> None:
    kind, service = (*words, "", "")[:2]
    if mutation := settings.get("STORM_MUTATION"):
        mutations.load(mutation).apply()
    # Around what the mutation has put in place; and an event is entered before `effects` is passed.
    if settings.get("STORM_LEDGER") == "1":
        ledger.install()
    if armed := settings.get("STORM_ARMED"):
        failpoints.install(Path(armed), kind, service)


if __name__ == "__main__":
    patch(sys.argv[1:], os.environ)
    main()
