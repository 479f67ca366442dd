"""The production file: what it promises, and its processes on this machine, with TLS, passwords and rights."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, closing
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import psycopg
import psycopg.sql
import pytest
import yaml
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient

from devstack.connect import fetched
from devstack.kafka import LocalKafka
from devstack.postgres import LocalPostgres
from devstack.process import Process
from shop.platform import discovery
from tests.support.capture import need_debezium
from tests.support.compose import DEPLOY
from tests.support.kafka import start_broker
from tests.support.secured import TlsTerminator
from tests.support.services import SHIPPED
from tests.support.shop import answers, free_ports, shop_command
from tests.support.waiting import until

PASSWORD = "correct horse battery staple"

FILE = yaml.safe_load((DEPLOY / "compose.prod.yaml").read_text().replace("$$", "$"))
SERVICES: dict[str, dict[str, Any]] = FILE["services"]
OURS = {
    *(f"{name}-{part}" for name in SHIPPED for part in ("api", "worker", "roles")),
    "migrate",
    "kafka-roles",
    "cdc-begin",
}


def test_it_has_everything_for_every_service() -> None:
    databases = {f"{name}-db" for name in SHIPPED}
    assert SERVICES.keys() == OURS | databases | {"kafka", "gateway", "connect"}


def test_change_data_capture_starts_nothing_unless_it_is_asked_for() -> None:
    asked = {name for name in SERVICES if SERVICES[name].get("profiles") == ["cdc"]}
    assert asked == {"cdc-begin", "connect"}
    assert not [name for name in SERVICES.keys() - asked if "profiles" in SERVICES[name]]
    for name in SERVICES.keys() - asked:
        assert not asked & SERVICES[name].get("depends_on", {}).keys()
    for name in OURS:
        told = SERVICES[name]["environment"].get("SHOP_RELAY", "${SHOP_RELAY:-polling}")
        assert told == "${SHOP_RELAY:-polling}"


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_each_runs_an_image_by_digest_and_may_do_little(name: str) -> None:
    service = SERVICES[name]
    if name in OURS:
        # `pin-images.sh` writes it as REPOSITORY@sha256:….
        assert service["image"].startswith("${SHOP_IMAGE:?")
        assert service["user"] == "10001:10001"
    else:
        assert re.fullmatch(r"[\w/]+:[\w.-]+@\$\{[A-Z]+_DIGEST:\?.*\}", service["image"])
    assert not {"build", "privileged", "env_file", "develop"} & service.keys()
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory", "pids"}
    assert "user" in service or name == "kafka"  # whose image has a user of its own
    for volume in service["volumes"]:
        assert "src" not in volume
        assert volume.endswith(":ro") or not volume.startswith("."), volume


def test_the_gateway_alone_is_published() -> None:
    assert {name for name in SERVICES if "ports" in SERVICES[name]} == {"gateway"}
    assert FILE["networks"]["events"]["internal"] is True
    assert all(FILE["networks"][name]["internal"] for name in SHIPPED)


@pytest.mark.parametrize("name", sorted(OURS))
def test_secrets_are_files_and_each_sees_its_own(name: str) -> None:
    service = SERVICES[name]
    assert service["volumes"] == [f"./secrets/{name}:/run/secrets:ro"]
    owner, _, part = name.rpartition("-")
    for key, text in service["environment"].items():
        assert not re.search(r"://[^/@]*:[^/@]*@", text), key
        if re.search("PASSWORD|SECRET|TOKEN|ENCRYPTION_KEY", key):
            assert key.endswith("_FILE") and text.startswith("/run/secrets/"), key
    if part in {"api", "worker"}:
        assert service["environment"]["SHOP_ENV"] == "production"
        assert not [
            k
            for k in service["environment"]
            for other in {*SHIPPED} - {owner}
            if f"_{other.upper()}__" in k
        ]
    issues = part == "api" and discovery.sections()[owner].issues_tokens
    assert ("SHOP_AUTH__KEY_ENCRYPTION_KEY_FILE" in service["environment"]) is issues


def test_every_folder_of_secrets_is_made(tmp_path: Path) -> None:
    make_secrets(tmp_path)
    mounted = {
        volume.split(":")[0].removeprefix("./secrets/")
        for service in SERVICES.values()
        for volume in service["volumes"]
        if volume.startswith("./secrets/")
    }
    assert mounted <= {path.name for path in tmp_path.iterdir()}
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for path in before:
        assert path.stat().st_mode & 0o007 == 0, path
    make_secrets(tmp_path)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


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


class Production:
    """The file's services as processes: the same commands, environments, secrets, roles and rights.

    Hosts become ports of this machine, at which TLS is terminated with the file's certificates.
    """

    def __init__(self, folder: Path, stops: ExitStack) -> None:
        self.secrets, self._stops = folder / "secrets", stops
        self.secrets.mkdir()
        make_secrets(self.secrets)
        self._data = folder
        self.processes: dict[str, Process] = {}
        self.relay = "polling"
        self.hosts: dict[str, str] = {}
        self._sockets: dict[str, str] = {}
        self.api_ports = dict(zip(SHIPPED, free_ports(len(SHIPPED)), strict=True))
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
        if name.endswith("-api"):
            found[f"SHOP_{owner.upper()}__PORT"] = str(self.api_ports[owner])
        return found

    def run(self, name: str, *words: str, **more: str) -> None:
        """Until it ends; with another command, if words are given, as `docker compose run` does."""
        done = subprocess.run(
            shop_command(*words) if words else self._command(name),
            env={**self.environment(name), **{k: v for k, v in more.items() if v}},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"

    def start_all(self) -> None:
        """The APIs and workers, and wait until the APIs are ready."""
        if self.processes:
            return
        for name in SHIPPED:
            self.start(f"{name}-api")
            self.start(f"{name}-worker")
        for name in SHIPPED:
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
            self.start(f"{name}-worker")
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

    def start(self, name: str) -> Process:
        process = Process(
            name, self._command(name), log=self._data / f"{name}.log", env=self.environment(name)
        )
        process.start()
        self._stops.callback(process.stop, 10)
        self.processes[name] = process
        return process

    def _connect_script(self) -> str:
        """The file's, on a copy of `deploy/connect` that has the places of this machine in it."""
        here = self._data / "connect"
        here.mkdir()
        (rest,) = free_ports(1)
        for file in (DEPLOY / "connect").glob("*.properties"):
            text = file.read_text().replace("/run/secrets", str(self.secrets / "connect"))
            text = text.replace("${env:CONNECT_HOST}:8083", f"${{env:CONNECT_HOST}}:{rest}")
            if file.stem in SHIPPED:
                port = self.hosts[f"{file.stem}-db"].rpartition(":")[2]
                text = text.replace("database.port=5432", f"database.port={port}")
                text = text.replace(":5432/", f":{port}/")
                # As in `_here`.
                text = text.replace(
                    "sslmode=verify-full&", "sslmode=verify-full&sslNegotiation=direct&"
                )
                text += "driver.sslNegotiation=direct\n"
            (here / file.name).write_text(text)
        [script] = SERVICES["connect"]["command"]
        jars = "/etc/connect/target/*:/etc/connect/target/jars/*"
        assert jars in script
        script = script.replace(jars, f"{fetched()}/*").replace("/tmp/", f"{here}/")
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
        where = self._sockets[f"{service}-db"].replace("dbname=postgres", f"dbname={service}")
        with closing(psycopg.connect(where, autocommit=True)) as admin:
            return admin.execute(sql.encode()).fetchone()

    def logged_in(self, name: str) -> set[str]:
        """The roles that have a connection to this database server, but for its administrator."""
        with closing(psycopg.connect(self._sockets[name], autocommit=True)) as admin:
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
        for host, address in self.hosts.items():
            text = re.sub(rf"(?<![\w-]){re.escape(host)}(?=$|[/:?])(:\d+)?", address, text)
        # What stands before the server here speaks TLS from the first byte on.
        return text.replace("sslmode=verify-full", "sslmode=verify-full&sslnegotiation=direct")

    def _start_postgres(self, name: str) -> None:
        port, plain = free_ports(2)
        words = [word.removeprefix("-c") for word in SERVICES[name]["command"][1:]]
        settings = dict(word.split("=") for word in words)
        settings = {
            k: v for k, v in settings.items() if not k.startswith("ssl") and k != "hba_file"
        }
        data = Path(self._stops.enter_context(TemporaryDirectory(prefix="eventshop-test-")))
        data.chmod(0o711)
        server = LocalPostgres(
            data / name,
            settings=settings | {"listen_addresses": "127.0.0.1", "port": str(plain)},
        )
        server.start()
        self._stops.callback(server.stop)
        server.wait_ready()
        password = (self.secrets / name / "administrator_password").read_text().strip()
        where = f"host={server.socket_dir} port={plain} user=postgres dbname=postgres"
        self._sockets[name] = where
        with closing(psycopg.connect(where, autocommit=True)) as admin:
            admin.execute(psycopg.sql.SQL("ALTER ROLE postgres PASSWORD {}").format(password))
            access = (DEPLOY / "postgres/pg_hba.conf").read_text()
            access = access.replace("hostssl", "host").replace("peer", "trust")
            (server.data_dir / "pg_hba.conf").write_text(access)
            admin.execute("SELECT pg_reload_conf()")
        folder = self.secrets / name
        terminator = TlsTerminator(folder / "server.crt", folder / "server.key", port, plain)
        self._stops.callback(terminator.close)
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


