"""The local Kafka broker as a `Server`, so that the supervisor can run it like other servers."""

import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from devstack.kafka import KafkaNotPossible, LocalKafka, answers
from devstack.process import why_ended
from devstack.supervisor import StartFailed


class Broker:
    name = "kafka"

    def __init__(self, data_dir: Path, *, java_options: Sequence[str] = ()) -> None:
        try:
            self._kafka = LocalKafka(data_dir, java_options=java_options)
        except KafkaNotPossible as error:
            raise StartFailed(str(error)) from error
        self.bootstrap_servers = self._kafka.bootstrap_servers

    @property
    def pid(self) -> int | None:
        """The process id of the latest run; None before the first start."""
        return self._kafka.process.pid if self._kafka.process else None

    def advertise(self, address: str) -> None:
        """Advertise this `host:port` to clients, from the next start on."""
        self._kafka.advertise(address)

    def start(self) -> None:
        """Start the broker. The first start on a machine downloads Kafka, which may take minutes."""
        try:
            self._kafka.start()
        except KafkaNotPossible as error:
            raise StartFailed(str(error)) from error

    def ready(self) -> bool:
        return answers(int(self.bootstrap_servers.rpartition(":")[2]))

    def ended(self) -> str | None:
        process = self._kafka.process
        if process is None:
            return "it was not started"
        status = process.poll()
        return None if status is None else why_ended(status, f"see {self._kafka.log_file}")

    def terminate(self) -> None:
        if process := self._kafka.process:
            process.terminate()

    def stop(self, timeout: float) -> None:
        if process := self._kafka.process:
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout)
            if process.poll() is None:
                process.kill()
            self._kafka.stop()
