"""Change data capture for `shop up --cdc`: roles, settings and Kafka Connect; and its end, when `shop up` runs without."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from devstack.connect import Captured, Connect, fetched
from devstack.kafka import QUICK_START, KafkaNotPossible
from devstack.postgres import LocalPostgres
from devstack.process import Process
from devstack.supervisor import StartFailed
from shop.platform import discovery


class LocalCapture:
    """Captures the outboxes of these services. Its data is in `data_dir`."""

    def __init__(self, data_dir: Path, postgres: LocalPostgres, services: Sequence[str]) -> None:
        self._data_dir = data_dir
        self._postgres = postgres
        self._publishing = [name for name in services if discovery.load(name).topic]

    def prepare(self) -> Mapping[str, str]:
        """Make the roles, before the migration gives them their rights. Returns settings that name them."""
        self._postgres.ensure_replicators(self._publishing)
        return {
            f"SHOP_{name.upper()}__CDC_DATABASE_URL": self._postgres.dsn(name, f"{name}_cdc")
            for name in self._publishing
        }

    def settle(
        self, once: Callable[..., None], process: Callable[..., Process], *, begin: bool
    ) -> None:
        """Begin it, or end it and remove its data. `once` runs a process to its end; Connect must not run."""
        deed = "begin" if begin else "end"
        once(process("cdc", "cdc", deed), failed=f"change data capture could not {deed}")
        if not begin:
            shutil.rmtree(self._data_dir)

    def connect(self, bootstrap_servers: str, log: Path) -> Connect:
        """Kafka Connect, downloaded, and not started. Raises `StartFailed`."""
        try:
            fetched()
        except KafkaNotPossible as error:
            raise StartFailed(str(error)) from error
        host, port = str(self._postgres.socket_dir), self._postgres.port
        captured = [Captured(name, host, port, f"{name}_cdc") for name in self._publishing]
        # A person waits for it to start, and nobody for its highest speed.
        connect = Connect(
            self._data_dir, bootstrap_servers, captured, log=log, java_options=QUICK_START
        )
        # The slots know how far Debezium has read. A slot that was made anew has nothing to do with these.
        connect.offsets.unlink(missing_ok=True)
        return connect
