"""What is missing for a Kafka on this machine is said in a sentence, with how to get it."""

import os
from contextlib import ExitStack
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, ConfigResource

from devstack import kafka
from devstack.kafka import KafkaNotPossible
from tests.support import kafka as kafka_fixture
from tests.support.up import ODD


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


def test_a_failed_fetch_by_maven_leaves_nothing_behind(nothing_on_the_path: Path) -> None:
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


@pytest.mark.heavy
@pytest.mark.kafka
def test_data_and_settings_of_any_characters_reach_kafka_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    monkeypatch.delenv("LANG", raising=False)
    with ExitStack() as stops:
        broker = kafka_fixture.start_broker(stops, tmp_path / "place" / ODD, {"broker.rack": ODD})
        assert (tmp_path / "place" / ODD / "data" / "meta.properties").exists()
        assert len(list((tmp_path / "place").iterdir())) == 1
        admin = AdminClient({"bootstrap.servers": broker.bootstrap_servers})
        (settings,) = admin.describe_configs(
            [ConfigResource(ConfigResource.Type.BROKER, "1")], request_timeout=60
        ).values()
        assert settings.result()["broker.rack"].value == ODD
        # And it is known again as its own.
        again = kafka_fixture.start_broker(stops, tmp_path / "place" / ODD, {})
        assert broker.process is not None and broker.process.wait(60) is not None
        assert again.process is not None and again.process.poll() is None


def test_data_in_a_place_that_java_cannot_name_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(KafkaNotPossible, match="whose name is no UTF-8: choose another directory"):
        kafka.LocalKafka(tmp_path / os.fsdecode(b"L\xe4den"))


def test_files_that_a_full_disk_left_empty_are_made_anew(tmp_path: Path) -> None:
    (tmp_path / "ports.json").touch()
    port = kafka.LocalKafka(tmp_path).bootstrap_servers
    assert kafka.LocalKafka(tmp_path).bootstrap_servers == port
