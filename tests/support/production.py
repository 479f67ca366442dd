"""The production file's services as processes of this machine, with its secrets, TLS, roles and rights."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack, closing
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import yaml
from confluent_kafka import KafkaError, Producer

from devstack.connect import fetched
from devstack.kafka import LocalKafka
from devstack.process import Process
from tests.support.compose import DEPLOY
from tests.support.kafka import start_broker
from tests.support.services import FRONTS, SHIPPED
from tests.support.shop import answers, free_ports, shop_command
from tests.support.tls_postgres import ADMINISTRATOR, TlsPostgres
from tests.support.waiting import until

FILE = yaml.safe_load((DEPLOY / "compose.prod.yaml").read_text().replace("$$", "$"))
SERVICES: dict[str, dict[str, Any]] = FILE["services"]


def make_secrets(folder: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("left out, since there is no `openssl` to make a certificate with")
    done = subprocess.run(
        ["sh", str(DEPLOY / "secrets.sh"), "shop.example", *SHIPPED],
        env={**os.environ, "EVENTSHOP_SECRETS": str(folder), "EVENTSHOP_ALSO": "DNS:localhost"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def written(client: Mapping[str, Any], topic: str) -> bool:
    """Whether a Kafka user may write to this topic."""
    errors: list[KafkaError | None] = []
    producer = Producer({**client, "message.timeout.ms": 15_000})
    producer.produce(topic, b"forged", on_delivery=lambda error, _: errors.append(error))
    producer.flush(20)
    (error,) = errors
    assert error is None or error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED, error
    return error is None


class Production:
    """The file's services as processes: the same commands, environments, secrets, roles and rights.

    Hosts become ports of this machine; their certificates are for its name, too.
    """

    def __init__(self, folder: Path, stops: ExitStack) -> None:
        self.secrets, self._stops = folder / "secrets", stops
        self.secrets.mkdir()
        make_secrets(self.secrets)
        self._data, self._started = folder, count(1)
        self.processes: dict[str, Process] = {}
        self.relay = "polling"
        self.hosts: dict[str, str] = {}
        self.databases: dict[str, TlsPostgres] = {}
        names = (*SHIPPED, *FRONTS)
        self.api_ports = dict(zip(names, free_ports(len(names)), strict=True))
        for name in SHIPPED:
            self._start_postgres(f"{name}-db")
        self.kafka = self._start_kafka()
        self.run("kafka-roles")
        for name in SHIPPED:
            self.run(f"{name}-roles")
        self.run("migrate", SHOP_ACCEPT_DATA_LOSS="")

    def environment(self, name: str) -> dict[str, str]:
        found = {"PATH": os.environ["PATH"], "SHOP_SERVICES": "shop.services"}
        for key, text in SERVICES[name]["environment"].items():
            found[key] = self._here(text, name)
        owner = name.partition("-")[0]
        if name.endswith("-api") or name in FRONTS:
            found[f"SHOP_{owner.upper()}__PORT"] = str(self.api_ports[owner])
        return found

    def run(self, name: str, *words: str, typed: str = "", **more: str) -> str:
        """Until it ends; with another command, if words are given, as `docker compose run` does."""
        done = self.tried(name, *words, typed=typed, **more)
        assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"
        return done.stdout

    def tried(
        self, name: str, *words: str, typed: str = "", **more: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            shop_command(*words) if words else self._command(name),
            env={**self.environment(name), **{k: v for k, v in more.items() if v}},
            input=typed,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def start_all(self) -> None:
        """The APIs, workers and pages, and wait until they are ready."""
        if self.processes:
            return
        for name in SHIPPED:
            for part in (f"{name}-api", f"{name}-worker"):
                self.processes[part] = self.start(part)
        for name in FRONTS:
            self.processes[name] = self.start(name)
        for name in (*SHIPPED, *FRONTS):
            with self.to(name) as client:
                until(lambda client=client: answers(client), f"{name} answers", 60)
                ready = partial(client.get, "/health/ready")
                until(lambda ready=ready: ready().is_success, f"{name} is ready", 90)

    def relay_by_debezium(self) -> Process:
        """As `--profile cdc` and SHOP_RELAY=cdc do it. Returns Kafka Connect, which has started."""
        self.relay = "cdc"
        for name in ("kafka-roles", *(f"{each}-roles" for each in SHIPPED), "migrate", "cdc-begin"):
            self.run(name)
        for name in SHIPPED:
            self.processes[f"{name}-worker"].stop(10)
            self.processes[f"{name}-worker"] = self.start(f"{name}-worker")
        connect = Process(
            "connect", ["sh", "-euc", self._connect_script()], log=self._data / "connect.log",
            env={"PATH": os.environ["PATH"], **self._connect_environment()},
        )  # fmt: skip
        connect.start()
        self._stops.callback(connect.stop, 10)
        return connect

    def to(self, name: str) -> AbstractContextManager[httpx.Client]:
        return closing(
            httpx.Client(base_url=f"http://127.0.0.1:{self.api_ports[name]}", timeout=30)
        )

    def start(self, name: str, **more: str) -> Process:
        """`more` changes its environment."""
        process = Process(
            name,
            self._command(name),
            log=self._data / f"{name}-{next(self._started)}.log",
            env={**self.environment(name), **more},
        )
        process.start()
        self._stops.callback(process.stop, 10)
        return process

    def _connect_script(self) -> str:
        """The file's, on a copy of `deploy/connect` that has the places of this machine in it."""
        here = self._data / "connect"
        here.mkdir()
        (rest,) = free_ports(1)
        for file in (DEPLOY / "connect").glob("*.properties"):
            # A container has a folder /tmp of its own. The machine's may have another run's offsets.
            text = file.read_text().replace("/tmp/", f"{here}/")
            text = text.replace("/run/secrets", str(self.secrets / "connect"))
            text = text.replace("${env:CONNECT_HOST}:8083", f"${{env:CONNECT_HOST}}:{rest}")
            if file.stem in SHIPPED:
                port = self.hosts[f"{file.stem}-db"].rpartition(":")[2]
                text = text.replace("database.port=5432", f"database.port={port}")
                text = text.replace(":5432/", f":{port}/")
            (here / file.name).write_text(text)
        [script] = SERVICES["connect"]["command"]
        jars = "/etc/connect/target/*:/etc/connect/target/jars/*"
        assert jars in script
        # First what is in the file: these folders may themselves be in /tmp.
        script = script.replace("/tmp/", "/etc/connect/").replace(jars, f"{fetched()}/*")
        return str(script.replace("/etc/connect", str(here)))

    def _connect_environment(self) -> dict[str, str]:
        found = dict(SERVICES["connect"]["environment"])
        for name in SHIPPED:
            # Its port is in the copy of the file.
            assert found[f"{name.upper()}_DATABASE_HOST"] == f"{name}-db"
            found[f"{name.upper()}_DATABASE_HOST"] = "localhost"
        return found | {"KAFKA_BOOTSTRAP_SERVERS": self._here("kafka:9093", "connect")}

    def row(self, service: str, sql: str) -> tuple[Any, ...] | None:
        """As the administrator of a service's database."""
        with closing(self.administrator(f"{service}-db", database=service)) as admin:
            return admin.execute(sql.encode()).fetchone()

    def administrator(
        self, name: str, *, database: str = "postgres", authority: Path | None = None
    ) -> psycopg.Connection:
        """Of this database server, by TLS and its password."""
        folder = self.secrets / name.replace("-db", "-roles")
        return psycopg.connect(
            host="localhost",
            port=self.databases[name].port,
            user=ADMINISTRATOR,
            dbname=database,
            password=(folder / "administrator_password").read_text().strip(),
            sslmode="verify-full",
            sslrootcert=str(authority or folder / "ca.crt"),
            autocommit=True,
        )

    def logged_in(self, name: str) -> set[str]:
        """The roles that have a connection to this database server, but for its administrator."""
        with closing(self.administrator(name)) as admin:
            rows = admin.execute("SELECT usename FROM pg_stat_activity WHERE usename <> 'postgres'")
            return {role for (role,) in rows}

    def client(self, user: str) -> dict[str, Any]:
        """librdkafka's settings of a Kafka user."""
        return {
            "bootstrap.servers": self.kafka,
            "security.protocol": "SASL_SSL",
            "ssl.ca.location": str(self.secrets / "authority/ca.crt"),
            "sasl.mechanism": "SCRAM-SHA-512",
            "sasl.username": user,
            "sasl.password": (self.secrets / f"passwords/kafka_{user}_password")
            .read_text()
            .strip(),
            "log_level": 0,
        }

    def _command(self, name: str) -> list[str]:
        words = [self._here(word, name) for word in SERVICES[name]["command"]]
        return shop_command(*words)

    def _here(self, text: str, name: str) -> str:
        text = text.replace("/run/secrets", str(self.secrets / name))
        text = text.replace("/tmp/heartbeat", str(self._data / f"{name}.heartbeat"))
        text = text.replace("${SHOP_RELAY:-polling}", self.relay)
        text = re.sub(r"\$\{SHOP_ISSUER:.*?\}", "https://shop.example", text).replace(
            "0.0.0.0", "127.0.0.1"
        )
        for api, port in self.api_ports.items():
            text = re.sub(rf"//{api}-api:\d+", f"//127.0.0.1:{port}", text)
        for host, address in self.hosts.items():
            text = re.sub(rf"(?<![\w-]){re.escape(host)}(?=$|[/:?])(:\d+)?", address, text)
        return text

    def _start_postgres(self, name: str) -> None:
        words = [word.removeprefix("-c") for word in SERVICES[name]["command"][1:]]
        settings = dict(word.split("=", 1) for word in words)
        folder = self.secrets / name
        for setting in ("ssl_cert_file", "ssl_key_file"):
            # From where the file has it; the server gets it under a path of its own.
            assert (folder / Path(settings.pop(setting)).name).exists()
        assert settings.pop("hba_file") == "/etc/postgresql/pg_hba.conf"
        [port] = free_ports(1)
        self.databases[name] = TlsPostgres(
            self._stops,
            port=port,
            certificate=folder / "server.crt",
            key=folder / "server.key",
            password=(folder / "administrator_password").read_text().strip(),
            settings=settings,
        )
        self.hosts[name] = f"localhost:{port}"

    def _start_kafka(self) -> str:
        (port,) = free_ports(1)
        named = {
            key.removeprefix("KAFKA_").lower().replace("___", "-").replace("_", "."): text
            for key, text in SERVICES["kafka"]["environment"].items()
            if key.startswith("KAFKA_") and key != "KAFKA_HEAP_OPTS"
        }
        plain = LocalKafka(self._data / "kafka").settings
        for placed in ("listeners", "advertised.listeners"):
            named[placed] = f"{plain[placed]},SECURE://localhost:{port}"
        for placed in ("controller.quorum.voters", "log.dirs"):
            del named[placed]
        named = {key: self._here(text, "kafka") for key, text in named.items()}
        broker = start_broker(self._stops, self._data / "kafka", named)
        self.hosts["localhost:9092"] = broker.bootstrap_servers
        self.hosts["kafka:9093"] = f"localhost:{port}"
        return f"localhost:{port}"
