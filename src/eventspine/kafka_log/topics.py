"""Creates topics that keep all records, and checks the settings of existing ones."""

import threading
import time
from types import MappingProxyType

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import (
    AdminClient,
    ConfigResource,
    NewTopic,
    ResourceType,
    TopicMetadata,
)

from eventspine.kafka_log.appender import RULE
from eventspine.kafka_log.client import (
    ANSWER_WITHIN,
    LARGEST_MESSAGE,
    LOG,
    NO_SUCH_TOPIC,
    SLICE,
    Heard,
    Settings,
    code,
    quiet,
    unavailable,
)
from eventspine.log import LogUnavailable, TopicIdentity, TopicMismatch

_KEEP_EVERYTHING = MappingProxyType(
    {
        # "compact" would delete history.
        "cleanup.policy": "delete",
        "retention.ms": "-1",
        "retention.bytes": "-1",
        # If a lagging replica became the leader, confirmed events would be lost.
        "unclean.leader.election.enable": "false",
    }
)

_KEEP_AN_HOUR = MappingProxyType({"retention.ms": "3600000", "segment.ms": "3600000"})

_IDENTITY_WITHIN = 3.0
"""Seconds. Readers and relays ask from time to time, and have other work."""

_TIMESTAMPS = "message.timestamp.type"
_BROKERS_OWN = "LogAppendTime"
"""A broker rejects a record if the writer's clock is an hour ahead of the broker's. With this setting, the
broker replaces the writer's time with its own."""

_MANY = 3
"""With three replicas, one may be unavailable, and a confirmed event is still on two disks."""


