"""How often each subject of a token may ask: a bounded number of token buckets."""

_MOST = 10_000
_ROUNDING = 1e-6  # seconds


class Limits:
    """`rate` requests a second for each subject, and `seconds` worth of them at once (GCRA).

    A bucket is one number: when it will be full again. A full one is forgotten.
    """

    __slots__ = ("_every", "_full_at", "_most", "_spare")

    def __init__(self, rate: float, *, seconds: float = 10, most: int = _MOST) -> None:
        self._every = 1 / rate
        self._spare = max(0.0, seconds - self._every)
        self._most = most
        self._full_at: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, subject: str, now: float) -> float:
        """0 if the request may be answered; else the seconds until one may."""
        full_at = self._full_at.get(subject)
        if full_at is None:
            if len(self._full_at) >= self._most:
                self._forget(now)
            full_at = now
        elif full_at < now:
            full_at = now
        wait = full_at - now - self._spare
        if wait > _ROUNDING:
            return wait
        self._full_at[subject] = full_at + self._every
        return 0.0

    def _forget(self, now: float) -> None:
        """The full ones; and if there are nearly none, those who asked first, until there is room."""
        kept = {subject: at for subject, at in self._full_at.items() if at > now}
        room = self._most - self._most // 10
        self._full_at = dict(list(kept.items())[-room:])
