"""Two Kafka Connect processes that share the connectors, with the files of `deploy/connect`, on a Kafka with TLS, passwords
and the rights that `shop roles kafka` gives.
"""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.request import urlopen

import pytest

from devstack.connect import FOLDER, Captured, connector, fetched, read_properties
from devstack.java import properties, utf_8
from devstack.kafka import QUICK_START, require_java
from devstack.process import Process
from eventspine.slots import CONNECT_GROUP, CONNECT_TOPICS
from tests.support.capture import SERVICES, CaptureStage, need_debezium
from tests.support.kafka import need_kafka
from tests.support.secure_kafka import PASSWORD, Secure
from tests.support.shop import free_ports
from tests.support.waiting import until

pytestmark = [pytest.mark.kafka, pytest.mark.heavy, pytest.mark.timeout(400)]


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[Secure]:
    need_kafka()
    need_debezium()
    for program in ("curl", "openssl"):
        if shutil.which(program) is None:
            pytest.skip(f"left out, since there is no `{program}`")
    with ExitStack() as stops:
        yield Secure(tmp_path, stops)


@pytest.fixture
def stage(secure: Secure, tmp_path: Path) -> Iterator[CaptureStage]:
    with CaptureStage(secure.kafka, tmp_path, {}) as stage:
        stage.begin()
        stage.relay_by("cdc")
        yield stage


class Distributed(Process):
    """One of them. Only its port is not that of the file, since two can't have the same one here, and the folder of its
    secrets.
    """

    def __init__(self, directory: Path, secure: Secure, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        secrets = directory / "secrets"
        secrets.mkdir(exist_ok=True)
        (secrets / "kafka_password").write_text(PASSWORD)
        shutil.copy(secure.certificate, secrets / "ca.crt")
        settings = {"listeners": self.url}
        for name in ("distributed", "secured"):
            of_file = read_properties(FOLDER / f"{name}.properties")
            settings = {
                key: value.replace("/run/secrets", str(secrets)) for key, value in of_file.items()
            } | settings
        file = directory / f"worker-{port}.properties"
        file.write_text(properties(settings))
        where = {
            "KAFKA_BOOTSTRAP_SERVERS": secure.servers,
            "CONNECT_HOST": "127.0.0.1",
            "CONNECT_REPLICATION_FACTOR": "1",
        }
        command = [
            *(require_java(), "-Xmx512m", *QUICK_START),
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            *("-cp", f"{fetched()}/*", "org.apache.kafka.connect.cli.ConnectDistributed"),
            str(file),
        ]
        log = directory / f"connect-{port}.log"
        super().__init__("connect", command, log=log, env=utf_8() | where, answers=self._answer)

    def _answer(self) -> bool:
        """Only with the group's configuration read it answers this one."""
        try:
            with urlopen(f"{self.url}/connectors", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


def register(worker: Distributed, file: Path) -> None:
    done = subprocess.run(
        ["sh", FOLDER / "register.sh", worker.url, file],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def order(number: int) -> dict[str, object]:
    data = {"id": number, "version": 1}
    return {"t": "orders", "k": str(number), "y": "order.placed", "s": 1, "v": 1, "d": data, "h": None}  # fmt: skip


def all_is_relayed(stage: CaptureStage) -> bool:
    behind = "SELECT FROM relay, outbox_head AS head WHERE relay.position < head.position"
    return not stage.rows("orders", behind)


def positions(stage: CaptureStage) -> set[int]:
    found = stage.records("orders").values()
    return {int(dict(record.headers)["ce_id"]) for records in found for record in records}


def test_the_rights_are_those_of_the_group_and_the_topics_that_the_file_names() -> None:
    named = read_properties(FOLDER / "distributed.properties")
    assert named["group.id"] == CONNECT_GROUP
    assert {named[f"{what}.storage.topic"] for what in ("config", "offset", "status")} == set(
        CONNECT_TOPICS
    )


def test_one_takes_over_from_the_other_and_begin_repairs_a_slot(
    stage: CaptureStage, secure: Secure, tmp_path: Path
) -> None:
    secure.set_password(PASSWORD, "connect")
    done = stage.run("roles", "kafka", "--apply")
    assert done.returncode == 0, done.stderr
    with ExitStack() as stops:
        workers = [Distributed(tmp_path, secure, port) for port in free_ports(2)]
        for worker in workers:
            worker.start()
            stops.callback(worker.stop, 10)
        for worker in workers:
            until(worker.ready, "it answers", 120)
        stage.settings["SHOP_CONNECT_URL"] = workers[0].url
        for service in SERVICES:
            host, port = str(stage.postgres.socket_dir), stage.postgres.port
            file = tmp_path / f"{service}.properties"
            file.write_text(properties(connector(Captured(service, host, port, f"{service}_cdc"))))
            register(workers[0], file)
        until(lambda: well(stage), "both connectors run", 90)
        # A second time it changes nothing.
        register(workers[1], file)
        stage.publish("orders", [order(number) for number in range(1, 101)])
        until(lambda: all_is_relayed(stage), "Debezium sends", 60)

        [killed] = [one for one in workers if one.url.endswith(owner(workers[0], "orders_outbox"))]
        [other] = [one for one in workers if one is not killed]
        assert killed.pid
        os.kill(killed.pid, signal.SIGKILL)
        stage.settings["SHOP_CONNECT_URL"] = other.url
        stage.publish("orders", [order(number) for number in range(101, 201)])
        until(lambda: all_is_relayed(stage), "the other one sends", 90)
        assert positions(stage) == set(range(1, 201))
        until(lambda: well(stage), "all is well again", 60)

        stage.run("cdc", "end", "orders")
        assert stage.rows("orders", "SELECT FROM pg_replication_slots WHERE slot_name = 'orders_outbox'") == []  # fmt: skip
        stage.publish("orders", [order(number) for number in range(201, 301)])
        stage.begin()
        until(lambda: well(stage), "it runs again", 60)
        stage.publish("orders", [order(number) for number in range(301, 401)])
        until(lambda: all_is_relayed(stage), "Debezium sends again", 60)
        assert positions(stage) == set(range(1, 401))


def well(stage: CaptureStage) -> bool:
    return stage.run("cdc", "status").returncode == 0


def owner(worker: Distributed, name: str) -> str:
    """The port of the process that runs the connector's task."""
    with urlopen(f"{worker.url}/connectors/{name}/status", timeout=10) as answer:
        [task] = json.load(answer)["tasks"]
    return str(task["worker_id"].rpartition(":")[2])
