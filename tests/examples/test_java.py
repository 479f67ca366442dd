"""The consumer in Java counts each event once, on a real Kafka, through repeats, foreign records and kills."""

import json
import random
import shutil
import subprocess
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from devstack.kafka import PROJECT, QUICK_START, LocalKafka, pinned_version
from eventspine.event import message
from eventspine.log import Message
from shop.contracts.orders import OrderCancelled, OrderEvent, OrderPlaced
from tests.support.shop_events import LONG_AGO
from tests.support.topics import forget_topics, log_on
from tests.support.waiting import eventually

FOLDER = PROJECT / "examples/java"
PROGRAM = FOLDER / "SalesByProduct.java"
JARS = PROJECT / ".tools" / f"kafka-{pinned_version()}"
"""The broker's own: among them is what the program needs."""

Sales = dict[str, int]


def history(orders: int) -> list[OrderEvent]:
    """Each order is placed; every fourth is cancelled, some time later."""
    dice = random.Random(7)
    events: list[OrderEvent] = []
    for id_ in range(1, orders + 1):
        fields: dict[str, Any] = {
            "id": id_, "user_id": 1, "product": dice.choice(["coffee", "tea", "Käse 🧀"]),
            "quantity": dice.randint(1, 9), "total_price": Decimal("1.50"), "placed_at": LONG_AGO,
        }  # fmt: skip
        events.append(OrderPlaced(version=1, status="placed", **fields))
        if id_ % 4 == 0:
            events.append(OrderCancelled(version=2, status="cancelled", **fields))
    return events


def sold(events: Sequence[OrderEvent]) -> Sales:
    counts: Counter[str] = Counter()
    for event in events:
        counts[event.product] += (
            event.quantity if isinstance(event, OrderPlaced) else -event.quantity
        )
    return dict(counts)


def wire(position: int, event: OrderEvent, *, version: str = "1", **fields: Any) -> Message:
    data = json.dumps({**json.loads(event.as_json()), **fields}).encode()
    return message(
        event.source, str(position), event.key, event.type, version, "2026-01-01T00:00:00.000000Z",
        data, None,
    )  # fmt: skip


class Program:
    """The compiled program, and its state."""

    def __init__(self, kafka: LocalKafka, folder: Path) -> None:
        self.state = folder / "sales.json"
        self._classes = folder / "classes"
        self._command = [
            "java", *QUICK_START, "-Dorg.slf4j.simpleLogger.defaultLogLevel=error",
            "-cp", f"{JARS}/*:{self._classes}", "SalesByProduct", kafka.bootstrap_servers, str(self.state),
        ]  # fmt: skip

    def compile(self) -> None:
        subprocess.run(
            ["javac", "-Xlint:all,-serial", "-Werror", "-proc:none", "-cp", f"{JARS}/*", "-d", self._classes, PROGRAM],
            check=True,
        )  # fmt: skip

    @contextmanager
    def running(self) -> Iterator["subprocess.Popen[str]"]:
        """Killed when the block ends."""
        process = subprocess.Popen(
            self._command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        with process:
            try:
                yield process
            finally:
                process.kill()

    def saved(self) -> dict[str, Any]:
        if not self.state.exists():
            return {"sold": {}, "places": {}}
        found: dict[str, Any] = json.loads(self.state.read_text())
        return found

    async def killed_once_it(
        self, condition: Callable[[dict[str, Any]], object], what: str
    ) -> None:
        with self.running() as process:
            await eventually(lambda: condition(self.saved()) or process.poll(), 120, what)
            assert process.poll() is None, process.communicate()[1]


@pytest.fixture
def program(kafka: LocalKafka, tmp_path: Path) -> Iterator[Program]:
    if shutil.which("javac") is None:
        pytest.skip("left out, since there is no javac; Debian and Ubuntu: openjdk-17-jdk-headless")
    forget_topics(kafka.bootstrap_servers)
    program = Program(kafka, tmp_path)
    program.compile()
    yield program
    forget_topics(kafka.bootstrap_servers)


@pytest.mark.kafka
@pytest.mark.heavy
@pytest.mark.timeout(600)
async def test_each_event_is_counted_once(kafka: LocalKafka, program: Program) -> None:
    events = history(2400)
    wired = [wire(n, event) for n, event in enumerate(events, start=1)]
    log = log_on(kafka)
    try:
        await log.create_topic("orders", 3)
        # After each crash of a relay, what it had not saved as relayed is there again.
        for first, last in [(0, 1200), (700, 1800), (1500, 2400)]:
            await log.append("orders", wired[first:last])
            before = program.saved()
            await program.killed_once_it(lambda now, before=before: now != before, "it goes on")
        await log.append("orders", wired[2300:])
        # Another writer's records move nothing, not even with a position far ahead.
        far: dict[str, str | bytes | None]
        far = {"ce_id": "9" * 18, "ce_source": "/elsewhere", "ce_type": "order.placed"}
        stranger = Producer({"bootstrap.servers": kafka.bootstrap_servers})
        for partition in range(3):
            stranger.produce(
                "orders", None, "1", partition=partition, headers={"ce_source": "/orders"}
            )
            stranger.produce("orders", b"{", "1", partition=partition)
            stranger.produce("orders", wired[0].value, "1", partition=partition, headers=far)
        stranger.flush()
        last = len(events)
        unknown = wire(last + 1, events[0])
        unknown = unknown._replace(headers={**unknown.headers, "ce_type": "order.praised"})
        more = OrderPlaced.model_validate({**events[0].model_dump(), "id": 9999})
        newer_field = wire(last + 2, more, added_later={"x": [1]})
        await log.append("orders", [unknown, newer_field])
        expected = sold([*events, more])
        await program.killed_once_it(lambda now: now["sold"] == expected, f"it counts {expected}")

        # Once more from the beginning, as after the loss of the offsets: every event is a repeat.
        state = program.saved()
        for place in state["places"].values():
            place["nextOffset"] = 0
        program.state.write_text(json.dumps(state))
        ends = await log.end_offsets("orders")

        def at_the_end(now: dict[str, Any]) -> bool:
            places = {int(n): place["nextOffset"] for n, place in now["places"].items()}
            return places == ends

        await program.killed_once_it(at_the_end, "it reads to the end")
        assert program.saved()["sold"] == expected

        # A version that it does not know may mean something else.
        await log.append("orders", [wire(last + 3, more, version="2")])
        with program.running() as process:
            _, complaint = process.communicate(timeout=90)
        assert process.returncode == 1
        assert "has order.placed in schema version 2, and this program knows version 1" in complaint
        assert program.saved()["sold"] == expected
    finally:
        await log.close()


def test_the_program_is_short_and_is_tested_with_the_versions_that_it_names() -> None:
    assert len(PROGRAM.read_text().splitlines()) <= 200
    for needed in ET.parse(FOLDER / "pom.xml").iterfind(".//dependency"):
        jar = f"{needed.findtext('artifactId')}-{needed.findtext('version')}.jar"
        if needed.findtext("artifactId") == "kafka-clients":
            assert jar == f"kafka-clients-{pinned_version()}.jar"
        if JARS.is_dir():
            assert (JARS / jar).is_file(), f"the broker has no {jar}: change examples/java/pom.xml"
