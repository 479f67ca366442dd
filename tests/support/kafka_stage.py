"""The shop's parts on a Kafka broker, to be killed, frozen and added while clients buy."""

import asyncio
import json
import os
import random
import signal
import subprocess
import threading
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
from confluent_kafka.admin import AdminClient
from psycopg.rows import TupleRow

from devstack.kafka import LocalKafka
from eventspine.log import EventLog
from shop.platform.event_log import open_event_log
from shop.platform.settings import Settings
from tests.storm import launch
from tests.support.checker import Sources, check, until_quiet
from tests.support.load import Load, Sent
from tests.support.shop import Running, answers, free_ports, run_shop
from tests.support.waiting import until

SEED = int(os.environ.get("EVENTSHOP_SEED") or random.randrange(1_000_000))
SHUFFLE_SECONDS = float(os.environ.get("EVENTSHOP_SHUFFLE_SECONDS", "8"))


PARTITIONS = 12


WORKERS = 3


AWAY_FOR = 1.0  # seconds that a killed broker stays down, before its restart, which takes longer


ORDERS_A_SECOND = float(os.environ.get("EVENTSHOP_ORDERS_A_SECOND", "2000"))
"""Asked for; what the machine made of it is printed."""


LONGEST_FREEZE = 9.0 if SHUFFLE_SECONDS >= 60 else 3.0
"""Seconds. After six a group gives a member's partitions to the others: who thaws then, with records
in its hands, is stopped by the compare-and-set alone. It takes a minute for that to happen."""


WATCH_CURSORS = """
CREATE TABLE moved_back (was cursors, became cursors);
CREATE FUNCTION note_moved_back() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO moved_back VALUES (OLD, NEW);
    RETURN NULL;
END $$;
CREATE TRIGGER watch AFTER UPDATE ON cursors FOR EACH ROW
WHEN (NEW.next_offset < OLD.next_offset OR NEW.last_position < OLD.last_position)
EXECUTE FUNCTION note_moved_back();
"""
"""Handlers leave out a version they have, so tables alone do not show what was applied twice: a
cursor that moves back does. So does the storm's ledger, a row for each event applied."""


APPLIED_TWICE = """
SELECT topic, position, count(*) FROM storm_ledger GROUP BY topic, position HAVING count(*) > 1
"""


OUT_OF_ORDER = """
SELECT * FROM (
    SELECT *, lag(version) OVER (PARTITION BY topic, key ORDER BY seq) AS before FROM storm_ledger
) AS each WHERE version <> coalesce(before, 0) + 1
"""


