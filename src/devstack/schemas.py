"""JSON Schemas of events, and the differences between two schemas that break old events or older readers.

Readers with an older contract read new events, and readers with a newer one read old events. So the
values that a field may have can neither grow nor shrink. A field can be added if it has a default: old events do not
have it, and older readers ignore it.
"""

import inspect
import json
from collections.abc import Iterator
from typing import Any

from eventspine.event import Event

Schema = dict[str, Any]

_WORDS = frozenset({"title", "description", "examples", "default", "deprecated", "$id", "$schema"})
"""Keywords that are for people, and do not change which data is valid."""

_NAMES = ("x-topic", "x-source", "x-type", "x-schema-version")


def schema_of(event: type[Event]) -> Schema:
    """The schema of the data in the class's current version, with the names in the log."""
    made = event.model_json_schema()
    whole: Schema = _plain(made, made.get("$defs", {}))
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:eventshop:event:{event.type}:{event.schema_version}",
        "title": event.type,
        "description": inspect.cleandoc(vars(event).get("__doc__") or "").split("\n\n")[0],
        "x-topic": event.topic,
        "x-source": event.source,
        "x-type": event.type,
        "x-schema-version": event.schema_version,
        **{name: whole[name] for name in ("type", "properties", "required")},
    }


def _plain(part: Any, definitions: Schema) -> Any:
    """The schema without references, and without the titles that Pydantic makes from names."""
    if isinstance(part, list):
        return [_plain(one, definitions) for one in part]
    if not isinstance(part, dict):
        return part
    if "$ref" in part:
        return _plain(definitions[part["$ref"].rpartition("/")[2]], definitions)
    return {
        name: {field: _plain(of, definitions) for field, of in value.items()}
        if name == "properties"
        else _plain(value, definitions)
        for name, value in part.items()
        if name not in {"title", "$defs"}
    }


def differences(was: Schema, now: Schema) -> Iterator[str]:
    """The changes that an event in the log or an older reader does not survive. Each is half a sentence."""
    for name in _NAMES:
        if was.get(name) != now.get(name):
            yield f"its {name.removeprefix('x-')} was {was.get(name)} and is {now.get(name)}"
    yield from _of_part(_valid(was), _valid(now), "")


def _of_part(was: Schema, now: Schema, field: str) -> Iterator[str]:
    if "properties" in was and "properties" in now:
        yield from _of_fields(was, now, f"{field}." if field else "")
        was, now = _without_fields(was), _without_fields(now)
    if "items" in was and "items" in now:
        yield from _of_part(_valid(was["items"]), _valid(now["items"]), f"{field}[]")
        was, now = ({**part, "items": None} for part in (was, now))
    if was != now:
        yield f"field `{field}` was {json.dumps(was)} and is {json.dumps(now)}"


def _of_fields(was: Schema, now: Schema, before: str) -> Iterator[str]:
    required = {
        name: set(schema.get("required", ())) for name, schema in (("was", was), ("now", now))
    }
    for name in sorted(was["properties"].keys() - now["properties"].keys()):
        yield f"field `{before}{name}` is gone or has another name"
    for name in sorted(required["now"] - was["properties"].keys()):
        yield f"field `{before}{name}` is new and has no default, and the events in the log do not have it"
    for name in sorted((required["now"] - required["was"]) & was["properties"].keys()):
        yield f"field `{before}{name}` has lost its default, and events in the log may not have it"
    for name, of in was["properties"].items():
        if name in now["properties"]:
            yield from _of_part(_valid(of), _valid(now["properties"][name]), f"{before}{name}")


def _valid(schema: Schema) -> Schema:
    return {
        name: value
        for name, value in schema.items()
        if name not in _WORDS and not name.startswith("x-")
    }


def _without_fields(schema: Schema) -> Schema:
    return {name: value for name, value in schema.items() if name not in {"properties", "required"}}
