"""The errors that the spine raises, by what the caller may conclude from them.

SpineError
├── Unavailable        nothing was done: the call can be repeated
│   ├── Overloaded     … because too many callers are waiting already
│   └── Conflict       … because another transaction was faster: an immediate retry may succeed
├── OutcomeUnknown     it was done once or not at all; this process does not know which
├── NoOutcome          an external provider gave no outcome: it will be asked again
└── MissingEvents      the log skipped a version of a key: the event must not be applied
"""


class SpineError(Exception):
    """The base of all errors that the spine raises on purpose."""


class Unavailable(SpineError):
    """The database could not do the work now. Nothing was done."""


class Overloaded(Unavailable):
    """More callers are waiting than this process can serve in time."""


class Conflict(Unavailable):
    """Another transaction committed the same row first."""


class OutcomeUnknown(SpineError):
    """The connection was lost while the commit was under way.

    Check before you repeat the work: it may already be in the database.
    """


class NoOutcome(SpineError):
    """An external provider gave no outcome. It will be asked again."""


class MissingEvents(SpineError):
    """An event arrived, but the one before it is missing. A key's versions must rise by one."""

    def __init__(self, what: str, key: int | str, *, known: int, got: int) -> None:
        super().__init__(
            f"{what} {key}: version {got} arrived after version {known}; "
            f"{got - known - 1} event(s) between them are missing"
        )
        self.key = key
        self.known = known
        self.got = got
