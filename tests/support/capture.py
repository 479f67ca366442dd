"""Change data capture as a test meets it: a PostgreSQL server, a broker, Debezium, and the shop's databases."""

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import httpx
import psycopg
import pytest
from confluent_kafka import Consumer, TopicPartition
from psycopg.rows import TupleRow
from psycopg.types.json import Jsonb

from devstack.connect import Captured, Connect, fetched
from devstack.kafka import QUICK_START, KafkaNotPossible, LocalKafka
from devstack.postgres import LocalPostgres
from devstack.supervisor import wait_ready
from shop.platform.event_log import open_event_log
from shop.platform.roles import creation, database_rights
from shop.platform.settings import Settings
from tests.storm import launch
from tests.support.checker import Sources
from tests.support.shop import Running, answers, free_ports, run_shop
from tests.support.waiting import until

SERVICES = ("users", "orders")


class Raw(NamedTuple):
    """A record as it is in Kafka."""

    key: bytes | None
    value: bytes | None
    headers: list[Any]


class CaptureStage:
    """`kafka` is a broker on which no shop has run, or one whose topics are gone. Workers relay by polling at first."""

    def __init__(
        self, kafka: LocalKafka, directory: Path, connector: Mapping[str, str], **postgres: str
    ) -> None:
        self.kafka = kafka
        self.directory = directory
        settings = {"fsync": "off", "shared_buffers": "64MB", **postgres}
        self.postgres = LocalPostgres(directory / "postgres", settings=settings)
        self._connector = connector
        self._held = ExitStack()
        self._workers: list[Running] = []

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._held.close()
            raise
        return self

    def _start(self) -> None:
        self._held.enter_context(self.postgres)
        self.postgres.ensure_databases(SERVICES)
        with psycopg.connect(self.postgres.dsn("postgres"), autocommit=True) as connection:
            for service in SERVICES:
                for statement in (
                    *creation(service, {}, cdc=True),
                    *database_rights(service, cdc=True),
                ):
                    connection.execute(statement.encode())
        host = str(self.postgres.socket_dir)
        self.connect = Connect(
            self.directory / "connect",
            self.kafka.bootstrap_servers,
            [Captured(each, host, self.postgres.port, f"{each}_cdc") for each in SERVICES],
            java_options=QUICK_START,
            settings=self._connector,
        )
        self._held.callback(self.connect.stop, 10)
        self._held.callback(self._stop_workers)
        self.settings: dict[str, Any] = {
            "SHOP_EVENT_LOG": "kafka",
            "SHOP_KAFKA__BOOTSTRAP_SERVERS": self.kafka.bootstrap_servers,
            "SHOP_DATA_DIR": self.directory / "none",
            **{f"SHOP_{each.upper()}__DATABASE_URL": self.postgres.dsn(each) for each in SERVICES},
            **{
                f"SHOP_{each.upper()}__CDC_DATABASE_URL": self.postgres.dsn(each, f"{each}_cdc")
                for each in SERVICES
            },
        }
        done = self.run("migrate")
        assert done.returncode == 0, done.stderr
        for service in SERVICES:
            self.rows(service, f"SET ROLE {service}; {launch.LEDGER_SQL}")
        self.relay_by("polling")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._held.close()

    def run(self, *words: str, **settings: Any) -> subprocess.CompletedProcess[str]:
        return run_shop(*words, timeout=120, **{**self.settings, **settings})

    def begin(self) -> str:
        """What `shop cdc begin` says."""
        done = self.run("cdc", "begin")
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start_connect(self) -> None:
        self.connect.start()
        wait_ready(self.connect, 150)
        self.settings["SHOP_CONNECT_URL"] = self.connect.url

    def kill_connect(self) -> None:
        assert self.connect.pid
        os.kill(self.connect.pid, signal.SIGKILL)
        self.connect.wait()

    def relay_by(self, relay: str) -> None:
        """Restart the workers: polling, or cdc."""
        self._stop_workers()
        self.settings["SHOP_RELAY"] = relay
        own = {**self.settings, **launch.environment()}
        self._workers = [Running("worker", each, by=launch.command, **own) for each in SERVICES]
        for worker in self._workers:
            worker.output.until("worker.started")

    def _stop_workers(self) -> None:
        for worker in self._workers:
            worker.process.terminate()
        while self._workers:
            worker = self._workers.pop()
            worker.process.wait(60)
            assert worker.stop() == 0

    @contextmanager
    def apis(self) -> Iterator[Mapping[str, list[int]]]:
        """An API of each service, and their ports."""
        ports = dict(zip(SERVICES, free_ports(len(SERVICES)), strict=True))
        own = {f"SHOP_{each.upper()}__PORT": port for each, port in ports.items()}
        running = [Running("api", each, **{**self.settings, **own}) for each in SERVICES]
        try:
            for port in ports.values():
                with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
                    until(lambda client=client: answers(client), "the API answers", 60)
            yield {each: [port] for each, port in ports.items()}
        finally:
            for each in running:
                each.stop(signal.SIGTERM)

    def sources(self) -> Sources:
        servers = self.kafka.bootstrap_servers
        settings = Settings(event_log="kafka", kafka={"bootstrap_servers": servers})
        return Sources(
            {each: self.postgres.dsn(each) for each in SERVICES}, lambda: open_event_log(settings)
        )

    def rows(self, database: str, sql: str, *params: object) -> list[TupleRow]:
        dsn = self.postgres.dsn(database, "postgres")
        with psycopg.connect(dsn, autocommit=True) as connection:
            found = connection.execute(sql.encode(), params or None)
            return [] if found.description is None else found.fetchall()

    def publish(self, service: str, events: Sequence[Mapping[str, object]]) -> None:
        """Commit these as one transaction. Fields as `publish_events` wants them."""
        with psycopg.connect(self.postgres.dsn(service)) as connection:
            connection.execute("SELECT publish_events(%s, %s)", [len(events), Jsonb(list(events))])

    def publish_at(self, times: Sequence[str]) -> None:
        """One event of an order at each of these times, in one transaction."""
        with psycopg.connect(self.postgres.dsn("orders")) as connection:
            [(head,)] = connection.execute(
                "UPDATE outbox_head SET position = position + %s RETURNING position", [len(times)]
            )
            for position, time in enumerate(times, start=head - len(times) + 1):
                connection.execute(
                    "INSERT INTO outbox VALUES (%s, 'orders', %s, 'order.placed', 1, 1, %s, '{}', NULL)",
                    [position, str(position), time],
                )

    def records(self, topic: str) -> dict[int, list[Raw]]:
        return raw_records(self.kafka.bootstrap_servers, topic)


