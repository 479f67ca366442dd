"""Topics of a real Kafka."""

import signal
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from devstack.kafka import LocalKafka
from eventspine.kafka_log import KafkaLog
from shop.platform import discovery
from tests.support.waiting import until


def forget_topics(servers: str) -> None:
    admin = AdminClient({"bootstrap.servers": servers})
    ours = {discovery.load(name).topic for name in discovery.names()}

    def there() -> set[str]:
        return ours & admin.list_topics(timeout=30).topics.keys()

    if topics := there():
        for deleted in admin.delete_topics(list(topics)).values():
            deleted.result(60)
        until(lambda: not there(), "the topics of the shop before are deleted")


def new_name() -> str:
    return f"topic-{uuid.uuid4().hex[:12]}"


def log_on(kafka: LocalKafka, **options: Any) -> KafkaLog:
    return KafkaLog({"bootstrap.servers": kafka.bootstrap_servers}, **options)


def make_topic(kafka: LocalKafka, name: str, *, partitions: int = 3, **settings: str) -> None:
    """As anybody may have made it. Kafka knows it when this returns."""
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    config = {key.replace("_", "."): value for key, value in settings.items()}
    new = NewTopic(name, partitions, 1, config=config)
    admin.create_topics([new])[name].result()

    def is_known() -> bool:
        seen = admin.list_topics(name, timeout=30).topics[name]
        return seen.error is None and all(each.leader >= 0 for each in seen.partitions.values())

    until(is_known, f"the broker knows topic {name}")


def cut(kafka: LocalKafka, topic: str, partition: int, *, before: int) -> None:
    """What a retention does: the records before an offset are gone."""
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    for done in admin.delete_records([TopicPartition(topic, partition, before)]).values():
        done.result()


def kill(kafka: LocalKafka) -> None:
    assert kafka.process
    kafka.process.kill()
    kafka.process.wait()


@contextmanager
def frozen(kafka: LocalKafka) -> Iterator[None]:
    assert kafka.process
    kafka.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        kafka.process.send_signal(signal.SIGCONT)
