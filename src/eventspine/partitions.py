"""Which partition of a topic a key is in. Each log has one rule, which never changes.

A log needs the rule to append. A reader that changes from one log to another needs it to find the partition of
the old log in which an event of the new one was.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from zlib import crc32

_WORD = 0xFFFFFFFF


def _murmur2(data: bytes) -> int:
    """The hash that Kafka's Java clients use (`org.apache.kafka.common.utils.Utils.murmur2`)."""
    mixed = (0x9747B28C ^ len(data)) & _WORD
    whole = len(data) & ~3
    for at in range(0, whole, 4):
        word = int.from_bytes(data[at : at + 4], "little") * 0x5BD1E995 & _WORD
        word = (word ^ word >> 24) * 0x5BD1E995 & _WORD
        mixed = mixed * 0x5BD1E995 & _WORD ^ word
    if rest := data[whole:]:
        mixed = (mixed ^ int.from_bytes(rest, "little")) * 0x5BD1E995 & _WORD
    mixed = (mixed ^ mixed >> 13) * 0x5BD1E995 & _WORD
    return (mixed ^ mixed >> 15) & 0x7FFFFFFF


_RULES: Mapping[str, Callable[[bytes], int]] = MappingProxyType(
    {"crc32": crc32, "murmur2": _murmur2}
)


def partition_of(key: str, partitions: int, rule: str) -> int:
    """Raises `KeyError` for an unknown rule."""
    return _RULES[rule](key.encode()) % partitions