def raw_records(servers: str, topic: str) -> dict[int, list[Raw]]:
    """All records of a topic, by partition, as the bytes that they are."""
    consumer = Consumer(
        {"bootstrap.servers": servers, "group.id": "raw", "group.protocol": "classic"}
    )
    try:
        partitions = consumer.list_topics(topic, timeout=30).topics[topic].partitions
        ends = {
            each: consumer.get_watermark_offsets(TopicPartition(topic, each), timeout=30)[1]
            for each in partitions
        }
        found: dict[int, list[Raw]] = {each: [] for each in partitions}
        consumer.assign([TopicPartition(topic, each, 0) for each in partitions])
        while any(len(found[each]) < end for each, end in ends.items()):
            for message in consumer.consume(1000, 1.0):
                assert message.error() is None, message.error()
                raw = Raw(message.key(), message.value(), list(message.headers() or []))
                found[message.partition() or 0].append(raw)
        return {each: records[: ends[each]] for each, records in found.items()}
    finally:
        consumer.close()


def need_debezium() -> None:
    """Skip the test where Debezium can't be had."""
    try:
        fetched()
    except KafkaNotPossible as error:
        told = f"left out, since there is no Debezium to test against: {error}"
        if os.environ.get("CI") == "true":
            pytest.fail(told)
        pytest.skip(told)
