"""What `shop up` is asked to run."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

LOCAL = "local"
"""This value, instead of a Kafka broker's address, means a broker that is started here."""


@dataclass(frozen=True)
class LocalService:
    """A service or a front, and the port of its API on this machine."""

    name: str
    port: int


@dataclass(frozen=True)
class UpOptions:
    data: Path
    services: Sequence[LocalService]
    fronts: Sequence[LocalService] = ()
    """Pages over the services. They have no database and no worker."""
    host: str = "localhost"
    """The host on which the APIs listen."""
    max_connections: int = 0
    """The most connections that each API holds."""
    stop_within: float = 0.0
    """Seconds that an API may take to finish accepted requests."""
    verbose: bool = False
    """Show the logs of the processes on the terminal too."""
    kafka: str | None = None
    """None: the log is a table. `LOCAL`: start a broker here. Otherwise a broker's HOST:PORT."""
    cdc: bool = False
    """Let Debezium feed Kafka, and not the workers."""
    reload: bool = False
    """Restart processes whose code was edited."""
    gateway: int | None = None
    """The port of the gateway in front of the APIs; None for no gateway."""
    auth: bool = False
    """Require access tokens."""
    copy_log_from: str | None = None
    """"postgres", "kafka" or a broker's HOST:PORT: the log to copy into this one before it is used."""