class Stage:
    """The shop's parts, on a broker, and all that clients ever sent to them."""

    def __init__(self, kafka: LocalKafka, databases: Mapping[str, str], directory: Path) -> None:
        self.kafka = kafka
        self.users_port, self.orders_port = free_ports(2)
        key = directory / "key"
        key.touch(0o600)
        key.write_text(b64encode(os.urandom(32)).decode())
        self.settings: Mapping[str, Any] = {
            "SHOP_EVENT_LOG": "kafka",
            "SHOP_KAFKA__BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
            "SHOP_USERS__DATABASE_URL": databases["users"],
            "SHOP_ORDERS__DATABASE_URL": databases["orders"],
            "SHOP_USERS__PORT": self.users_port,
            "SHOP_ORDERS__PORT": self.orders_port,
            "SHOP_AUTH__KEY_ENCRYPTION_KEY_FILE": key,
            # Not the one of a shop that a person may be running here.
            "SHOP_DATA_DIR": directory / "none",
        }
        self.databases = databases
        self.sources = Sources(databases, self.open_log)
        self.users = httpx.Client(base_url=f"http://127.0.0.1:{self.users_port}", timeout=30)
        self.orders = httpx.Client(base_url=f"http://127.0.0.1:{self.orders_port}", timeout=30)
        self.sent: list[Sent] = []
        self.workers: list[Running] = []
        """The order service's."""
        self._rest: list[Running] = []
        self._ended: list[Running] = []
        self._loads = 0

    def start(self) -> None:
        migrated = run_shop("migrate", **self.settings)
        assert migrated.returncode == 0, migrated.stderr
        for database in self.databases.values():
            with psycopg.connect(database) as connection:
                connection.execute(WATCH_CURSORS)
                connection.execute(launch.LEDGER_SQL)
        self._rest += [Running("api", service, **self.settings) for service in ("users", "orders")]
        self._rest.append(self._worker("users"))
        self.have_workers()
        for client in (self.users, self.orders):
            until(lambda client=client: answers(client), "the API answers", 60)
        self._rest[-1].output.until("worker.started")

    def close(self) -> None:
        self.users.close()
        self.orders.close()
        # In order, so that whoever has the broker next finds no group waiting for the dead.
        everything = [*self.workers, *self._rest]
        for running in everything:
            running.process.send_signal(signal.SIGCONT)
            running.process.terminate()
        for running in everything:
            try:
                running.stop(signal.SIGTERM)
            except subprocess.TimeoutExpired:
                running.stop(signal.SIGKILL)

    # Workers

    def add_worker(self) -> Running:
        self.workers.append(self._worker("orders"))
        return self.workers[-1]

    def _worker(self, service: str) -> Running:
        settings = {**self.settings, **launch.environment()}
        return Running("worker", service, by=launch.command, **settings)

    def have_workers(self, count: int = WORKERS) -> None:
        """So many, and each of them at work."""
        while len(self.workers) > count:
            assert self.take_out(self.workers[-1]).stop(signal.SIGTERM) == 0
        while len(self.workers) < count:
            self.add_worker()
        for worker in self.workers:
            worker.output.until("worker.started")

    def take_out(self, worker: Running) -> Running:
        self.workers.remove(worker)
        self._ended.append(worker)
        return worker

    def shares(self) -> list[int]:
        """How many partitions each member of the order service's group holds."""
        admin = AdminClient({"bootstrap.servers": self.kafka.bootstrap_servers, "log_level": 4})
        group = admin.describe_consumer_groups(["orders"], request_timeout=30)["orders"].result()
        return sorted(len(member.assignment.topic_partitions) for member in group.members)

    def failures(self) -> list[str]:
        """Tracebacks that any worker left, dead ones included."""
        return [
            line
            for worker in (*self._ended, *self.workers, *self._rest)
            for line in worker.output.lines
            if "Traceback" in line
        ]

    # Clients

    @contextmanager
    def load(self, **options: Any) -> Iterator[Load]:
        """Clients that buy until the block ends."""
        self._loads += 1
        name = f"load{self._loads}"
        load = Load(
            {"users": [self.users_port], "orders": [self.orders_port]},
            name=name,
            seed=SEED,
            **options,
        )
        try:
            with load:
                yield load
        finally:
            self.sent += load.sent

    def some_history(self) -> None:
        """Users that were renamed and orders that were cancelled, on every partition."""
        if not self.sent:
            with self.load() as load:
                load.until(20, "rename_user")
                load.until(20, "cancel_order")
        self.quiet()

    # What came of it

    def open_log(self) -> EventLog:
        servers = self.kafka.bootstrap_servers
        return open_event_log(Settings(event_log="kafka", kafka={"bootstrap_servers": servers}))

    def rows(self, database: str, sql: str, *params: object) -> list[TupleRow]:
        with psycopg.connect(self.databases[database], autocommit=True) as connection:
            return connection.execute(sql.encode(), params or None).fetchall()

    def quiet(self) -> None:
        until_quiet(self.sources, 60)

    def verdict(self) -> None:
        """Every event is there, and applied once, in order; every partition is read to its end."""
        faults = check(self.sources, self.sent, quiet_within=90)
        assert not faults, "\n".join(faults)
        for service, topic in (("orders", "users"), ("users", "orders")):
            ends = self.ends(topic)
            assert len(ends) == PARTITIONS
            assert all(ends.values()), f"a partition that nothing was written to: {ends}"
            assert self.cursors(service, topic) == ends
            assert self.rows(service, "SELECT * FROM parked") == []
            for wrong in ("SELECT * FROM moved_back", APPLIED_TWICE, OUT_OF_ORDER):
                assert self.rows(service, wrong) == []
        audit = self.run("audit")
        assert audit.returncode == 0, audit.stdout + audit.stderr

    def ends(self, topic: str) -> dict[int, int]:
        async def ends() -> dict[int, int]:
            log = self.open_log()
            try:
                return await log.end_offsets(topic)
            finally:
                await log.close()

        return asyncio.run(ends())

    def cursors(self, service: str, topic: str) -> dict[int, int]:
        rows = self.rows(
            service, "SELECT partition, next_offset FROM cursors WHERE topic = %s", topic
        )
        return dict(rows)

    def run(self, *words: object) -> subprocess.CompletedProcess[str]:
        return run_shop(*words, timeout=120, **self.settings)


