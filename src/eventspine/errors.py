"""What can go wrong below a service, sorted by what the caller may conclude from it.

SpineError
├── Unavailable        nothing was done: the same call may be made again
│   ├── Overloaded     … because too many callers wait already
│   └── Conflict          … because another transaction was faster: an immediate retry may succeed
├── OutcomeUnknown     it was done once or not at all; this process can't tell
├── NoOutcome          a provider outside gave no outcome: it is asked again
└── MissingEvents      the log skipped a version of something: do not step over it
"""


class SpineError(Exception):
    """Anything the spine raises on purpose."""


class Unavailable(SpineError):
    """The database could not do it now, and certainly did not do it."""


class Overloaded(Unavailable):
    """More callers are waiting than this process can serve in time."""


class Conflict(Unavailable):
    """Another transaction has committed the same row first."""


class OutcomeUnknown(SpineError):
    """The connection was lost while the commit was under way.

    Never repeat the work without a check: it may already be in the database.
    """


class NoOutcome(SpineError):
    """A provider outside has not said what came of it. It is asked again."""


class MissingEvents(SpineError):
    """An event arrived whose predecessor did not: its key's versions must rise by one."""

    def __init__(self, what: str, key: int | str, *, known: int, got: int) -> None:
        super().__init__(
            f"{what} {key}: version {got} arrived after version {known}; "
            f"{got - known - 1} event(s) between them never came"
        )
        self.key = key
        self.known = known
        self.got = got