class Topics:
    def __init__(self, config: Settings, *, partitions: int, replication_factor: int) -> None:
        self._config = config
        self._partitions = partitions
        self._replication_factor = replication_factor
        # The client is kept, because it is used repeatedly. Only one thread at a time uses it.
        self._asking = threading.Lock()
        self._heard = Heard()
        self._admin: AdminClient | None = None

    def identity(self, topic: str) -> TopicIdentity:
        """The identity: the cluster's id, and the id that Kafka gave the topic at its creation (KIP-516)."""
        with self._asking:
            try:
                self._admin = self._admin or AdminClient(quiet(self._config, self._heard))
                self._admin.poll(0)  # otherwise its events would pile up
                described = self._admin.describe_topics(
                    TopicCollection([topic]), request_timeout=_IDENTITY_WITHIN
                )[topic].result()
                cluster = self._admin.list_topics(topic, timeout=_IDENTITY_WITHIN).cluster_id
            except KafkaException as error:
                if code(error) in NO_SUCH_TOPIC:
                    raise LogUnavailable(
                        f"there is no topic {topic}; `shop migrate` creates it"
                    ) from error
                self._admin = None
                raise unavailable(f"identify topic {topic}", error, self._heard.last) from error
        return TopicIdentity(
            f"kafka {cluster} {described.topic_id}", len(described.partitions), RULE
        )

    def create(self, topic: str, partitions: int | None) -> None:
        """Create the topic if necessary, and wait until its partitions have leaders. Raises `TopicMismatch`."""
        heard = Heard()
        admin = AdminClient(quiet(self._config, heard))
        try:
            self._create(admin, topic, partitions or self._partitions)
            seen = _seen(admin, topic)
            settings = _settings(admin, topic)
            wrong = self._wrong(seen, partitions, settings)
        except KafkaException as error:
            admin.poll(0)  # errors are reported only when it is polled
            raise unavailable(f"create topic {topic}", error, heard.last) from error
        if wrong:
            raise TopicMismatch(f"topic {topic} could lose or reorder events: {'; '.join(wrong)}")
        if settings[_TIMESTAMPS] != _BROKERS_OWN:
            # Without it, a broker rejects events of a machine whose clock is an hour ahead.
            LOG.warning(
                "kafka.topic_misconfigured",
                topic=topic,
                setting=_TIMESTAMPS,
                found=settings[_TIMESTAMPS],
                expected=_BROKERS_OWN,
                mend_with="kafka-configs.sh --bootstrap-server … --alter --entity-type topics"
                f" --entity-name {topic} --add-config {_TIMESTAMPS}={_BROKERS_OWN}",
            )

    def create_passing(self, topic: str) -> None:
        """Create a topic with one partition, whose records are needed by nobody and are deleted after an hour."""
        heard = Heard()
        admin = AdminClient(quiet(self._config, heard))
        try:
            self._have(
                admin, NewTopic(topic, 1, self._replication_factor, config=dict(_KEEP_AN_HOUR))
            )
        except KafkaException as error:
            admin.poll(0)  # errors are reported only when it is polled
            raise unavailable(f"create topic {topic}", error, heard.last) from error

    def _create(self, admin: AdminClient, topic: str, partitions: int) -> None:
        settings = dict(_KEEP_EVERYTHING)
        settings["max.message.bytes"] = str(LARGEST_MESSAGE)
        settings[_TIMESTAMPS] = _BROKERS_OWN
        settings["min.insync.replicas"] = "2" if self._replication_factor >= _MANY else "1"
        self._have(admin, NewTopic(topic, partitions, self._replication_factor, config=settings))

    def _have(self, admin: AdminClient, new: NewTopic) -> None:
        try:
            admin.create_topics([new], request_timeout=ANSWER_WITHIN)[new.topic].result()
        except KafkaException as error:
            if code(error) != KafkaError.TOPIC_ALREADY_EXISTS:
                raise

    def _wrong(
        self, seen: TopicMetadata, partitions: int | None, settings: dict[str, str]
    ) -> list[str]:
        """A short description of each setting that is wrong."""
        wrong = []
        if partitions is not None and len(seen.partitions) != partitions:
            wrong.append(f"it has {len(seen.partitions)} partitions, not {partitions}")
        replicas = min(len(each.replicas) for each in seen.partitions.values())
        if replicas < self._replication_factor:
            wrong.append(f"its replication factor is {replicas}, not {self._replication_factor}")
        wrong += [
            f"its {name} is {settings[name]}, not {value}"
            for name, value in _KEEP_EVERYTHING.items()
            if settings[name] != value
        ]
        if int(settings["max.message.bytes"]) < LARGEST_MESSAGE:
            wrong.append(
                f"its max.message.bytes is {settings['max.message.bytes']}, less than {LARGEST_MESSAGE}"
            )
        if replicas >= _MANY and settings["min.insync.replicas"] == "1":
            wrong.append("its min.insync.replicas is 1, not 2")
        return wrong


def _seen(admin: AdminClient, topic: str) -> TopicMetadata:
    """The topic's metadata, as soon as all its partitions have leaders."""
    deadline = time.monotonic() + ANSWER_WITHIN
    while True:
        seen = admin.list_topics(topic, timeout=ANSWER_WITHIN).topics[topic]
        if seen.error is None and all(each.leader >= 0 for each in seen.partitions.values()):
            return seen
        if time.monotonic() > deadline:
            raise KafkaException(seen.error or KafkaError(KafkaError.LEADER_NOT_AVAILABLE))
        time.sleep(SLICE)


def _settings(admin: AdminClient, topic: str) -> dict[str, str]:
    """The topic's settings. A broker may not know a topic yet that another has just created."""
    deadline = time.monotonic() + ANSWER_WITHIN
    resource = ConfigResource(ResourceType.TOPIC, topic)
    while True:
        described = admin.describe_configs([resource], request_timeout=ANSWER_WITHIN)
        try:
            return {name: entry.value for name, entry in described[resource].result().items()}
        except KafkaException as error:
            if code(error) not in NO_SUCH_TOPIC or time.monotonic() > deadline:
                raise
        time.sleep(SLICE)
