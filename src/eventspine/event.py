"""An event: one fact about a user, an order or the like, with its whole state afterwards.

A publishing service defines its events once, as subclasses of `Event` in its contracts. The names in the log
(topic, type, source) are explicit strings, never Python paths. So code can be moved and renamed while the log
stays valid.

In the log an event is a CloudEvent 1.0 in binary mode: the JSON data is the record's value, and the rest is
headers (https://github.com/cloudevents/spec, Kafka protocol binding).
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from eventspine.log import HEADER_FRAME, MESSAGE_FRAME, Encoded, Message, Record

# The range of PostgreSQL's bigint. A number outside it could be neither applied nor parked.
_END = 2**63

_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")  # escaped, by a backslash that is not itself escaped

# int() alone would also accept "1_0", " 1" and the digits of other scripts.
_POSITION = re.compile(r"[1-9][0-9]{0,18}")


# Strict: Pydantic would otherwise accept 1.0 and true as 1, and readers in SQL do not.
IntegerId = Annotated[int, Field(strict=True, ge=-_END, lt=_END)]


Upcast = Callable[[dict[str, Any]], dict[str, Any]]
"""Computes an event's data in the next schema version. It is given the parsed JSON, and may change it."""


class Event(BaseModel):
    """The base of every published fact.

    `id` identifies the entity that the event is about, and is the record's key. `version` counts the
    entity's events: it starts at 1 and rises by one with each. Readers ignore unknown fields, so a
    publisher may add fields without a new `schema_version`. Any other change needs one, and an upcast:

        schema_version = 2
        upcasts = {1: _with_currency}
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    topic: ClassVar[str]
    source: ClassVar[str]
    type: ClassVar[str]
    schema_version: ClassVar[int] = 1
    upcasts: ClassVar[Mapping[int, Upcast]] = MappingProxyType({})
    """For each earlier schema version, the function that computes the next one. It keeps `id` and `version`."""

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        if sorted(cls.upcasts) != list(range(1, cls.schema_version)):
            raise TypeError(
                f"{cls.__name__} has the schema version {cls.schema_version} and upcasts from"
                f" {sorted(cls.upcasts)}: it needs one from each version before its own"
            )

    id: Any
    """The entity's id, unique in its topic. A subclass declares the type: `IntegerId`, `str` or `UUID`."""
    version: Annotated[int, Field(strict=True, ge=1, lt=_END)]

    @property
    def key(self) -> str:
        return str(self.id)

    def as_json(self) -> str:
        """The data as JSON, as it is sent."""
        # `model_dump_json` calls this too, with options that double the time.
        return self.__pydantic_serializer__.to_json(self).decode()


Model = TypeVar("Model", bound=BaseModel)

_set = object.__setattr__


def trusted(model: type[Model], fields: dict[str, Any]) -> Model:
    """A model of values that need no validation, because they come from the service's own database.

    `fields` are all fields, of the model's types; the model keeps the dict. Takes a third of the time of
    validation. (`model_construct` takes longer than validation.) Raises TypeError if a field is missing.
    """
    if fields.keys() != model.__pydantic_fields__.keys():
        raise TypeError(f"{model.__name__} has other fields than {', '.join(fields)}")
    made = model.__new__(model)
    _set(made, "__dict__", fields)
    _set(made, "__pydantic_fields_set__", set())
    _set(made, "__pydantic_extra__", None)
    _set(made, "__pydantic_private__", None)
    return made


class Envelope(NamedTuple):
    """What a record's headers say, known before the data is decoded."""

    position: int
    source: str
    type: str


class NotAnEvent(ValueError):
    """A record that is not an event of our publishers, or that can't be decoded."""


_SPECVERSION = ("ce_specversion", b"1.0")
_CONTENT_TYPE = ("content-type", b"application/json")

# The size of what every message has, with the longest position, schema version and time.
_SIZE = MESSAGE_FRAME + 8 * HEADER_FRAME + 200


def encoded_message(  # the relay's only knowledge of the wire format
    source: tuple[str, bytes],
    position: bytes,
    key: bytes,
    type_: bytes,
    schema_version: bytes,
    time: bytes,
    data: bytes,
    extra: bytes | None,
) -> Encoded:
    """The log message of an outbox row, of the columns' text. `time` is RFC 3339, in UTC; `extra` is JSON.

    `source` is a header: `source_header` makes it once for all messages.
    """
    headers = [
        _SPECVERSION,
        ("ce_id", position),
        source,
        ("ce_type", type_),
        ("ce_time", time),
        ("ce_subject", key),
        ("ce_dataversion", schema_version),
        _CONTENT_TYPE,
    ]
    size = _SIZE + len(source[1]) + len(type_) + 2 * len(key) + len(data)
    if extra is not None:
        headers += [(name, value.encode()) for name, value in json.loads(extra).items()]
        size += 2 * len(extra)  # an empty header has fewer bytes in JSON
    return key, data, headers, size


def source_header(source: str) -> tuple[str, bytes]:
    return "ce_source", source.encode()


def message(
    source: str,
    position: str,
    key: str,
    type_: str,
    schema_version: str,
    time: str,
    data: bytes,
    extra: Mapping[str, str] | None,
) -> Message:
    """The same as it is read, with texts."""
    encoded = encoded_message(
        source_header(source), position.encode(), key.encode(), type_.encode(),
        schema_version.encode(), time.encode(), data, json.dumps(extra).encode() if extra else None,
    )  # fmt: skip
    return message_of(encoded)


def message_of(encoded: Encoded) -> Message:
    key, data, headers, _ = encoded
    return Message(key.decode(), data, {name: value.decode() for name, value in headers})


def envelope(record: Record) -> Envelope:
    """Read the headers. Raises `NotAnEvent` with the reason."""
    headers = record.headers
    try:
        id_, source, type_ = headers["ce_id"], headers["ce_source"], headers["ce_type"]
    except KeyError as error:
        raise NotAnEvent(f"it has no header {error}") from None
    if not _POSITION.fullmatch(id_) or (position := int(id_)) >= _END:
        raise NotAnEvent("its header ce_id is not a position")
    if record.value is None:
        raise NotAnEvent("it has no value (a tombstone)")
    return Envelope(position, source, type_)


def decode(event_class: type[Event], values: Sequence[bytes]) -> list[Event]:
    """Decode many values of one class in one call into Rust, instead of one call for each value.

    Raises `NotAnEvent` if any of them is not valid data of this class.
    """
    try:
        adapter = _adapters[event_class]
    except KeyError:
        adapter = _adapters[event_class] = TypeAdapter(list[event_class])  # type: ignore[valid-type]
    array = b"[" + b",".join(values) + b"]"
    if holds_nul(array):
        raise NotAnEvent("its data holds U+0000, which no PostgreSQL database can store")
    try:
        events = adapter.validate_json(array)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        raise NotAnEvent(f"its data is not a {event_class.type}: {where}: {first['msg']}") from None
    # The values were joined into one array. A value `1,2` would be two items in it and shift the others.
    if len(events) != len(values):
        raise NotAnEvent(f"its data is not one {event_class.type}")
    return events


def holds_nul(text: bytes) -> bool:
    """Whether a string in this JSON has a U+0000, which no PostgreSQL database can store."""
    return b"\\u0000" in text and _NUL.search(text) is not None


_adapters: dict[type[Event], TypeAdapter[list[Event]]] = {}


def dump(events: Sequence[Event]) -> str:
    """The events' data as one JSON array, so that a batch is one parameter of a statement."""
    return "[" + ",".join([event.as_json() for event in events]) + "]"
