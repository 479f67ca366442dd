"""What one look at the flow found. Every class turns into JSON by `dataclasses.asdict`.

A number that could not be read is None. It is never an old one.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal

State = Literal["well", "behind", "stuck", "away"]
"""`away`: it does not answer. `stuck`: something waits, and nothing moves, or a key is parked. `behind`: it moves,
but what it works on is older than `BEHIND_AFTER`. From the best to the worst, except that away is the worst.
"""

STATES: tuple[State, ...] = ("well", "behind", "stuck", "away")

BEHIND_AFTER = 5.0
"""Seconds: an event that waits for less time is on its way."""

STUCK_AFTER = 3.0
"""Seconds without any movement, while something waits."""


@dataclass(frozen=True)
class Api:
    """A service's API, by its readiness. `rate`: requests are not counted here, but the events that they commit."""

    url: str
    state: State
    says: str = ""
    """Why it is not ready, as one sentence."""


@dataclass(frozen=True)
class Outbox:
    """A service's outbox, and the relay that feeds the log from it."""

    state: State
    published: int | None = None
    """The last position that was given out."""
    relayed: int | None = None
    """The position up to which the relay has fed the log."""
    waiting: int | None = None
    waiting_seconds: float | None = None
    """The age of the oldest event that waits, by the database's clock."""
    publish_rate: float | None = None
    """Events a second; None at the first look."""
    relay_rate: float | None = None
    relay_leads: bool | None = None
    """Whether a worker holds the relay's leadership."""
    says: str = ""


@dataclass(frozen=True)
class LogFlow:
    """A service's topic."""

    topic: str
    state: State
    records: int | None = None
    """The sum of the ends of its partitions."""
    partitions: int | None = None
    rate: float | None = None
    """Records a second; None at the first look."""
    says: str = ""


@dataclass(frozen=True)
class PartitionLag:
    partition: int
    next_offset: int
    end: int

    @property
    def behind(self) -> int:
        return max(0, self.end - self.next_offset)


@dataclass(frozen=True)
class ConsumerFlow:
    """One consumer of a service, on one topic. The lag is that of the service's own checkpoints."""

    consumer: str
    topic: str
    state: State
    applied: int | None = None
    """The sum of its checkpoints' offsets."""
    rate: float | None = None
    """Records a second; None at the first look."""
    behind: int | None = None
    behind_seconds: float | None = None
    """The age of the oldest record that waits, by its publisher's clock and this machine's. 0 if none waits."""
    partitions: tuple[PartitionLag, ...] = ()
    parked_keys: int | None = None
    """Keys that wait behind a parked event."""
    parked: int | None = None
    """Parked records, at most `MOST_COUNTED`: with one more, there are that many or more."""
    says: str = ""


MOST_COUNTED = 1000


@dataclass(frozen=True)
class ServiceFlow:
    name: str
    title: str
    database: State
    outbox: Outbox | None
    """None if it only reads."""
    log: LogFlow | None
    consumers: tuple[ConsumerFlow, ...]
    api: Api | None = None
    """None if no URL of it is known."""
    says: str = ""
    """Why the database is away."""


@dataclass(frozen=True)
class Trouble:
    """One sentence that says what is wrong."""

    where: str
    """Such as `orders database`, `users relay`, `log`."""
    state: State
    says: str


@dataclass(frozen=True)
class Flow:
    at: datetime
    log_kind: str
    """`postgres` or `kafka`."""
    services: tuple[ServiceFlow, ...]

    @property
    def troubles(self) -> tuple[Trouble, ...]:
        """All that is not well, the worst first. What is the same for all is said once."""
        found = dict.fromkeys(trouble for each in self.services for trouble in _troubles(each))
        return tuple(sorted(found, key=lambda trouble: -STATES.index(trouble.state)))

    @property
    def state(self) -> State:
        return self.troubles[0].state if self.troubles else "well"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            **asdict(self),
            "at": self.at.isoformat(),
            "state": self.state,
            "troubles": [asdict(each) for each in self.troubles],
        }


def _troubles(service: ServiceFlow) -> Iterator[Trouble]:
    if service.database != "well":
        yield Trouble(f"{service.name} database", service.database, service.says)
    if service.api is not None and service.api.state != "well":
        yield Trouble(f"{service.name} API", service.api.state, service.api.says)
    # If the database is away, nothing is known of the outbox and the consumers.
    known = service.database == "well"
    if known and service.outbox is not None and service.outbox.state != "well":
        yield Trouble(f"{service.name} relay", service.outbox.state, service.outbox.says)
    if service.log is not None and service.log.state != "well":
        # All topics are in one log. If it is away, it is away for all.
        where = "log" if service.log.state == "away" else f"topic {service.log.topic}"
        yield Trouble(where, service.log.state, service.log.says)
    for each in service.consumers:
        if known and each.state not in {"well", "away"}:
            yield Trouble(
                f"{each.consumer} consumer of {each.topic}",
                each.state,
                each.says,
            )
