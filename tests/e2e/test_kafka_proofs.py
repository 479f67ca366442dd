"""What Kafka can do to a shop in production: workers that come and go, a broker that dies, strangers.

The shop's parts run one by one, the order service with several workers, on topics of twelve
partitions. They live through all of it, and after each blow everything that was ever sent to them
is judged again: by the checker, and by `shop audit`.

`EVENTSHOP_SHUFFLE_SECONDS` is how long workers are shuffled; the full proof is 300. What happens
when is drawn from a seed, which is printed; `EVENTSHOP_SEED` has it again. Orders come to the
broker that is killed at `EVENTSHOP_ORDERS_A_SECOND`, or at what the machine can do, if that is less.
"""

import asyncio
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from confluent_kafka.admin import AdminClient
from psycopg.rows import TupleRow

from devstack.kafka import LocalKafka
from eventspine.log import EventLog
from shop.platform.event_log import open_event_log
from shop.platform.settings import Settings
from tests.storm import launch
from tests.support.checker import Sources, check, until_quiet
from tests.support.databases import NewDatabase
from tests.support.load import Load, Outcome, Sent
from tests.support.rush import Rush
from tests.support.shop import Running, answers, free_ports, new_order, new_user, run_shop
from tests.support.topics import forget_topics
from tests.support.waiting import until

SHUFFLE_SECONDS = float(os.environ.get("EVENTSHOP_SHUFFLE_SECONDS", "8"))
SEED = int(os.environ.get("EVENTSHOP_SEED") or random.randrange(1_000_000))

PARTITIONS = 12
WORKERS = 3
AWAY_FOR = 1.0  # seconds that a killed broker stays down, before its restart, which takes longer
ORDERS_A_SECOND = float(os.environ.get("EVENTSHOP_ORDERS_A_SECOND", "2000"))
"""Asked for; what the machine made of it is printed."""

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180 + 2 * SHUFFLE_SECONDS)]


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
        self.settings: Mapping[str, Any] = {
            "SHOP_EVENT_LOG": "kafka",
            "SHOP_KAFKA__BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
            "SHOP_USERS__DATABASE_URL": databases["users"],
            "SHOP_ORDERS__DATABASE_URL": databases["orders"],
            "SHOP_USERS__PORT": self.users_port,
            "SHOP_ORDERS__PORT": self.orders_port,
            # Not the one of a shop that a person may be running here.
            "SHOP_DATA_DIR": directory / "none",
        }
        self.databases = databases
        self.sources = Sources(databases, self.open_log)
        self.users = httpx.Client(base_url=f"http://127.0.0.1:{self.users_port}", timeout=10)
        self.orders = httpx.Client(base_url=f"http://127.0.0.1:{self.orders_port}", timeout=10)
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
            until(lambda client=client: answers(client), "the API answers", 30)
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
        group = admin.describe_consumer_groups(["orders"], request_timeout=10)["orders"].result()
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
        faults = check(self.sources, self.sent, quiet_within=60)
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


