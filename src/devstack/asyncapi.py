"""Writes the events as an AsyncAPI 3 document and as a page, from their schemas and examples.

A message is one version of one type. Old versions stay, because their events are in the log, and a reader that starts
at the beginning gets them.
"""

import json
import tomllib
from collections.abc import Sequence
from itertools import groupby
from typing import Any, NamedTuple

from devstack.kafka import PROJECT

_HEADERS: dict[str, tuple[str, str]] = {
    "ce_specversion": ("CloudEvents' version", "1.0"),
    "ce_id": ("the position in the publisher's outbox: 1, 2, 3, … without gaps", "4711"),
    "ce_source": ("the publisher", ""),
    "ce_type": ("the type of the event", ""),
    "ce_time": ("when the event was committed, RFC 3339 in UTC", "2026-01-02T03:04:05.678900Z"),
    "ce_subject": ("the id of what the event is about; also the record's key", ""),
    "ce_dataversion": ("the schema version of the data", ""),
    "content-type": ("the type of the value", "application/json"),
}


class Version(NamedTuple):
    """One schema version of one type of event."""

    schema: dict[str, Any]
    example: dict[str, Any]
    is_current: bool

    @property
    def type(self) -> str:
        return str(self.schema["x-type"])

    @property
    def topic(self) -> str:
        return str(self.schema["x-topic"])

    @property
    def name(self) -> str:
        return f"{self.type}.{self.schema['x-schema-version']}"

    @property
    def headers(self) -> dict[str, str]:
        """The data of its example."""
        own = {
            "ce_source": self.schema["x-source"],
            "ce_type": self.type,
            "ce_subject": str(self.example["id"]),
            "ce_dataversion": str(self.schema["x-schema-version"]),
        }
        return {name: example or own[name] for name, (_, example) in _HEADERS.items()}


def document(versions: Sequence[Version]) -> dict[str, Any]:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    by_topic = _by_topic(versions)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "eventshop",
            "version": project["version"],
            "description": (
                "The events of the shop. A record is a CloudEvent 1.0 in binary mode. After a crash some"
                " records are there twice: within a partition, ignore every record whose `ce_id` is not above"
                " the last one that you applied from it. Ignore unknown fields and unknown types."
            ),
            "license": {"name": project["license"]},
        },
        "defaultContentType": "application/json",
        "channels": {
            topic: {
                "address": topic,
                "description": "The key of a record is the `id` of its data, as text.",
                "messages": {
                    of.name: {"$ref": f"#/components/messages/{of.name}"} for of in in_topic
                },
                "bindings": {"kafka": {"topic": topic, "bindingVersion": "0.5.0"}},
            }
            for topic, in_topic in by_topic
        },
        "operations": {
            f"{topic}.publish": {
                "action": "send",
                "channel": {"$ref": f"#/channels/{topic}"},
                "summary": f"What `{in_topic[0].schema['x-source']}` publishes.",
                "messages": [
                    {"$ref": f"#/channels/{topic}/messages/{of.name}"}
                    for of in in_topic
                    if of.is_current
                ],
            }
            for topic, in_topic in by_topic
        },
        "components": {
            "messages": {of.name: _message(of) for of in versions},
            "schemas": {of.name: _payload(of.schema) for of in versions},
        },
    }


def _message(of: Version) -> dict[str, Any]:
    said = of.schema.get("description") or f"The whole state after `{of.type}`."
    earlier = "" if of.is_current else " Not published any more; the log may have events of it."
    return {
        "name": of.type,
        "title": f"{of.type}, version {of.schema['x-schema-version']}",
        "summary": said + earlier,
        "contentType": "application/json",
        "headers": {
            "type": "object",
            "required": list(_HEADERS),
            "properties": {
                name: {"type": "string", "description": meaning}
                | ({"const": of.headers[name]} if name in _FIXED else {})
                for name, (meaning, _) in _HEADERS.items()
            },
        },
        "payload": {"$ref": f"#/components/schemas/{of.name}"},
        "bindings": {"kafka": {"key": {"type": "string"}, "bindingVersion": "0.5.0"}},
        "examples": [{"headers": of.headers, "payload": of.example}],
    }


_FIXED = ("ce_specversion", "ce_source", "ce_type", "ce_dataversion", "content-type")


def _payload(schema: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in schema.items() if not name.startswith("$")}


def _by_topic(versions: Sequence[Version]) -> list[tuple[str, list[Version]]]:
    ordered = sorted(versions, key=lambda of: of.topic)
    return [(topic, list(group)) for topic, group in groupby(ordered, key=lambda of: of.topic)]


_HEAD = """\
# Contracts

`make contracts` writes this page from `src/shop/contracts/`. [Events](events.md) says how to read the events, and how to
change one. The same as a document for programs: [asyncapi.json](asyncapi/asyncapi.json) (AsyncAPI 3), with the JSON Schema
of each event in `components`.
"""


def page(versions: Sequence[Version]) -> str:
    parts = [_HEAD]
    for topic, in_topic in _by_topic(versions):
        parts.append(f"## Topic `{topic}`\n")
        parts += [_section(of) for of in in_topic]
    return "\n".join(parts)


def _section(of: Version) -> str:
    fields = "\n".join(
        f"| `{name}` | {_kind(schema)} | {'always' if name in of.schema['required'] else 'may be missing'} |"
        for name, schema in of.schema["properties"].items()
    )
    said = _message(of)["summary"]
    example = json.dumps(of.example, indent=2, ensure_ascii=False)
    return (
        f"### `{of.type}`, version {of.schema['x-schema-version']}\n\n{said}\n\n"
        f"| field | value | there |\n| --- | --- | --- |\n{fields}\n\n```json\n{example}\n```\n"
    )


_POWERS = {2**31: "2³¹", 2**63: "2⁶³"}


def _kind(schema: dict[str, Any]) -> str:
    """The type of a field in a few words. The schema has the exact rules."""
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "anyOf" in schema:
        return " or ".join(_kind(one) for one in schema["anyOf"])
    if "items" in schema:
        return f"array of {_kind(schema['items'])}"
    words = [str(schema.get("format") or schema.get("type", "any"))]
    if "pattern" in schema:
        words.append(f"`{schema['pattern'].replace('|', chr(92) + '|')}`")
    if "maxLength" in schema:
        words.append(f"{schema.get('minLength', 0)} to {schema['maxLength']} characters")
    if schema.get("minimum", -(2**63)) != -(2**63):
        words.append(f"from {schema['minimum']:,}")
    if "exclusiveMaximum" in schema:
        below = schema["exclusiveMaximum"]
        words.append(f"below {_POWERS.get(below) or format(below, ',')}")
    return ", ".join(words)