ROUND = ("kill", "freeze", "add", "remove", "freeze", "add")
"""What happens in each round, in an order by chance; after one there are as many as before it."""


class Shuffle:
    def __init__(self, stage: Stage, chance: random.Random) -> None:
        self._stage = stage
        self._chance = chance
        self._thawing: list[threading.Timer] = []

    def run(self, seconds: float) -> Counter[str]:
        """How often each thing was done: once at least, however long that takes."""
        deeds: Mapping[str, Callable[[], object]] = {
            "kill": self._kill, "freeze": self._freeze,
            "add": self._stage.add_worker, "remove": self._remove,
        }  # fmt: skip
        done: Counter[str] = Counter()
        deadline = time.monotonic() + seconds
        deck: list[str] = []
        try:
            while done.keys() != set(ROUND) or time.monotonic() < deadline:
                deck = deck or self._chance.sample(ROUND, len(ROUND))
                time.sleep(self._chance.uniform(0.2, 1.8))
                deed = deck.pop()
                deeds[deed]()
                done[deed] += 1
        finally:
            for thaw in self._thawing:
                thaw.join()
        return done

    def _any(self) -> Running:
        return self._chance.choice(self._stage.workers)

    def _kill(self) -> None:
        """Frozen or not, just born or long at work."""
        worker = self._stage.take_out(self._any())
        assert worker.stop(signal.SIGKILL) == -signal.SIGKILL

    def _remove(self) -> None:
        worker = self._stage.take_out(self._any())
        worker.output.until("worker.started")  # before that it has nothing to end in order
        assert worker.stop(signal.SIGTERM) == 0

    def _freeze(self) -> None:
        """Others go on, and other things happen, until it is thawed."""
        process = self._any().process
        process.send_signal(signal.SIGSTOP)
        thaw = threading.Timer(
            self._chance.uniform(1, LONGEST_FREEZE), lambda: process.send_signal(signal.SIGCONT)
        )
        thaw.start()
        self._thawing.append(thaw)


class Kcat:
    """The client of librdkafka's that Debian has, which knows nothing of ours."""

    def __init__(self, program: str, stage: Stage) -> None:
        self._words = [program, "-q", "-b", stage.kafka.bootstrap_servers]

    def read(self, topic: str) -> list[dict[str, Any]]:
        """All there is, as kcat's own JSON, but with its list of headers as a dictionary."""
        told = self._run("-C", "-t", topic, "-o", "beginning", "-e", "-J")
        records = [json.loads(line) for line in told.splitlines()]
        for record in records:
            words = record.get("headers", [])
            record["headers"] = dict(zip(words[::2], words[1::2], strict=True))
            assert 2 * len(record["headers"]) == len(words), f"a header twice: {words}"
        return records

    def write(
        self,
        topic: str,
        key: str | None,
        value: str | None,
        headers: Mapping[str, str],
        partition: int | None = None,
    ) -> None:
        """Into the partition that the key asks for, unless one is named. None: a tombstone."""
        words = ["-P", "-t", topic, "-X", "partitioner=murmur2_random", "-X", "acks=all"]
        words += [word for name, text in headers.items() for word in ("-H", f"{name}={text}")]
        if partition is not None:
            words += ["-p", str(partition)]
        if value is None:
            # An empty line would be no message; an empty value behind a key is one.
            self._run(*words, "-Z", "-K", "\t", given=f"{key or ''}\t\n")
        else:
            assert "\n" not in value
            self._run(*words, *(("-k", key) if key else ()), given=value)

    def _run(self, *words: str, given: str = "") -> str:
        done = subprocess.run(
            [*self._words, *words],
            input=given, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout
