"""What is missing for a Kafka on this machine is said in a sentence, with how to get it."""

import os
from pathlib import Path

import pytest

from devstack import kafka
from devstack.kafka import KafkaNotPossible
from tests import kafka_fixture


@pytest.fixture
def nothing_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def _pretend(directory: Path, command: str, told: str) -> None:
    script = directory / command
    script.write_text(f"#!/bin/sh\necho '{told}' >&2\nexit 1\n")
    script.chmod(0o755)


def test_without_java_it_says_how_to_get_it(nothing_on_the_path: Path) -> None:
    with pytest.raises(KafkaNotPossible, match=r"no `java` on the PATH .*apt-get install openjdk"):
        kafka.require_java()


def test_a_java_that_is_too_old_is_named(nothing_on_the_path: Path) -> None:
    _pretend(nothing_on_the_path, "java", 'openjdk version "11.0.2" 2019-01-15')
    with pytest.raises(KafkaNotPossible, match=r"Java 17 or newer; .*/java is 11"):
        kafka.require_java()


def test_without_maven_it_says_how_to_get_it(nothing_on_the_path: Path) -> None:
    with pytest.raises(KafkaNotPossible, match=r"no `mvn` on the PATH .*apt-get install maven"):
        kafka.fetch(nothing_on_the_path / "jars")


def test_what_maven_could_not_fetch_leaves_nothing_behind(nothing_on_the_path: Path) -> None:
    _pretend(nothing_on_the_path, "mvn", "no route")
    before = set(nothing_on_the_path.iterdir())
    with pytest.raises(KafkaNotPossible, match=r"Maven could not fetch Kafka"):
        kafka.fetch(nothing_on_the_path / "jars")
    assert set(nothing_on_the_path.iterdir()) == before


@pytest.mark.parametrize("ci", [True, False])
def test_tests_that_need_kafka_are_left_out_aloud_and_in_ci_they_fail(
    nothing_on_the_path: Path, monkeypatch: pytest.MonkeyPatch, ci: bool
) -> None:
    monkeypatch.setitem(os.environ, "CI", "true" if ci else "")
    outcome = pytest.fail.Exception if ci else pytest.skip.Exception
    with pytest.raises(outcome, match=r"left out, since there is no Kafka .*apt-get install"):
        kafka_fixture.need_kafka()
