"""Compose without containers: the same file, its services as processes of this machine.

Images become what they are made of: the shop its own commands, PostgreSQL and Kafka the servers
that `shop up` runs. Host names become free ports on loopback, and volumes folders; everything else,
commands, environments, health checks and the order of the start, is what the file says.
"""

import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import psycopg
import yaml
from psycopg import sql

from devstack.kafka import PROJECT, LocalKafka, require_java
from devstack.kafka import pinned_version as kafka_version
from devstack.postgres import LocalPostgres, _binaries
from devstack.process import Process

DEPLOY = PROJECT / "deploy"

Service = dict[str, Any]


def load(name: str = "compose.yaml") -> dict[str, Any]:
    return read((DEPLOY / name).read_text())


def read(text: str) -> dict[str, Any]:
    """What such a file says, with the default of every `${VARIABLE:-default}`."""
    loaded = yaml.safe_load(re.sub(r"\$\{\w+:-(\w+)\}", r"\1", text).replace("$$", "$"))
    assert isinstance(loaded, dict)
    return loaded


def instructions(stage: int | None = None) -> list[tuple[str, str]]:
    """The Dockerfile's instructions and their arguments, of one stage or of all."""
    text = (DEPLOY / "Dockerfile").read_text()
    lines = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ").splitlines()
    found = [(word, " ".join(rest.split())) for word, _, rest in (x.partition(" ") for x in lines)]
    found = [(word, rest) for word, rest in found if word]
    starts = [at for at, (word, _) in enumerate(found) if word == "FROM"]
    if stage is None:
        return found
    return found[starts[stage] : [*starts[1:], len(found)][stage]]


