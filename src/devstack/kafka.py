"""A Kafka broker on this machine: one KRaft node on loopback, for `shop up --kafka local` and the tests.

Maven downloads Kafka once, in the versions that `deploy/kafka/pom.xml` pins. It runs as a plain Java
process. It is for one machine, with replication factor 1. Like every Kafka broker, it leaves flushing to the
operating system. So confirmed records survive a crash of the broker, but not a power failure.
"""

import json
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
import xml.etree.ElementTree as ET
from base64 import urlsafe_b64encode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import MappingProxyType
from uuid import uuid4

from devstack.files import hand_over, make_folder, write_whole
from devstack.java import properties, utf_8
from devstack.process import command_of

PROJECT = Path(__file__).parents[2]
POM = PROJECT / "deploy" / "kafka" / "pom.xml"
OLDEST_JAVA = 17

# Below the system's range for outgoing connections. The broker keeps its port for months, and no other
# program's outgoing connection may take it.
PORTS = range(20_000, 30_000)

HEAP = "512m"
STOP_WITHIN = 10.0

QUICK_START = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
"""Options of a JVM that runs only for seconds: one quick compilation. They save a third of its start."""

SETTINGS: Mapping[str, str] = MappingProxyType(
    {
        "process.roles": "broker,controller",
        "node.id": "1",
        "listener.security.protocol.map": "BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name": "BROKER",
        "controller.listener.names": "CONTROLLER",
        # Topics are created explicitly, with their settings.
        "auto.create.topics.enable": "false",
        "offsets.topic.replication.factor": "1",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        # The default of 50 partitions for group offsets suits clusters; here it only slows the start.
        "offsets.topic.num.partitions": "2",
        # After a crash, the broker can start only when its own controller has ended the old broker's
        # session. The default is 9 s.
        "broker.session.timeout.ms": "1500",
        "broker.heartbeat.interval.ms": "250",
        # No part here waits for the controller's no-op records. By default they are a write every 0.5 s.
        "metadata.max.idle.interval.ms": "5000",
        "group.initial.rebalance.delay.ms": "0",
        # The broker notices a dead worker after 6 s, and a partition gets its next reader within 0.5 s.
        # The defaults of 45 s and 5 s suit clusters; here a person waits.
        "group.consumer.session.timeout.ms": "6000",
        "group.consumer.min.session.timeout.ms": "6000",
        "group.consumer.heartbeat.interval.ms": "500",
        "group.consumer.min.heartbeat.interval.ms": "500",
    }
)


class KafkaNotPossible(Exception):
    """Kafka can't run here. The message is one sentence that says what is missing."""


