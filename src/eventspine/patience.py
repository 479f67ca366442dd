"""Waiting for what is away, without giving up and without filling the log.

The first failure is logged, with what is waited for; the same failure again is not, until it is
over. Pauses grow from a tenth of a second to five seconds, and vary, so that many processes do
not come back at the same moment (exponential backoff with jitter).
"""

import asyncio
import random
import time
from typing import Any

_FIRST_PAUSE = 0.1  # seconds
_LONGEST_PAUSE = 5.0


class Patience:
    """One for each thing that may have to wait. `context` goes with every line it logs."""

    def __init__(self, log: Any, who: str, **context: object) -> None:
        self._log = log
        self._who = who
        self._context = context
        self._failures = 0
        self._said = ""
        self.last_turn = time.monotonic()
        """When it last failed or worked: long ago, for someone who does neither and is stuck."""

    async def after(self, error: BaseException) -> None:
        """Pause. Logs the error if it is another kind of trouble than before."""
        self.comes_round()
        self._failures += 1
        kind = f"{type(error).__name__}: {error}"
        if kind != self._said:
            self._said = kind
            self._log.warning(f"{self._who} waits", reason=kind, **self._context)
        pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(self._failures - 1, 10))
        await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, not a secret

    def comes_round(self) -> None:
        """It is not stuck; whether it works again, its next turn will show."""
        self.last_turn = time.monotonic()

    def over(self) -> None:
        """It works, or works again."""
        self.comes_round()
        if self._failures:
            self._log.info(f"{self._who} goes on", after_failures=self._failures, **self._context)
            self._failures = 0
            self._said = ""
