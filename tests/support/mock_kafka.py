"""librdkafka's own mock broker, with one topic of one partition, which refuses what it is told to.

A single real broker does not refuse one request and take the next: that takes a leader that
changes, replicas that fall behind, or a limit that somebody lowers.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import files
from pathlib import Path

import pytest

TOPIC = "notes"
_PRODUCE = 0  # its number in Kafka's protocol
_ROUND_TRIP = 30  # ms: long enough for a second request to be on its way behind a first


class MockKafka:
    def __init__(self, library: ctypes.CDLL, cluster: ctypes.c_void_p) -> None:
        self._library = library
        self._cluster = cluster
        library.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
        self.bootstrap_servers: str = library.rd_kafka_mock_cluster_bootstraps(cluster).decode()
        library.rd_kafka_mock_topic_create(cluster, TOPIC.encode(), 1, 1)
        library.rd_kafka_mock_broker_set_rtt(cluster, ctypes.c_int32(-1), _ROUND_TRIP)

    def refuse_next(self, code: int) -> None:
        """Answer the next request to produce with this error."""
        errors = (ctypes.c_int * 1)(code)
        self._library.rd_kafka_mock_push_request_errors_array(
            self._cluster, ctypes.c_int16(_PRODUCE), ctypes.c_size_t(1), errors
        )


@contextmanager
def mock_kafka() -> Iterator[MockKafka]:
    library = ctypes.CDLL(str(_librdkafka()))
    for makes in ("rd_kafka_conf_new", "rd_kafka_new", "rd_kafka_mock_cluster_new"):
        getattr(library, makes).restype = ctypes.c_void_p
    client = ctypes.c_void_p(
        library.rd_kafka_new(0, ctypes.c_void_p(library.rd_kafka_conf_new()), None, 0)
    )
    cluster = ctypes.c_void_p(library.rd_kafka_mock_cluster_new(client, 1))
    try:
        yield MockKafka(library, cluster)
    finally:
        library.rd_kafka_mock_cluster_destroy(cluster)
        library.rd_kafka_destroy(client)


def _librdkafka() -> Path:
    """The very one that confluent-kafka brings along, and has loaded."""
    for file in files("confluent-kafka") or ():
        if file.name.startswith("librdkafka") and ".so" in file.name:
            return Path(str(file.locate()))
    pytest.skip("left out: this confluent-kafka was built on a librdkafka of the system's")