class LocalKafka:
    """The broker whose data is in `data_dir`. It keeps its address across restarts.

    `settings` are Kafka's broker properties, and override the defaults. `jars` is the folder of the
    downloaded artifacts; None means `.tools` in the project. `java_options` are options of the broker's JVM.
    """

    name = "kafka"

    def __init__(
        self,
        data_dir: Path,
        *,
        settings: Mapping[str, str] | None = None,
        jars: Path | None = None,
        java_options: Sequence[str] = (),
    ) -> None:
        self.data_dir = data_dir.resolve()
        try:
            os.fsencode(self.data_dir).decode("utf-8")
        except UnicodeDecodeError as error:
            raise KafkaNotPossible(
                f"Java can't keep data in {self.data_dir}, whose name is no UTF-8: choose another"
                " directory"
            ) from error
        self.log_file = self.data_dir / "kafka.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._java_options = java_options
        self._jars = jars or PROJECT / ".tools" / f"kafka-{pinned_version()}"
        self._config = self.data_dir / "server.properties"
        self._port, controller_port = self._ports()
        self.settings: dict[str, str] = {
            **SETTINGS,
            "listeners": f"BROKER://127.0.0.1:{self._port},CONTROLLER://127.0.0.1:{controller_port}",
            "advertised.listeners": f"BROKER://127.0.0.1:{self._port}",
            "controller.quorum.voters": f"1@127.0.0.1:{controller_port}",
            # Relative to the working directory, because Kafka splits a path at commas.
            "log.dirs": "data",
            **(settings or {}),
        }
        self.bootstrap_servers = f"127.0.0.1:{self._port}"

    def advertise(self, address: str) -> None:
        """Advertise this `host:port` to clients, from the next start on."""
        self.settings["advertised.listeners"] = f"BROKER://{address}"

    def start(self) -> None:
        """Download and format if necessary, and start. `wait_ready` waits until the broker is ready."""
        java = require_java()
        fetch(self._jars)
        self._end_predecessor()
        write_whole(self._config, properties(self.settings))
        if not (self.data_dir / "data" / "meta.properties").exists():
            self._format(java)
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603 - our own program and words
                [
                    *self._java(java),
                    f"-Xms{HEAP}",
                    f"-Xmx{HEAP}",
                    # One thread for garbage collection is enough for half a gigabyte, and leaves the
                    # cores of a small machine to the shop.
                    "-XX:+UseSerialGC",
                    *self._java_options,
                    "-Djava.awt.headless=true",
                    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
                    "-Dorg.slf4j.simpleLogger.showDateTime=true",
                    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd HH:mm:ss.SSS",
                    "kafka.Kafka",
                    self._config.name,
                ],
                cwd=self.data_dir,
                env=utf_8(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C in the terminal must not reach the broker: the parent process stops it last.
                start_new_session=True,
            )
        write_whole(self.data_dir / "kafka.pid", str(self.process.pid))

    def wait_ready(self, timeout: float = 60.0) -> None:
        """Wait until the broker answers. Raises `KafkaNotPossible` if it ends or is too slow."""
        deadline = time.monotonic() + timeout
        while not answers(self._port):
            if self.process is None or self.process.poll() is not None:
                raise KafkaNotPossible(f"Kafka ended while starting:\n{self._last_words()}")
            if time.monotonic() > deadline:
                raise KafkaNotPossible(
                    f"Kafka was not ready in {timeout:.0f} s:\n{self._last_words()}"
                )
            time.sleep(0.05)

    def stop(self) -> None:
        """Shut the broker down cleanly, or kill it after ten seconds."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(STOP_WITHIN)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        (self.data_dir / "kafka.pid").unlink(missing_ok=True)

    def _java(self, java: str) -> list[str]:
        """The start of the command. Its working directory is the data directory.

        All paths are relative, because Java, its class path and Kafka each treat some characters of a
        path specially. The option that names the directory is there for `_end_predecessor`.
        """
        jars = os.path.relpath(self._jars.resolve(), self.data_dir)
        return [java, f"-Deventshop.data={self.data_dir}", "-cp", f"{jars}/*"]

    def _ports(self) -> tuple[int, int]:
        """The two ports of this data directory. They are chosen when it is created."""
        kept = self.data_dir / "ports.json"
        # An older release left an empty file if the disk was full.
        if not kept.exists() or not kept.stat().st_size:
            make_folder(self.data_dir)
            free = (port for port in random.sample(PORTS, len(PORTS)) if is_free(port))
            write_whole(kept, json.dumps([next(free), next(free)]))
        broker, controller = json.loads(kept.read_text(encoding="utf-8"))
        return int(broker), int(controller)

    def _format(self, java: str) -> None:
        """Format the data directory. Repeated attempts use the same cluster id."""
        kept = self.data_dir / "cluster.id"
        if not kept.exists() or not kept.stat().st_size:
            # The same format as `kafka-storage random-uuid`, without starting a JVM for a second. No "-",
            # because an argument that starts with it would be an option.
            new = urlsafe_b64encode(uuid4().bytes).decode().rstrip("=")
            write_whole(kept, new.replace("-", "A"))
        done = subprocess.run(  # noqa: S603 - our own program and words
            [
                *(*self._java(java), *QUICK_START, "kafka.tools.StorageTool"),
                *("format", "-t", kept.read_text(encoding="utf-8"), "-c", self._config.name),
                "--ignore-formatted",
            ],
            cwd=self.data_dir,
            env=utf_8(),
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
        if done.returncode:
            raise KafkaNotPossible(
                f"Kafka could not format {self.data_dir}:\n{done.stderr.strip()}"
            )

    def _end_predecessor(self) -> None:
        """End the broker that a killed `shop up` left behind on this data, and no other process."""
        try:
            pid = int((self.data_dir / "kafka.pid").read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            pid = 0
        if pid and self._is_ours(pid):
            os.kill(pid, signal.SIGTERM)
            deadline = time.monotonic() + STOP_WITHIN
            while self._is_ours(pid) and time.monotonic() < deadline:
                time.sleep(0.05)
        if not is_free(self._port):
            raise KafkaNotPossible(
                f"port {self._port}, which Kafka uses for the data in {self.data_dir}, is taken by"
                " another program; end that program and try again"
            )

    def _is_ours(self, pid: int) -> bool:
        command = command_of(pid)
        # The second form is the command of earlier releases.
        return f"={self.data_dir} " in command or str(self._config) in command

    def _last_words(self) -> str:
        lines = self.log_file.read_text(errors="replace").splitlines()
        return "\n".join(lines[-15:])


def pinned_version() -> str:
    if not POM.exists():
        raise KafkaNotPossible(f"{POM} is missing: a local Kafka needs the project's own folder")
    version = ET.parse(POM).findtext(".//{*}kafka.version")  # noqa: S314 - our own file
    assert version, POM
    return version


def require_java() -> str:
    """The path of `java`. Raises `KafkaNotPossible` with a sentence about what to install."""
    java = shutil.which("java")
    if java is None:
        raise KafkaNotPossible(
            f"Kafka needs Java {OLDEST_JAVA} or newer, and there is no `java` on the PATH"
            " (Debian and Ubuntu: apt-get install openjdk-17-jre-headless)"
        )
    major = _major_version(java)
    if not major.isdigit() or int(major) < OLDEST_JAVA:
        raise KafkaNotPossible(f"Kafka needs Java {OLDEST_JAVA} or newer; {java} is {major}")
    return java


@cache
def _major_version(java: str) -> str:
    told = subprocess.run(  # noqa: S603 - our own program and words
        [java, "-version"], capture_output=True, encoding="utf-8", errors="replace", check=False
    ).stderr
    quoted = next((word.strip('"') for word in told.split() if word.startswith('"')), "0")
    return quoted.split(".")[0]


def fetch(jars: Path) -> None:
    """Download Kafka's artifacts into `jars`: all of them, or none if it is interrupted."""
    if not jars.exists():
        with fetching(jars, "Kafka", POM):
            pass


