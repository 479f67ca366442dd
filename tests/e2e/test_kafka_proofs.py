"""What Kafka can do to a shop in production: workers that come and go, a broker that dies, strangers.

The shop's parts run one by one, the order service with several workers, on topics of twelve
partitions. They live through all of it, and after each blow everything that was ever sent to them
is judged again: by the checker, and by `shop audit`.

`EVENTSHOP_SHUFFLE_SECONDS` is how long workers are shuffled; the full proof is 300. What happens
when is drawn from a seed, which is printed; `EVENTSHOP_SEED` has it again. Orders come to the
broker that is killed at `EVENTSHOP_ORDERS_A_SECOND`, or at what the machine can do, if that is less.
"""

import itertools
import json
import random
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from devstack.kafka import LocalKafka
from tests.support.databases import NewDatabase
from tests.support.kafka_stage import (
    AWAY_FOR,
    ORDERS_A_SECOND,
    SEED,
    SHUFFLE_SECONDS,
    Kcat,
    Shuffle,
    Stage,
)
from tests.support.load import Outcome
from tests.support.rush import Rush
from tests.support.shop import new_order, new_user
from tests.support.topics import forget_topics
from tests.support.waiting import until

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.kafka,
    pytest.mark.timeout(400 + 2 * SHUFFLE_SECONDS),
]


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
        kafka.wait_ready(150)
    forget_topics(kafka.bootstrap_servers)
    databases = {name: new_database(templates[name]) for name in ("users", "orders")}
    stage = Stage(kafka, databases, tmp_path_factory.mktemp("stage"))
    try:
        stage.start()
        yield stage
    finally:
        stage.close()


def test_workers_are_killed_frozen_added_and_removed_while_clients_buy(stage: Stage) -> None:
    print(f"EVENTSHOP_SEED={SEED}")
    stage.have_workers()
    until(lambda: stage.shares() == [4, 4, 4], "three workers share twelve partitions", 90)
    with stage.load() as load:
        load.until(20)
        done = Shuffle(stage, random.Random(SEED)).run(SHUFFLE_SECONDS)
    print(f"{len(load.sent)} requests, {dict(done)}, {len(stage.workers)} workers are left")
    stage.verdict()
    unknown = [str(sent) for sent in load.sent if sent.outcome is Outcome.UNKNOWN]
    assert unknown == [], "workers are none of a client's business"
    assert stage.failures() == []


# A foreign client


@pytest.fixture
def kcat(stage: Stage) -> Kcat:
    program = shutil.which("kcat")
    if program is None:
        pytest.skip(
            "left out, since there is no `kcat` on the PATH (Debian and Ubuntu: apt-get install"
            " kcat). It is optional: the other tests read the topics with the shop's own client"
        )
    return Kcat(program, stage)


def test_records_that_a_second_relay_repeats_are_applied_once(stage: Stage, kcat: Kcat) -> None:
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
        kafka.wait_ready(150)
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
    sign_in_and_out(stage)
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


def sign_in_and_out(stage: Stage) -> None:
    """Somebody with a new role, and a key for the tokens."""
    run = stage.run("keys", "new")
    assert run.returncode == 0, run.stderr
    person = {**new_user(), "password": "correct horse battery staple"}
    user = stage.users.post("/users", json=person).raise_for_status().json()
    login = {name: person[name] for name in ("email", "password")}
    session = stage.users.post("/sessions", json=login).raise_for_status().json()
    assert stage.users.delete(f"/sessions/{session['session_id']}").status_code == 204
    run = stage.run("users", "grant", user["id"], "support")
    assert run.returncode == 0, run.stderr


_TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"
EVENTS = (Path(__file__).parents[2] / "docs" / "events.md").read_text()


def documented_headers() -> set[str]:
    return set(re.findall(r"^\| `([a-z_-]+)` \| `[^`]*` \|", EVENTS, re.MULTILINE))


def documented_types() -> dict[str, tuple[str, set[str]]]:
    """By type, the topic and the fields of the data."""
    found: dict[str, tuple[str, set[str]]] = {}
    fields: set[str] = set()
    rows = re.findall(r"^\| `([a-z_]+\.[a-z]+)` \| `([a-z]+)` \| (.*) \|$", EVENTS, re.MULTILINE)
    for type_, topic, data in rows:
        if not data.startswith("the same"):
            listed, _, _ = re.sub(r"\(.*?\)", "", data).partition(". ")
            fields = set(re.findall(r"`([a-z_]+)`", listed))
        found[type_] = (topic, fields)
    return found


def test_a_record_that_is_no_event_stops_nothing_and_stays_in_sight(stage: Stage, kcat: Kcat) -> None:  # fmt: skip
    stage.have_workers()
    stage.some_history()
    created = stage.users.post("/users", json=new_user()).raise_for_status().json()
    key = str(created["id"])
    until(lambda: name_of(stage, key), "the order service knows the customer", 90)
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
        until(lambda: name_of(stage, key) == name, f"{name} arrives", 90)

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
    until(lambda: stage.rows("orders", "SELECT FROM parked"), "it is parked", 90)
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
