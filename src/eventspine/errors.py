"""What can go wrong below a service, sorted by what the caller may conclude from it.

SpineError
├── Unavailable        nothing was done: the same call may be made again
│   ├── Overloaded     … because too many callers wait already
│   └── Conflict          … because somebody else was faster: at once it may succeed
├── OutcomeUnknown     it was done once or not at all, and nobody here can tell
└── MissingEvents      the log skipped a version of something: do not step over it
"""


class SpineError(Exception):
    """Anything the spine raises on purpose."""


class Unavailable(SpineError):
    """The database could not do it now, and certainly did not do it."""


class Overloaded(Unavailable):
    """More callers are waiting than this process can serve in time."""


class Conflict(Unavailable):
    """Somebody else has committed something that this was about to."""


class OutcomeUnknown(SpineError):
    """The connection was lost while the commit was under way.

    Never run the same work again blindly: it may stand in the database already.
    """


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
