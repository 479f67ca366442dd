"""Clients that go shopping in a storm: half of what they ask carries an idempotency key.

A request with a key is sent again until its client knows what became of it; now and then it is sent
twice at once, again much later, or its key with another request. Everything that was sent and told
is written down, each time; `outcomes` says what it comes to.
"""

import http.client
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.support.load import TIMEOUT, Action, Client, Load, Outcome, Ports, Request, Sent

THINKING = 0.04
"""Seconds between an answer and the next request, on average: what is looked for is what meets
what, not how much a machine can do."""

WINDOW = 2.0
"""Seconds over which a rate is taken, before the storm and after."""

_RETRY_PAUSE = 0.1  # seconds

PASSING = ("unknown-outcome", "temporarily-unavailable", "unknown-customer", "unknown-person")
"""Answers that bind no key: the same request may be answered otherwise."""


class Crowd(Load):
    """All clients of one round."""

    def __init__(
        self,
        ports: Ports,
        *,
        name: str,
        clients: int,
        seed: int,
        token: Callable[[], str] | None = None,
    ) -> None:
        super().__init__(ports, name=name, clients=clients, seed=seed, kind=Shopper, token=token)

    def latest_rate(self) -> float:
        """Requests done a second, in the window that ends now."""
        now = time.monotonic()
        return self._done(now - WINDOW, now) / WINDOW

    def usual_rate(self, seconds: float) -> float:
        """The median of the windows of the coming seconds."""
        begin = time.monotonic()
        self.wait(seconds)
        starts = [begin + n * WINDOW for n in range(int(seconds / WINDOW))]
        return statistics.median(self._done(start, start + WINDOW) / WINDOW for start in starts)

    def _done(self, since: float, until: float) -> int:
        return sum(
            sent.outcome is Outcome.DONE and since <= sent.answered_at < until
            for sent in list(self.sent)
        )

    def counts(self, since: int) -> Mapping[Outcome, int]:
        told: dict[Outcome, int] = dict.fromkeys(Outcome, 0)
        for sent in self.sent[since:]:
            told[sent.outcome] += 1
        return told


@dataclass
class Shopper(Client):
    settled: list[tuple[Request, str]] = field(default_factory=list)
    """Requests whose keys are bound, to be sent again."""

    def run(self) -> None:
        self._keys = 0
        super().run()

    def _send(
        self,
        action: Action,
        service: str,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        **about: Any,
    ) -> Sent:
        self.load.wait(self._chance.uniform(0, 2 * THINKING))
        request = self._request(action, service, method, path, body, about)
        # All draws at once, so that what happens to one request changes no other's.
        with_key, twice, later, reused = (self._chance.random() for _ in range(4))
        if self.settled and later < 0.05:
            self._ask(*self.settled.pop(self._chance.randrange(len(self.settled))))
        if with_key < 0.5:
            return self._ask(request)
        self._keys += 1
        key = f"{self.name}-{self._keys}"
        sent = self._until_known(request, key, twice=twice < 0.1)
        if is_bound(sent):
            self.settled.append((request, key))
            if sent.outcome is Outcome.DONE and request.body and reused < 0.03:
                self._reuse(request, key)
        return sent

    def _until_known(self, request: Request, key: str, *, twice: bool) -> Sent:
        if twice:
            twin = threading.Thread(target=self._ask_elsewhere, args=(request, key))
            twin.start()
            sent = self._ask(request, key)
            twin.join()
        else:
            sent = self._ask(request, key)
        while not is_known(sent) and not self.load.wait(_RETRY_PAUSE):
            sent = self._ask_elsewhere(request, key)
        if not is_known(sent):
            sent = self._ask(request, key)  # the last time: the storm is over
        return sent

    def _ask_elsewhere(self, request: Request, key: str) -> Sent:
        """By a connection of its own, and to any of the service's APIs."""
        ports = self.ports[request.service]
        port = self._chance.choice(ports) if len(ports) > 1 else ports[0]
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
        try:
            return self._ask(request._replace(connection=connection), key)
        finally:
            connection.close()

    def _reuse(self, request: Request, key: str) -> None:
        name = next(name for name in ("name", "product", "text") if name in (request.body or {}))
        body = {**(request.body or {}), name: f"{key} for something else"}
        self._ask(request._replace(action="reuse_key", body=body), key)


def is_known(sent: Sent) -> bool:
    """A 503 says "not done", or "unknown", and either is worth another try."""
    return sent.outcome is not Outcome.UNKNOWN and sent.status != 503


def is_bound(sent: Sent) -> bool:
    """Whether this answer is the key's for ever."""
    slug = sent.answer.get("type", "").rpartition(":")[2]
    return sent.status is not None and sent.status != 500 and slug not in PASSING


def outcomes(sent: Sequence[Sent]) -> list[Sent]:
    """What each request came to: all that was sent with one key is one request."""
    by_key: dict[str, list[Sent]] = defaultdict(list)
    found: list[Sent] = []
    for one in sent:
        if one.action == "reuse_key":
            continue
        if one.key is None:
            found.append(one)
        else:
            by_key[one.key].append(one)
    return found + [_outcome(ones) for ones in by_key.values()]


def _outcome(ones: Sequence[Sent]) -> Sent:
    bound = [one for one in ones if is_bound(one)]
    # A refusal that passes says nothing of a try whose answer never came: it may be done later.
    unknown = [one for one in ones if one.outcome is Outcome.UNKNOWN]
    return (bound or unknown or list(ones))[-1]


def broken_keys(sent: Sequence[Sent]) -> Iterator[str]:
    """One key, one outcome, to the byte; and for another request none."""
    first: dict[str, Sent] = {}
    for one in sent:
        if one.key is None:
            continue
        if one.action == "reuse_key":
            slug = one.answer.get("type", "").rpartition(":")[2]
            if is_known(one) and slug != "idempotency-key-reused":
                yield f"a key was used for two requests: {one}"
        elif is_bound(one):
            before = first.setdefault(one.key, one)
            if before.raw != one.raw:
                yield f"key {one.key} was answered {before.raw!r}, and then {one.raw!r}"
