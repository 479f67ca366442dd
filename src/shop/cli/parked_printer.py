"""`shop parked`: events that could not be applied, in a person's hands."""

from collections.abc import Callable, Coroutine

from eventspine import dead_letters
from eventspine.database import Database
from eventspine.dead_letters import Parked
from eventspine.handlers import Handlers
from eventspine.interceptors import NO_STEPS, Steps
from shop.cli.streams import Console
from shop.platform.terminal import plain


class Parking:
    """One service's parked events. Each command says what it found or did; True if all went well."""

    def __init__(self, database_url: str, handlers: Handlers, steps: Steps = NO_STEPS) -> None:
        self._database = Database(database_url, size=1, timeout=5.0, steps=steps)
        self._handlers = handlers
        self._console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)

    async def opened(self, do: Callable[["Parking"], Coroutine[None, None, bool]]) -> bool:
        await self._database.open()
        try:
            return await do(self)
        finally:
            await self._database.close()

    def _say(self, line: str) -> None:
        self._console.print(plain(line))

    async def show_list(self, key: str | None, cause: str | None) -> bool:
        found = await self._find(key, cause)
        for each in found:
            self._say(
                f"{_place(each)}  key {each.key}  {each.cause}: {' '.join(each.error.split())[:120]}"
                f"  (tried {each.attempts} x, parked {each.parked_at:%Y-%m-%d %H:%M:%S})"
            )
        keys = len({(each.topic, each.key) for each in found if each.holds_key})
        self._say(f"{len(found)} parked, of {keys} blocked key(s)")
        return True

    async def show_key(self, key: str) -> bool:
        found = await self._find(key, None)
        if not found:
            self._say(f"no parked record has the key {key}")
        for each in found:
            self._say(f"{_place(each)}  {each.cause}: {' '.join(each.error.split())}")
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
        # A key's first event decides; what waits behind it comes along, whatever its own cause.
        for topic, of in dict.fromkeys((each.topic, each.key) for each in found):
            if dry_run:
                self._say(f"would retry the parked records of key {of} in topic {topic}")
                continue
            done = await dead_letters.retry(
                self._database, self._handlers, topic, of, accept_gaps=accept_gaps
            )
            well = well and done.left == 0
            outcome = f"applied {done.applied}, left {done.left}"
            why = f": {done.error}" if done.error else ""
            self._say(f"key {of} in topic {topic}: {outcome}{why}")
        if not found:
            self._say("no parked record matches")
        return well

    async def discard(self, key: str | None, cause: str | None, *, dry_run: bool) -> bool:
        found = await self._find(key, cause)
        for each in found:
            self._say(
                f"{'would discard' if dry_run else 'discarding'} {_place(each)}  key {each.key}"
                f"  {each.cause}"
            )
        if not dry_run:
            gone = await dead_letters.discard(self._database, self._handlers.consumer, found)
            self._say(f"{gone} discarded; they stay in the log")
        return True

    async def _find(self, key: str | None, cause: str | None) -> list[Parked]:
        return await dead_letters.find(
            self._database, self._handlers.consumer, key=key, cause=cause
        )


def _place(parked: Parked) -> str:
    position = f" position {parked.position}" if parked.position else ""
    return f"{parked.topic}/{parked.partition}@{parked.offset}{position}"
