"""`shop parked`: lists, retries and discards parked events, and prints the results."""

from collections.abc import Callable, Coroutine, Sequence

from eventspine import dead_letters
from eventspine.address import Address
from eventspine.database import Database
from eventspine.dead_letters import Parked
from eventspine.handlers import Handlers
from eventspine.interceptors import NO_STEPS, Steps
from eventspine.reactions import Reaction
from shop.cli.streams import Console
from shop.platform.terminal import plain


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

    def _say(self, line: str) -> None:
        self._console.print(plain(line))

    async def show_list(self, key: str | None, cause: str | None) -> bool:
        found = await self._find(key, cause)
        for of, each in found:
            self._say(
                f"{self._place(of, each)}  key {each.key}  {each.cause}: {' '.join(each.error.split())[:120]}"
                f"  (tried {each.attempts} x, parked {each.parked_at:%Y-%m-%d %H:%M:%S})"
            )
        keys = len({(of.consumer, each.topic, each.key) for of, each in found if each.holds_key})
        self._say(f"{len(found)} parked, of {keys} blocked key(s)")
        return True

    async def show_key(self, key: str) -> bool:
        found = await self._find(key, None)
        if not found:
            self._say(f"no parked record has the key {key}")
        for of, each in found:
            self._say(f"{self._place(of, each)}  {each.cause}: {' '.join(each.error.split())}")
            for name, value in each.headers.items():
                self._say(f"    {name}: {value}")
            content = None if each.value is None else each.value.decode(errors="backslashreplace")
            self._say(f"    {content}")
        return True

    async def retry(
        self, key: str | None, cause: str | None, *, accept_gaps: bool, dry_run: bool
    ) -> bool:
        found = await self._find(key, cause)
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
            self._say(f"key {name} in topic {topic}: {outcome}{why}")
        if not found:
            self._say("no parked record matches")
        return well

    async def discard(self, key: str | None, cause: str | None, *, dry_run: bool) -> bool:
        found = await self._find(key, cause)
        for of, each in found:
            self._say(
                f"{'would discard' if dry_run else 'discarding'} {self._place(of, each)}"
                f"  key {each.key}  {each.cause}"
            )
        if not dry_run:
            gone = 0
            for handlers in self._consumers:
                chosen = [each for of, each in found if of is handlers]
                gone += await dead_letters.discard(self._database, handlers.consumer, chosen)
            self._say(f"{gone} discarded; they stay in the log")
        return True

    async def _find(self, key: str | None, cause: str | None) -> list[tuple[Handlers, Parked]]:
        return [
            (handlers, each)
            for handlers in self._consumers
            for each in await dead_letters.find(
                self._database, handlers.consumer, key=key, cause=cause
            )
        ]

    def _place(self, of: Handlers, parked: Parked) -> str:
        """The record's place. It includes the name of a reaction, because the service's own consumer may have parked
        the same record.
        """
        whose = "" if of is self._consumers[0] else f"{of.consumer}: "
        position = f" position {parked.position}" if parked.position else ""
        return f"{whose}{parked.topic}/{parked.partition}@{parked.offset}{position}"
