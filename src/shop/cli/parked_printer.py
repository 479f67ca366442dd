"""`shop parked`: lists, retries and discards parked events, and prints the results."""

import re
from collections.abc import Callable, Coroutine, Sequence
from datetime import datetime
from typing import NamedTuple

from rich.text import Text

from eventspine import dead_letters
from eventspine.address import Address
from eventspine.database import Database
from eventspine.dead_letters import Parked
from eventspine.handlers import Handlers
from eventspine.reactions import Reaction
from eventspine.steps import NO_STEPS, Steps
from shop.cli.console import Console
from shop.platform.terminal import plain


class Chosen(NamedTuple):
    """Which records are meant: those that match all of these. None matches every record."""

    key: str | None = None
    cause: str | None = None
    since: datetime | None = None
    """When it was parked, by the database's clock."""
    pattern: re.Pattern[str] | None = None

    def __call__(self, parked: Parked) -> bool:
        if self.since is not None and parked.parked_at < self.since:
            return False
        return self.pattern is None or self.pattern.search(_as_text(parked)) is not None


class Parking:
    """The parked events of a service's consumers: of its handlers and of its reactions.

    Each command prints what it found or did, and returns whether all succeeded.
    """

    def __init__(
        self, address: Address, consumers: Sequence[Handlers], steps: Steps = NO_STEPS
    ) -> None:
        self._database = Database(address, size=1, timeout=5.0, steps=steps)
        self._consumers = consumers
        self._console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)

    async def opened(self, do: Callable[["Parking"], Coroutine[None, None, bool]]) -> bool:
        await self._database.open()
        try:
            return await do(self)
        finally:
            for each in self._consumers:
                if isinstance(each, Reaction):
                    await each.close()
            await self._database.close()

    def _say(self, *pieces: str | tuple[str, str]) -> None:
        """Print a line of pieces, each with its style if it has one."""
        styled = (piece if isinstance(piece, tuple) else (piece, "") for piece in pieces)
        self._console.print(Text.assemble(*((plain(text), style) for text, style in styled)))

    async def show_list(self, chosen: Chosen) -> bool:
        found = await self._find(chosen)
        for of, each in found:
            self._say(
                (f"{self._place(of, each)}  ", "dim"),
                (f"key {each.key}  ", "bold"),
                (f"{each.cause}", _colour(each)),
                f": {' '.join(each.error.split())[:120]}",
                (
                    f"  (tried {each.attempts} x, parked {each.parked_at:%Y-%m-%d %H:%M:%S})",
                    "dim",
                ),
            )
        keys = len({(of.consumer, each.topic, each.key) for of, each in found if each.holds_key})
        self._say(f"{len(found)} parked, of {keys} blocked key(s)")
        return True

    async def show_key(self, key: str) -> bool:
        found = await self._find(Chosen(key))
        if not found:
            self._say(f"no parked record has the key {key}")
        for of, each in found:
            self._say(
                (f"{self._place(of, each)}  ", "dim"),
                (each.cause, _colour(each)),
                f": {' '.join(each.error.split())}",
            )
            for name, value in each.headers.items():
                self._say(f"    {name}: {value}")
            content = None if each.value is None else each.value.decode(errors="backslashreplace")
            self._say(f"    {content}")
        return True

    async def retry(self, chosen: Chosen, *, accept_gaps: bool, dry_run: bool) -> bool:
        found = await self._find(chosen)
        well = True
        # The first event of a key selects it. Later events of the key are included, whatever their cause.
        for of, topic, name in dict.fromkeys((of, each.topic, each.key) for of, each in found):
            if dry_run:
                self._say(f"would retry the parked records of key {name} in topic {topic}")
                continue
            done = await dead_letters.retry(
                self._database, of, topic, name, accept_gaps=accept_gaps
            )
            well = well and done.left == 0
            outcome = f"applied {done.applied}, left {done.left}"
            why = f": {done.error}" if done.error else ""
            self._say(
                f"key {name} in topic {topic}: ",
                (outcome, "red" if done.left else "green"),
                why,
            )
        if not found:
            self._say("no parked record matches")
        return well

    async def discard(self, chosen: Chosen, *, dry_run: bool) -> bool:
        found = await self._find(chosen)
        for of, each in found:
            self._say(
                f"{'would discard' if dry_run else 'discarding'} {self._place(of, each)}"
                f"  key {each.key}  {each.cause}"
            )
        if not found:
            self._say("no parked record matches")
        elif not dry_run:
            gone = 0
            for handlers in self._consumers:
                theirs = [each for of, each in found if of is handlers]
                gone += await dead_letters.discard(self._database, handlers.consumer, theirs)
            self._say(f"{gone} discarded; they stay in the log")
        return True

    async def _find(self, chosen: Chosen) -> list[tuple[Handlers, Parked]]:
        return [
            (handlers, each)
            for handlers in self._consumers
            for each in await dead_letters.find(
                self._database, handlers.consumer, key=chosen.key, cause=chosen.cause
            )
            if chosen(each)
        ]

    def _place(self, of: Handlers, parked: Parked) -> str:
        """The record's place. It includes the name of a reaction, because the service's own consumer may have parked
        the same record.
        """
        whose = "" if of is self._consumers[0] else f"{of.consumer}: "
        position = f" position {parked.position}" if parked.position else ""
        return f"{whose}{parked.topic}/{parked.partition}@{parked.offset}{position}"


def _colour(parked: Parked) -> str:
    """Red for what failed, yellow for what only waits behind it or blocks nothing."""
    return "red" if parked.holds_key and parked.cause != dead_letters.BEHIND else "yellow"


def _as_text(parked: Parked) -> str:
    """All of a record that `--grep` looks at: topic, key, cause, error, headers and data."""
    headers = " ".join(f"{name}={value}" for name, value in parked.headers.items())
    value = "" if parked.value is None else parked.value.decode(errors="backslashreplace")
    return f"{parked.topic} {parked.key} {parked.cause} {parked.error} {headers} {value}"