@pytest.fixture(scope="module")
def production(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Production]:
    with ExitStack() as stops:
        yield Production(tmp_path_factory.mktemp("production"), stops)


@pytest.mark.kafka
@pytest.mark.heavy
@pytest.mark.timeout(600)
def test_every_process_starts_with_its_own_secrets_roles_and_rights(production: Production) -> None:
    production.start_all()
    for name in SHIPPED:
        with production.to(name) as client:
            assert client.get("/docs").status_code == 404

    def works(name: str) -> bool:
        lines = production.processes[f"{name}-worker"].log.path.read_text()
        return "relay.leading" in lines

    for name in SHIPPED:
        until(lambda name=name: works(name), f"the worker of {name} relays", 60)
    for process in production.processes.values():
        assert process.returncode is None, process.ended()
        said = process.log.path.read_text()
        assert "uthorization" not in said and "denied" not in said, said


@pytest.mark.kafka
@pytest.mark.heavy
@pytest.mark.timeout(600)
def test_the_six_steps_in_production_with_a_token(production: Production) -> None:
    """Each API logs in to its database as its own role, as `users_api`, and nobody comes in without a token."""
    production.start_all()
    production.run("users-api", "keys", "new", "--if-none")
    with production.to("users") as users, production.to("orders") as orders:
        person = {"email": "setiadi@example.com", "name": "Setiadi", "password": PASSWORD}
        user = users.post("/users", json=person)
        assert user.status_code == 201, user.text
        session = users.post(
            "/sessions", json={name: person[name] for name in ("email", "password")}
        )
        assert session.status_code == 201, session.text
        token = session.json()["access_token"]
        auth = {"Authorization": f"Bearer {token}"}
        coffee = {"product": "coffee", "quantity": 100, "total_price": 50}
        me = f"/users/{user.json()['id']}"
        assert users.get(me).status_code == orders.post("/orders", json=coffee).status_code == 401
        # A process reads the keys once a second. Until then it knows none, because this key is the first.
        until(
            lambda: users.get(me, headers=auth).is_success, "the user service takes the token", 30
        )
        assert users.get(me, headers=auth).json()["email"] == person["email"]

        def place() -> httpx.Response:
            return orders.post("/orders", json=coffee, headers=auth)

        # Until the key has come to the order service, it knows no token.
        until(lambda: place().status_code == 201, "the order service takes the token", 90)
        order = place()
        assert order.status_code == 201, order.text
        assert order.json()["customer"] == {"name": "Setiadi", "email": person["email"]}
        placed = orders.get(f"/orders/{order.json()['id']}", headers=auth)
        assert (placed.status_code, placed.text) == (200, order.text)
        again = users.post("/users", json={**person, "email": "SETIADI@example.com"})
        assert again.status_code == 409
        form = {"grant_type": "refresh_token", "refresh_token": session.json()["refresh_token"]}
        assert users.post("/token", data=form).status_code == 200
        assert users.delete(f"{me}/sessions", headers=auth).status_code == 204
        until(lambda: place().status_code == 401, "a token of before is refused by orders", 90)
    for role in ("users_api", "users_worker"):
        assert role in production.logged_in("users-db")