@contextmanager
def fetching(jars: Path, program: str, pom: Path, *goals: str) -> Iterator[Path]:
    """Let Maven reach these goals and copy the dependencies. The block may add files; then all of them are in `jars`."""
    if ":" in str(jars):
        raise KafkaNotPossible(
            f"Java can't read programs from {jars}: there is a colon in its path"
        )
    maven = shutil.which("mvn")
    if maven is None:
        raise KafkaNotPossible(
            f"Maven downloads {program}, and there is no `mvn` on the PATH"
            " (Debian and Ubuntu: apt-get install maven)"
        )
    make_folder(jars.parent)
    with tempfile.TemporaryDirectory(dir=jars.parent) as scratch:
        fetched = Path(scratch) / "jars"
        where = [
            f"-DoutputDirectory={fetched}",
            "-DincludeScope=runtime",
            f"-Dbuilt.in={scratch}/built",
        ]
        done = subprocess.run(  # noqa: S603 - our own program and words
            [maven, "-B", "-q", "-f", str(pom), *goals, "dependency:copy-dependencies", *where],
            env=utf_8(),
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
        if done.returncode:
            raise KafkaNotPossible(
                f"Maven could not fetch {program}:\n{done.stdout.strip()[-2000:]}"
            )
        yield Path(scratch)
        try:
            fetched.rename(jars)
        except OSError:
            if not jars.exists():  # otherwise a parallel start has put the same files there
                raise
    hand_over(jars.parent)


def answers(port: int) -> bool:
    """Whether a Kafka broker gives out producer ids (InitProducerId, v0), so that it can serve producers.

    An open port or another answer is not enough. For a moment after its start, a broker rejects producers.
    librdkafka tries again only half a second later, and the first event would wait that long.
    """
    # API key, version, correlation id, no client id; no transactional id, a timeout of 1 s.
    request = struct.pack(">hhih hi", 22, 0, 1, -1, -1, 1000)
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(struct.pack(">i", len(request)) + request)
            with connection.makefile("rb") as answer:
                # Length, correlation id, throttle time, and the error code: 0 for none.
                _, _, _, error = struct.unpack(">iiih", answer.read(14))
            return bool(error == 0)
    except (OSError, struct.error):
        return False


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