@pytest.fixture(scope="module")
def stage(
    _mortal_kafka: LocalKafka,
    new_database: NewDatabase,
    templates: Mapping[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Stage]:
    """With empty databases and topics of its own; everything runs."""
    kafka = _mortal_kafka
    assert kafka.process
    if kafka.process.poll() is not None:
        kafka.start()
        kafka.wait_ready()
    forget_topics(kafka.bootstrap_servers)
    databases = {name: new_database(templates[name]) for name in ("users", "orders")}
    stage = Stage(kafka, databases, tmp_path_factory.mktemp("stage"))
    try:
        stage.start()
        yield stage
    finally:
        stage.close()


# Workers


def test_workers_are_killed_frozen_added_and_removed_while_clients_buy(stage: Stage) -> None:
    print(f"EVENTSHOP_SEED={SEED}")
    stage.have_workers()
    until(lambda: stage.shares() == [4, 4, 4], "three workers share twelve partitions", 30)
    with stage.load() as load:
        load.until(20)
        done = Shuffle(stage, random.Random(SEED)).run(SHUFFLE_SECONDS)
    print(f"{len(load.sent)} requests, {dict(done)}, {len(stage.workers)} workers are left")
    stage.verdict()
    unknown = [str(sent) for sent in load.sent if sent.outcome is Outcome.UNKNOWN]
    assert unknown == [], "workers are none of a client's business"
    assert stage.failures() == []


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


# A foreign client


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
            input=given, capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def kcat(stage: Stage) -> Kcat:
    program = shutil.which("kcat")
    if program is None:
        pytest.skip(
            "left out, since there is no `kcat` on the PATH (Debian and Ubuntu: apt-get install"
            " kcat). It is optional: the other tests read the topics with the shop's own client"
        )
    return Kcat(program, stage)


def test_what_a_second_relay_repeats_is_applied_once(stage: Stage, kcat: Kcat) -> None:
    stage.have_workers()
    stage.some_history()
    copies = {"orders": "SELECT * FROM customers ORDER BY id", "users": "SELECT * FROM orders ORDER BY id"}  # fmt: skip
    before = {service: stage.rows(service, sql) for service, sql in copies.items()}
    [(user,)] = stage.rows("orders", "SELECT id FROM customers WHERE version = 2 LIMIT 1")
    [(order,)] = stage.rows("users", "SELECT id FROM orders WHERE version = 2 LIMIT 1")
    for topic, id_ in (("users", user), ("orders", order)):
        known = [record for record in kcat.read(topic) if record["key"] == str(id_)]
        # A relay that was killed between append and its position has left repeats of its own.
        versions = [json.loads(record["payload"])["version"] for record in known]
        assert list(dict.fromkeys(versions)) == [1, 2]
        ends = stage.ends(topic)
        for record in known:
            kcat.write(topic, record["key"], record["payload"], record["headers"])
        # Anybody who hashes as Java does finds the key's partition.
        partition = known[0]["partition"]
        assert stage.ends(topic) == {**ends, partition: ends[partition] + len(known)}
        again = [record for record in kcat.read(topic) if record["key"] == str(id_)]
        assert [_without_place(record) for record in again] == [
            *map(_without_place, known),
            *map(_without_place, known),
        ]
    stage.verdict()
    for service, sql in copies.items():
        assert stage.rows(service, sql) == before[service]


def _without_place(record: Mapping[str, Any]) -> Mapping[str, Any]:
    return {name: record[name] for name in ("key", "headers", "payload", "partition")}


# The broker


def test_a_broker_that_is_killed_fails_no_order(stage: Stage) -> None:
    stage.have_workers()
    kafka = stage.kafka
    stage.some_history()
    customers = [id_ for (id_,) in stage.rows("orders", "SELECT id FROM customers")]
    assert kafka.process
    with Rush(stage.orders_port, customers, ORDERS_A_SECOND) as rush:
        time.sleep(2)
        killed_at = time.monotonic()
        kafka.process.kill()
        kafka.process.wait()
        time.sleep(AWAY_FOR)
        kafka.start()
        kafka.wait_ready()
        back_at = time.monotonic()
        time.sleep(1)
    stage.sent += rush.sent
    away = rush.rate(killed_at, back_at)
    print(
        f"{len(rush.sent)} orders of {len(rush.sent) / rush.took:.0f} a second; while the broker was"
        f" away, for {back_at - killed_at:.1f} s, {away:.0f} a second;"
        f" the slowest answer took {rush.slowest:.2f} s"
    )
    assert {sent.status for sent in rush.sent} == {201}, rush.refused()
    assert away > rush.rate(killed_at - 2, killed_at) / 10, "without it, orders go on"
    stage.verdict()


# Foreign records


FROM_THE_REQUEST = {
    "traceparent", "tracestate", "ce_authtype", "ce_authid", "ce_idempotencykeyhash"
}  # fmt: skip
"""Headers of events whose request had such a thing."""

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_a_foreign_client_reads_what_is_documented(stage: Stage, kcat: Kcat) -> None:
    traced = {"traceparent": TRACE}
    user = stage.users.post("/users", json=new_user(), headers=traced).json()
    stage.users.patch(f"/users/{user['id']}", json={"name": "Añb ☕"}).raise_for_status()

    def place() -> Any:
        return stage.orders.post("/orders", json=new_order(user["id"]), headers=traced)

    order = until(
        lambda: answer.json() if (answer := place()).is_success else None, "the customer", 30
    )
    assert order is not None
    stage.orders.post(f"/orders/{order['id']}/cancel").raise_for_status()
    assert stage.users.delete(f"/users/{user['id']}").status_code == 204
    stage.quiet()

    records = {topic: kcat.read(topic) for topic in ("users", "orders")}
    types, headers = documented_types(), documented_headers()
    seen = set()
    for record in itertools.chain.from_iterable(records.values()):
        type_ = record["headers"]["ce_type"]
        seen.add(type_)
        topic, fields = types[type_]
        data = json.loads(record["payload"])
        assert record["topic"] == topic
        assert headers - FROM_THE_REQUEST <= record["headers"].keys() <= headers
        assert record["headers"].items() >= {
            "ce_specversion": "1.0", "ce_source": f"/{topic}", "ce_subject": record["key"],
            "ce_dataversion": "1", "content-type": "application/json",
        }.items()  # fmt: skip
        assert re.fullmatch(r"[1-9][0-9]*", record["headers"]["ce_id"])
        assert re.fullmatch(_TIME, record["headers"]["ce_time"])
        assert data.keys() == fields
        assert record["key"] == str(data["id"])
        for field in ("created_at", "placed_at"):
            assert re.fullmatch(_TIME, data.get(field, "2026-11-23T16:09:10Z"))
        assert re.fullmatch(r"[0-9]+\.[0-9]{2}", data.get("total_price", "0.00"))
        assert data.get("status", "placed") == ("cancelled" if "cancelled" in type_ else "placed")
    assert seen == types.keys()

    for topic, id_ in (("users", user["id"]), ("orders", order["id"])):
        of_it = [record for record in records[topic] if record["key"] == str(id_)]
        assert len({record["partition"] for record in of_it}) == 1
        versions = [json.loads(record["payload"])["version"] for record in of_it]
        assert versions == list(range(1, len(versions) + 1))
        assert of_it[0]["headers"]["traceparent"] == TRACE
        assert "traceparent" not in of_it[-1]["headers"]
    renamed = next(
        json.loads(record["payload"])
        for record in records["users"]
        if record["key"] == str(user["id"]) and record["headers"]["ce_type"] == "user.updated"
    )
    assert renamed == {**user, "name": "Añb ☕", "version": 2}


_TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"
EVENTS = (Path(__file__).parents[2] / "docs" / "events.md").read_text()


def documented_headers() -> set[str]:
    return set(re.findall(r"^\| `([a-z_-]+)` \| `[^`]*` \|", EVENTS, re.MULTILINE))


def documented_types() -> dict[str, tuple[str, set[str]]]:
    """By type, the topic and the fields of the data."""
    found: dict[str, tuple[str, set[str]]] = {}
    fields: set[str] = set()
    rows = re.findall(r"^\| `([a-z]+\.[a-z]+)` \| `([a-z]+)` \| (.*) \|$", EVENTS, re.MULTILINE)
    for type_, topic, data in rows:
        if not data.startswith("the same"):
            fields = set(re.findall(r"`([a-z_]+)`", re.sub(r"\(.*?\)", "", data)))
        found[type_] = (topic, fields)
    return found


def test_what_is_no_event_stops_nothing_and_is_not_lost_from_sight(stage: Stage, kcat: Kcat) -> None:  # fmt: skip
    stage.have_workers()
    stage.some_history()
    created = stage.users.post("/users", json=new_user()).raise_for_status().json()
    key = str(created["id"])
    until(lambda: name_of(stage, key), "the order service knows the customer", 30)
    [event] = [record for record in kcat.read("users") if record["key"] == key]
    partition, headers, payload = event["partition"], event["headers"], event["payload"]
    strangers: Sequence[tuple[str | None, str | None, Mapping[str, str]]] = [
        (key, "{ this is no JSON", {}),
        (None, payload, {}),
        (key, None, {}),
        (key, None, headers),
        (key, payload, {**headers, "ce_source": "/elsewhere", "ce_id": "999999"}),
        (key, payload, {**headers, "ce_id": "first"}),
        (key, payload, {name: text for name, text in headers.items() if name != "ce_type"}),
    ]
    for stranger in strangers:
        kcat.write("users", *stranger, partition=partition)

    def rename(name: str) -> None:
        stage.users.patch(f"/users/{key}", json={"name": name}).raise_for_status()
        until(lambda: name_of(stage, key) == name, f"{name} arrives", 30)

    rename("Behind the strangers")
    stage.quiet()
    assert [(k, v and v.encode(), h) for k, v, h in strangers] == [
        (key or None, value, stored)
        for key, value, stored in stage.rows(
            "orders", 'SELECT key, value, headers FROM parked ORDER BY "offset"'
        )
    ]
    listed = stage.run("parked", "list", "orders")
    assert listed.returncode == 0
    assert listed.stdout.count("not an event: ") == len(strangers)
    assert f"{len(strangers)} parked, of 0 blocked key(s)" in listed.stdout
    audit = stage.run("audit", "orders")
    assert audit.returncode == 1, "what is parked is no good state"
    assert f"users/{partition}@" in audit.stdout + audit.stderr

    # They are forgotten on purpose only. The log keeps them, and is none the worse for it.
    discarded = stage.run("parked", "discard", "orders", "--cause", "not an event")
    assert (discarded.returncode, discarded.stderr) == (0, "")
    audit = stage.run("audit", "orders")
    assert audit.returncode == 0, audit.stdout + audit.stderr

    # One that has all of an event but its data, at a position that is still to come: it is parked
    # with its key, and no other key has to wait.
    [(head,)] = stage.rows("users", "SELECT position FROM outbox_head")
    broken = {**headers, "ce_id": str(head + 1), "ce_subject": "0"}
    kcat.write("users", "0", "{ this is no JSON", broken, partition=partition)
    until(lambda: stage.rows("orders", "SELECT FROM parked"), "it is parked", 30)
    others = {record["key"] for record in kcat.read("users") if record["partition"] != partition}
    known = stage.rows("orders", "SELECT id FROM customers WHERE name IS NOT NULL")
    elsewhere = next(id_ for (id_,) in known if str(id_) in others)
    stage.users.patch(f"/users/{elsewhere}", json={"name": "Elsewhere"}).raise_for_status()
    rename("Behind a broken one")
    stage.quiet()
    assert stage.rows("orders", "SELECT key, position, holds_key FROM parked") == [
        ("0", head + 1, True)
    ]
    assert "1 parked, of 1 blocked key(s)" in stage.run("parked", "list", "orders").stdout


def name_of(stage: Stage, customer: str) -> str | None:
    rows = stage.rows("orders", "SELECT name FROM customers WHERE id = %s", int(customer))
    return rows[0][0] if rows else None
