"""A real Kafka broker for the tests that need one: started by the first of them, once a session.

Tests that kill or freeze theirs share a second one, `mortal_kafka`. With `start_kafka` a test has
one of its own.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from devstack import kafka as local_kafka
from devstack.kafka import QUICK_START, KafkaNotPossible, LocalKafka

StartKafka = Callable[..., LocalKafka]


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKafka]:
    with ExitStack() as stops:
        yield _start(stops, tmp_path_factory.mktemp("kafka"))


@pytest.fixture(scope="session")
def _mortal_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKafka]:
    with ExitStack() as stops:
        yield _start(stops, tmp_path_factory.mktemp("mortal-kafka"))


@pytest.fixture
def mortal_kafka(_mortal_kafka: LocalKafka) -> LocalKafka:
    """A broker to kill and freeze; whatever the test before did to it, it runs."""
    assert _mortal_kafka.process
    if _mortal_kafka.process.poll() is not None:
        _mortal_kafka.start()
        _mortal_kafka.wait_ready(150)
    return _mortal_kafka


@pytest.fixture
def start_kafka(tmp_path: Path) -> Iterator[StartKafka]:
    """`start_kafka(**settings)`: another broker, with these settings, for one test."""
    with ExitStack() as stops:
        yield lambda **settings: _start(stops, tmp_path / "kafka", **settings)


def _start(stops: ExitStack, data_dir: Path, **settings: str) -> LocalKafka:
    named = {name.replace("_", "."): value for name, value in settings.items()}
    return start_broker(stops, data_dir, named)


def start_broker(stops: ExitStack, data_dir: Path, settings: Mapping[str, str]) -> LocalKafka:
    """A broker that runs until `stops` are called; skips the test where there can be none."""
    need_kafka()
    broker = LocalKafka(data_dir, settings=settings, java_options=QUICK_START)
    broker.start()
    stops.callback(broker.stop)
    broker.wait_ready(150)
    return broker


def why_no_kafka() -> str | None:
    """Why no broker can be started here, if none can. Where everything must be there, it fails."""
    try:
        local_kafka.require_java()
        local_kafka.fetch(local_kafka.PROJECT / ".tools" / f"kafka-{local_kafka.pinned_version()}")
    except KafkaNotPossible as error:
        told = f"left out, since there is no Kafka to test against: {error}"
        if os.environ.get("CI") == "true":
            pytest.fail(told)
        return told
    return None


def need_kafka() -> None:
    if told := why_no_kafka():
        pytest.skip(told)
