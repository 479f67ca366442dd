"""A real Kafka broker for the tests that need one: started by the first of them, once a session.

A test that stops or kills its broker starts one of its own, with `start_kafka`.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from shop.kit.local.kafka import KafkaNotPossible, LocalKafka

StartKafka = Callable[..., LocalKafka]


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKafka]:
    with ExitStack() as stops:
        yield _start(stops, tmp_path_factory.mktemp("kafka"))


@pytest.fixture
def start_kafka(tmp_path: Path) -> Iterator[StartKafka]:
    """`start_kafka(**settings)`: another broker, with these settings, for one test."""
    with ExitStack() as stops:
        yield lambda **settings: _start(stops, tmp_path / "kafka", **settings)


def _start(stops: ExitStack, data_dir: Path, **settings: str) -> LocalKafka:
    try:
        broker = LocalKafka(
            data_dir, settings={name.replace("_", "."): value for name, value in settings.items()}
        )
        broker.start()
        stops.callback(broker.stop)
        broker.wait_ready()
    except KafkaNotPossible as error:
        told = f"left out, since there is no Kafka to test against: {error}"
        # Where everything must be there, leaving tests out is a failure.
        if os.environ.get("CI") == "true":
            pytest.fail(told)
        pytest.skip(told)
    return broker
