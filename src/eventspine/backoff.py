"""Waiting for what is unavailable, without giving up and without filling the log.

The first failure is logged, with its reason. The same failure is not logged again until it is over. Nor
is one that comes and goes repeatedly, as when one partition of many can't be read. Pauses grow from a tenth
of a second to five seconds, and vary, so that many processes do not try again at the same moment
(exponential backoff with jitter).
"""

import asyncio
import random
import time
from typing import Any

from eventspine.error_text import text_of

_FIRST_PAUSE = 0.1  # seconds
_LONGEST_PAUSE = 5.0
_FORGOTTEN_AFTER = 60.0
"""Seconds after which a failure that has not recurred is logged again."""
_LASTING = 5.0
"""Seconds after which a recurring failure is logged again, if it lasts."""


class Backoff:
    """The waiting of one component that may fail repeatedly.

    It logs `<component>.waiting` and `<component>.recovered`, with the fields in `context`.
    """

    def __init__(self, log: Any, component: str, **context: object) -> None:
        self._log = log
        self._component = component
        self._context = context
        self._failures = 0
        self._said: dict[str, float] = {}
        """The failures that have been logged, and when each last happened."""
        self._since = 0.0
        """When the present failure started."""
        self._silent = True
        """Whether nothing was logged about the present failure."""
        self.last_turn = time.monotonic()
        """When it last failed or succeeded. If that is long ago, the component is stuck."""

    async def after(self, error: BaseException) -> None:
        """Pause. Logs the error if its kind is new."""
        await asyncio.sleep(self.pause(error))

    def pause(self, error: BaseException) -> float:
        """How many seconds to pause, for callers that do other things meanwhile."""
        self.comes_round()
        if not self._failures:
            self._since = time.monotonic()
        self._failures += 1
        kind = f"{type(error).__name__}: {text_of(error)}"
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
        """Note that the component is not stuck. Its next attempt shows whether it works again."""
        self.last_turn = time.monotonic()

    def over(self) -> None:
        """Note that the component works, and log the end of a failure."""
        self.comes_round()
        if not self._silent:
            self._log.info(
                f"{self._component}.recovered", after_failures=self._failures, **self._context
            )
        self._failures = 0
        self._silent = True
