"""A rate limit for each subject of a token: a bounded number of token buckets."""

_MOST = 10_000
_ROUNDING = 1e-6  # seconds


class Limits:
    """Each subject may send `rate` requests a second, and the requests of `seconds` seconds at once (GCRA).

    A bucket is one number: the time when it will be full again. A full bucket is removed.
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
        """0 if the request is allowed; otherwise the seconds until the next one is."""
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
        """Remove full buckets. If that frees too few places, remove the oldest ones, too."""
        kept = {subject: at for subject, at in self._full_at.items() if at > now}
        room = self._most - self._most // 10
        self._full_at = dict(list(kept.items())[-room:])