@pytest.mark.kafka
@pytest.mark.heavy
def test_a_service_writes_to_its_own_topic_and_to_no_other(production: Production) -> None:
    for user in SHIPPED:
        for topic in SHIPPED:
            assert written(production.client(user), topic) is (user == topic), (user, topic)
    assert not written(production.client("migrate"), "users")


@pytest.mark.kafka
@pytest.mark.heavy
def test_nobody_joins_the_group_of_another_service_or_reads_without_a_password(
    production: Production,
) -> None:
    with pytest.raises(KafkaException) as told:
        admin = AdminClient(production.client("orders"))
        admin.describe_consumer_groups(["users"], request_timeout=30)["users"].result()
    assert told.value.args[0].code() == KafkaError.GROUP_AUTHORIZATION_FAILED
    wrong = {**production.client("orders"), "sasl.password": "guess"}
    with closing(Consumer({**wrong, "group.id": "orders"})) as consumer:
        with pytest.raises(KafkaException):
            consumer.list_topics(timeout=3)
    plain: Mapping[str, Any] = {
        "bootstrap.servers": production.kafka,
        "group.id": "x",
        "log_level": 0,
    }
    with closing(Consumer({**plain})) as consumer, pytest.raises(KafkaException):
        consumer.list_topics(timeout=3)