class Here:
    """The services of compose.yaml on this machine. A context manager, at whose end all stop."""

    def __init__(self, directory: Path, free_ports: list[int]) -> None:
        self.services: dict[str, Service] = load()["services"]
        self.processes: dict[str, Process] = {}
        listening = [
            name for name, each in self.services.items() if name.endswith("-db") or "ports" in each
        ]
        self.ports = dict(zip(listening, free_ports, strict=True))
        published = [port for each in self.services.values() for port in each.get("ports", ())]
        self._in_containers = {port.rpartition(":")[2] for port in published}
        self._directory = directory
        self._stops = ExitStack()
        self._kafka: Future[str] = Future()
        for volume in self.services["passwords"]["volumes"]:
            (directory / "secrets" / volume.rpartition("/")[2]).mkdir(parents=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stops.close()

    def up(self, start_kafka: Callable[..., LocalKafka]) -> None:
        """Everything, each as soon as what it depends on is well, or has ended well."""
        waiting = dict(self.services)
        well: set[str] = set()
        with ThreadPoolExecutor(1) as aside:
            while waiting:
                name = next(
                    name
                    for name, service in waiting.items()
                    if not waiting.keys() & service.get("depends_on", {}).keys()
                )
                service = waiting.pop(name)
                for needed in service.get("depends_on", {}).keys() - well:
                    self.wait_healthy(needed)
                    well.add(needed)
                if service["image"].startswith("apache/kafka:"):
                    self._kafka = aside.submit(self._start_kafka, service, start_kafka)
                elif service["image"].startswith("postgres:"):
                    self._start_postgres(name, service)
                elif service["restart"] == "no":
                    self.run(name)
                    well.add(name)
                else:
                    self.start(name)
            for name in self.services.keys() - well:
                self.wait_healthy(name)

    @property
    def kafka(self) -> str:
        """Its address. Waits until it has one, and answers."""
        return self._kafka.result()

    def run(self, name: str) -> None:
        """A service that ends by itself."""
        done = subprocess.run(
            self._command(name),
            env=self._environment(name),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"

    def start(self, name: str, number: int = 1) -> Process:
        process = Process(
            f"{name}-{number}",
            self._command(name),
            log=self._directory / f"{name}-{number}.log",
            env=self._environment(name, number),
        )
        process.start()
        self._stops.callback(process.stop, 10)
        self.processes[process.name] = process
        return process

    def wait_healthy(self, name: str, number: int = 1, timeout: float = 120) -> None:
        """As Compose does it: by asking again and again."""
        deadline = time.monotonic() + timeout
        process = self.processes.get(f"{name}-{number}")
        while not (said := self.healthy(name, number))[0]:
            assert process is None or process.returncode is None, process.last_words()
            assert time.monotonic() < deadline, f"{name} is not well: {said[1]}"
            time.sleep(0.25)

    def healthy(self, name: str, number: int = 1) -> tuple[bool, str]:
        """What its health check says."""
        kind, *words = self.services[name]["healthcheck"]["test"]
        words = [self._translated(word, name, number) for word in words]
        if kind == "CMD-SHELL":
            words = ["sh", "-c", *words]
        programs = {"python": sys.executable, "pg_isready": str(_binaries() / "pg_isready")}
        words = [programs.get(word, word) for word in words]
        try:
            checked = subprocess.run(
                words,
                env=self._environment(name, number),
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            return False, str(error)
        return checked.returncode == 0, (checked.stdout + checked.stderr).strip()

    def url(self, service: str) -> str:
        return f"http://127.0.0.1:{self.ports[service]}"

    def _command(self, name: str) -> list[str]:
        service = self.services[name]
        entrypoint = service.get("entrypoint") or [sys.executable, "-m", "shop.cli"]
        return [self._translated(word, name) for word in (*entrypoint, *service["command"])]

    def _environment(self, name: str, number: int = 1) -> dict[str, str]:
        """What the file says and, as in a container, nothing else."""
        given: Mapping[str, str] = self.services[name].get("environment", {})
        environment = {key: self._translated(text, name, number) for key, text in given.items()}
        if name in self.ports:
            port = str(self.ports[name])
            # What the image's own port is in the container.
            owner = name.partition("-")[0].upper()
            environment |= {"PGPORT": port} if "-db" in name else {f"SHOP_{owner}__PORT": port}
        if name == "migrate":
            environment["SHOP_ACCEPT_DATA_LOSS"] = "true"  # fsync is off here
        return environment | {"PATH": "/usr/local/bin:/usr/bin:/bin", "PYTHONUNBUFFERED": "1"}

    def _translated(self, text: str, name: str, number: int = 1) -> str:
        replacements = {
            "/run/secrets/": f"{self._directory}/secrets/",
            "/tmp/heartbeat": f"{self._directory}/{name}-{number}.heartbeat",
            "0.0.0.0": "127.0.0.1",
            **{f"@{each}/": f"@127.0.0.1:{port}/" for each, port in self.ports.items()},
            "kafka:9092": self.kafka if "kafka:9092" in text else "",
            "localhost:9092": self.kafka if "localhost:9092" in text else "",
            "/opt/kafka/bin/kafka-broker-api-versions.sh": _broker_api_versions(),
        }
        if text in self._in_containers:
            return str(self.ports[name])
        for old, new in replacements.items():
            text = text.replace(old, new)
        for each, port in self.ports.items():
            text = re.sub(rf"//{each}:\d+", f"//127.0.0.1:{port}", text)
        return text

    def _start_postgres(self, name: str, service: Service) -> None:
        """As the image's entry point does: the user, his database and his password, once."""
        settings = dict(word.removeprefix("-c").split("=") for word in service["command"][1:])
        port = str(self.ports[name])
        here = {"listen_addresses": "127.0.0.1", "port": port, "fsync": "off"}
        server = LocalPostgres(self._directory / name, settings=settings | here)
        server.start()
        self._stops.callback(server.stop)
        server.wait_ready()
        environment = self._environment(name)
        password = Path(environment["POSTGRES_PASSWORD_FILE"]).read_text().removesuffix("\n")
        user, database = environment["POSTGRES_USER"], environment["POSTGRES_DB"]
        socket = f"host={server.socket_dir} port={port} user=postgres dbname=postgres"
        with psycopg.connect(socket, autocommit=True) as admin:
            role = "CREATE ROLE {} SUPERUSER LOGIN PASSWORD {}"
            admin.execute(sql.SQL(role).format(sql.Identifier(user), password))
            admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database)))
            # Over the network only with the password, as in the image.
            access = server.data_dir / "pg_hba.conf"
            access.write_text("local all all trust\nhost all all all scram-sha-256\n")
            admin.execute("SELECT pg_reload_conf()")

    def _start_kafka(self, service: Service, start_kafka: Callable[..., LocalKafka]) -> str:
        settings = kafka_settings(service)
        for placed in ("listeners", "advertised_listeners", "controller_quorum_voters", "log_dirs"):
            del settings[placed]
        return start_kafka(**settings).bootstrap_servers


def kafka_settings(service: Service) -> dict[str, str]:
    """Kafka's own, from the image's environment, with an underscore for every dot."""
    return {
        name.removeprefix("KAFKA_").lower(): text
        for name, text in service["environment"].items()
        if name.startswith("KAFKA_") and name != "KAFKA_HEAP_OPTS"
    }


def _broker_api_versions() -> str:
    jars = PROJECT / ".tools" / f"kafka-{kafka_version()}"
    return f"{require_java()} -cp '{jars}/*' org.apache.kafka.tools.BrokerApiVersionsCommand"
