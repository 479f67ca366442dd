"""Waiting for what is away, without giving up and without filling the log.

The first failure is logged, with what is waited for; the same failure again is not, until it is
over; nor one that comes back and is over again and again, as when one partition of many can't be read.
Pauses grow from a tenth of a second to five seconds, and vary, so that many processes do
not come back at the same moment (exponential backoff with jitter).
"""

import asyncio
import random
import time
from typing import Any

_FIRST_PAUSE = 0.1  # seconds
_LONGEST_PAUSE = 5.0
_FORGOTTEN_AFTER = 60.0
"""Seconds after which trouble that has not come again is news once more."""
_LASTING = 5.0
"""Seconds after which trouble that came back is news, since this time it stays."""


class Backoff:
    """One for each thing that may have to wait.

    It logs `<component>.waiting` and `<component>.recovered`, with the fields in `context`.
    """

    def __init__(self, log: Any, component: str, **context: object) -> None:
        self._log = log
        self._component = component
        self._context = context
        self._failures = 0
        self._said: dict[str, float] = {}
        """What has been logged, and when it last happened."""
        self._since = 0.0
        """When the present trouble began."""
        self._silent = True
        """Whether of the present trouble nothing was logged."""
        self.last_turn = time.monotonic()
        """When it last failed or worked: long ago, for someone who does neither and is stuck."""

    async def after(self, error: BaseException) -> None:
        """Pause. Logs the error if it is another kind of trouble than before."""
        await asyncio.sleep(self.pause(error))

    def pause(self, error: BaseException) -> float:
        """How many seconds to pause, for those who have other things to do in the meantime."""
        self.comes_round()
        if not self._failures:
            self._since = time.monotonic()
        self._failures += 1
        kind = f"{type(error).__name__}: {error}"
        now = time.monotonic()
        self._said = {k: at for k, at in self._said.items() if now - at < _FORGOTTEN_AFTER}
        news = kind not in self._said or (self._silent and now - self._since > _LASTING)
        self._said[kind] = now
        if news:
            self._silent = False
            self._log.warning(f"{self._component}.waiting", reason=kind, **self._context)
        pause: float = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(self._failures - 1, 10))
        return pause * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret

    def comes_round(self) -> None:
        """It is not stuck; whether it works again, its next turn will show."""
        self.last_turn = time.monotonic()

    def over(self) -> None:
        """It works, or works again."""
        self.comes_round()
        if not self._silent:
            self._log.info(
                f"{self._component}.recovered", after_failures=self._failures, **self._context
            )
        self._failures = 0
        self._silent = True