# The last one: from here on, Debezium relays.
@pytest.mark.kafka
@pytest.mark.heavy
@pytest.mark.timeout(400)
def test_debezium_sends_with_its_own_secrets_roles_and_rights(production: Production) -> None:
    need_debezium()
    production.start_all()
    connect = production.relay_by_debezium()

    def reads() -> bool:
        found = "SELECT active FROM pg_replication_slots WHERE slot_name = '{0}_outbox'"
        assert connect.ended() is None, connect.last_words()
        return all(production.row(name, found.format(name)) == (True,) for name in SHIPPED)

    until(reads, "Debezium reads the slots", 120)
    assert "users_cdc" in production.logged_in("users-db")
    with production.to("users") as users:
        person = {"email": "captured@example.com", "name": "Captured", "password": PASSWORD}
        assert users.post("/users", json=person).status_code == 201
    sent = "SELECT relay.position = head.position FROM relay, outbox_head AS head"
    until(lambda: production.row("users", sent) == (True,), "the event is in the log", 60)
    for name in SHIPPED:
        said = production.processes[f"{name}-worker"].log.tail()
        assert any("captured.following" in line for line in said), said
        assert not any("relay.leading" in line for line in said), said


def written(client: Mapping[str, Any], topic: str) -> bool:
    errors: list[KafkaError | None] = []
    producer = Producer({**client, "message.timeout.ms": 15_000})
    producer.produce(topic, b"forged", on_delivery=lambda error, _: errors.append(error))
    producer.flush(20)
    (error,) = errors
    assert error is None or error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED, error
    return error is None
