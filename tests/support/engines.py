"""The logs that the shop can run on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Engine:
    """A log to run the shop on."""

    name: str
    up_options: Sequence[str] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    """For parts that are started one by one; of PostgreSQL the database is still to be named."""
    forget: Callable[[], None] = lambda: None
    """Have an empty log again: each shop begins with new databases."""
