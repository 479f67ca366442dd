"""Kafka Connect with Debezium on this machine: one standalone process on loopback, for `shop up --cdc` and the tests.

Maven downloads Debezium once, and compiles the transformation of `deploy/connect`. The settings are those of
production, except for where things are. Debezium needs a Java *development* kit only for that.
"""

import json
import random
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from http.client import HTTPException
from pathlib import Path
from urllib.parse import quote
from urllib.request import urlopen

from devstack.files import make_folder, write_whole
from devstack.java import properties, utf_8
from devstack.kafka import PORTS, PROJECT, KafkaNotPossible, fetching, is_free, require_java
from devstack.process import Process
from devstack.supervisor import StartFailed

FOLDER = PROJECT / "deploy" / "connect"
HEAP = "768m"

_SOCKETS = "org.newsclub.net.unix.AFUNIXSocketFactory$FactoryArg"


@dataclass(frozen=True)
class Captured:
    """A service whose outbox is captured: its database, and a role that may use replication slots.

    `host` is a folder for a Unix socket.
    """

    service: str
    host: str
    port: int
    user: str
    password: str = ""
    database: str = ""
    """Its name; if empty, that of the service."""


class Connect(Process):
    """Kafka Connect with a connector for each service. Its data is in `data_dir`, and it keeps its address.

    `settings` override those of the connectors.
    """

    def __init__(
        self,
        data_dir: Path,
        bootstrap_servers: str,
        captured: Sequence[Captured],
        *,
        log: Path | None = None,
        java_options: Sequence[str] = (),
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.data_dir = data_dir.resolve()
        self._bootstrap_servers = bootstrap_servers
        self._captured = captured
        self._java_options = java_options
        self._settings = dict(settings or {})
        self._port = self._kept_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self.offsets = self.data_dir / "offsets"
        super().__init__(
            "connect", [], log=log or self.data_dir / "connect.log", env=utf_8(), answers=self._runs
        )

    def start(self) -> None:
        """Start it. The first start on a machine downloads Debezium, which may take minutes."""
        try:
            java, jars = require_java(), fetched()
        except KafkaNotPossible as error:
            raise StartFailed(str(error)) from error
        make_folder(self.data_dir, 0o700)
        files = [self.data_dir / "worker.properties"]
        write_whole(files[0], properties(self._worker()))
        for each in self._captured:
            files.append(self.data_dir / f"{each.service}.properties")
            write_whole(files[-1], properties(connector(each) | self._settings))
        self.argv = [
            java,
            *(f"-Xmx{HEAP}", "-XX:+UseSerialGC", *self._java_options),
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            "-Dorg.slf4j.simpleLogger.showDateTime=true",
            "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd HH:mm:ss.SSS",
            *("-cp", f"{jars}/*", "org.apache.kafka.connect.cli.ConnectStandalone"),
            *map(str, files),
        ]
        super().start()

    def _worker(self) -> Mapping[str, str]:
        return read_properties(FOLDER / "standalone.properties") | {
            "bootstrap.servers": self._bootstrap_servers,
            "listeners": self.url,
            "offset.storage.file.filename": str(self.offsets),
        }

    def _kept_port(self) -> int:
        kept = self.data_dir / "port.json"
        if not kept.exists() or not kept.stat().st_size:
            make_folder(self.data_dir, 0o700)
            free = (port for port in random.sample(PORTS, len(PORTS)) if is_free(port))
            write_whole(kept, json.dumps(next(free)))
        return int(json.loads(kept.read_text(encoding="utf-8")))

    def _runs(self) -> bool:
        """Whether every connector has a task that runs."""
        try:
            for each in self._captured:
                path = f"{self.url}/connectors/{each.service}_outbox/status"
                with urlopen(path, timeout=5) as answer:  # noqa: S310 - our own address
                    tasks = json.load(answer)["tasks"]
                if [task["state"] for task in tasks] != ["RUNNING"]:
                    return False
        except (OSError, HTTPException, ValueError):
            return False
        return True


def connector(captured: Captured) -> dict[str, str]:
    """The properties of a service's connector here."""
    template = (FOLDER / "connector.template.properties").read_text(encoding="utf-8")
    found = read_lines(template.replace("@service@", captured.service))
    del found["database.sslrootcert"]
    database = captured.database or captured.service
    jdbc = f"jdbc:postgresql://{captured.host}:{captured.port}/{database}"
    where = {"database.hostname": captured.host, "database.port": str(captured.port)}
    if captured.host.startswith("/"):
        socket = f"{captured.host}/.s.PGSQL.{captured.port}"
        jdbc = f"jdbc:postgresql://localhost/{database}?socketFactory={quote(_SOCKETS)}&socketFactoryArg={quote(socket, safe='')}"
        where = {
            "database.hostname": "localhost",
            "driver.socketFactory": _SOCKETS,
            "driver.socketFactoryArg": socket,
        }
    return (
        found
        | where
        | {
            "database.dbname": database,
            "database.sslmode": "disable",
            "database.user": captured.user,
            "database.password": captured.password,
            "transforms.outbox.database.url": jdbc,
            "transforms.outbox.database.user": captured.user,
            "transforms.outbox.database.password": captured.password,
        }
    )


def read_properties(path: Path) -> dict[str, str]:
    return read_lines(path.read_text(encoding="utf-8"))


def read_lines(text: str) -> dict[str, str]:
    """Java properties as we write them: one a line, without escapes."""
    lines = (line for line in text.splitlines() if line and not line.startswith("#"))
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


def fetched() -> Path:
    """The folder of Debezium, Kafka Connect and the transformation. Raises `KafkaNotPossible`."""
    sources = [FOLDER / "pom.xml", *sorted(FOLDER.glob("src/main/**/*.*"))]
    if not sources[0].exists():
        raise KafkaNotPossible(
            f"{sources[0]} is missing: a local Connect needs the project's own folder"
        )
    digest = sha256(b"".join(each.read_bytes() for each in sources if each.is_file())).hexdigest()
    jars = PROJECT / ".tools" / f"connect-{digest[:12]}"
    if not jars.exists():
        if shutil.which("javac") is None:
            raise KafkaNotPossible(
                "change data capture compiles a class of its own, and there is no `javac` on the PATH"
                " (Debian and Ubuntu: apt-get install openjdk-17-jdk-headless)"
            )
        # Its own tests are run by tests/cdc.
        goals = ("package", "-Dmaven.test.skip=true")
        with fetching(jars, "Debezium", sources[0], *goals) as scratch:
            for jar in (scratch / "built").glob("*.jar"):
                jar.rename(scratch / "jars" / jar.name)
    return jars
