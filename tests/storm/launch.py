"""`shop`, with places in it where a storm can strike: `python -m tests.storm.launch worker orders`.

The shop itself knows nothing of tests. It is run with interceptors, which are

* failpoints: moments between two steps that matter, where this very process is killed or frozen,
  once somebody has armed them (`STORM_ARMED` names the directory where that is done);
* a ledger (`STORM_LEDGER=1`): a row for every event applied, written in the transaction that
  applies it. Handlers leave out a version they have, so tables don't show what was applied twice;
* at most one mutation (`STORM_MUTATION`): one of the things that safety rests on, taken away.
"""

import os
import sys
from pathlib import Path

from eventspine.interceptors import Interceptor
from shop.cli.main import main
from shop.platform.interceptors import Interceptors
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


def interceptors(part: str, service: str) -> Interceptors:
    """What `SHOP_INTERCEPTORS` names. A failpoint strikes around what a mutation does, and an event is
    in the ledger before `effects` is passed.
    """
    chain: list[Interceptor] = []
    if armed := os.environ.get("STORM_ARMED"):
        chain.append(failpoints.Failpoints(Path(armed), part, service))
    if os.environ.get("STORM_LEDGER") == "1":
        chain.append(ledger.Ledger(retried=part == "parked"))
    if (mutation := os.environ.get("STORM_MUTATION")) and (takes := mutations.take_away(mutation)):
        chain.append(takes)
    return Interceptors(steps=tuple(chain))


if __name__ == "__main__":
    if sys.argv[1:2] == ["migrate"]:
        # It has no steps to intercept, and makes what a mutation changes in the database.
        if mutation := os.environ.get("STORM_MUTATION"):
            mutations.take_away(mutation)
    else:
        os.environ["SHOP_INTERCEPTORS"] = "tests.storm.launch:interceptors"
    main()
