"""The recorded contracts of events: a schema and an example of every version that each type ever had.

    python -m devstack.contracts           records new events and versions; writes docs/asyncapi and docs/contracts.md
    python -m devstack.contracts --check   writes nothing; the exit status is 0 or 1

The records are in `recorded/` beside the contracts: `order.placed.1.schema.json` and
`order.placed.1.example.json` for version 1 of `order.placed`. A contract is compared with its record. A change that
makes old events or older readers fail is refused.
"""

import json
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from devstack import asyncapi
from devstack.asyncapi import Version
from devstack.files import write_whole
from devstack.kafka import PROJECT
from devstack.schemas import differences, schema_of
from eventspine.event import Event, NotAnEvent
from eventspine.log import Record
from eventspine.upcasting import read_events
from shop.platform import discovery
from shop.platform.discovery import NotAService

_SCHEMA, _EXAMPLE = ".schema.json", ".example.json"

_WAY_OUT = (
    "events in the log, or readers that are older, could not be read. Take the change back, or raise"
    " `schema_version` and write an upcast; see docs/events.md, 'Changing an event'"
)


class Contracts(NamedTuple):
    """The events of all services with contracts in one package."""

    folder: Path
    """The folder of the records."""
    events: dict[str, type[Event]]
    """The classes of the events, by type."""

    def schema(self, type_: str, version: int) -> Path:
        return self.folder / f"{type_}.{version}{_SCHEMA}"

    def example(self, type_: str, version: int) -> Path:
        return self.folder / f"{type_}.{version}{_EXAMPLE}"

    def recorded(self) -> list[tuple[str, int]]:
        """The types and versions that have a schema or an example, sorted."""
        stems = {
            path.name.removesuffix(suffix).rpartition(".")
            for suffix in (_SCHEMA, _EXAMPLE)
            for path in self.folder.glob(f"*{suffix}")
        }
        return sorted((type_, int(version)) for type_, _, version in stems)


def packages() -> list[Contracts]:
    """The contracts of all services. Raises `NotAService`."""
    found: dict[str, Contracts] = {}
    for name in discovery.names():
        module = discovery.find(name).contracts
        if module is None:
            continue
        package = module.rpartition(".")[0]
        folder = Path(import_module(package).__path__[0]) / "recorded"
        of_package = found.setdefault(package, Contracts(folder, {}))
        of_package.events.update({event.type: event for event in discovery.contracts(name)})
    return list(found.values())


def example_record(schema: dict[str, Any], example: dict[str, Any]) -> Record:
    """The example as it is in the log, with the names in the log."""
    headers = {
        "ce_specversion": "1.0",
        "ce_id": "1",
        "ce_source": schema["x-source"],
        "ce_type": schema["x-type"],
        "ce_time": "2026-01-02T03:04:05.678900Z",
        "ce_subject": str(example["id"]),
        "ce_dataversion": str(schema["x-schema-version"]),
        "content-type": "application/json",
    }
    value = json.dumps(example, ensure_ascii=False).encode()
    return Record(schema["x-topic"], 0, 0, str(example["id"]), value, headers)


def problems(contracts: Contracts) -> Iterator[str]:
    """The changes that old events or older readers would not survive. Each is a sentence."""
    recorded = contracts.recorded()
    for type_, version in recorded:
        event = contracts.events.get(type_)
        if event is None:
            yield (
                f"{type_}: version {version} is recorded in {_shown(contracts.folder)}, and no contract"
                " declares it: its events stay in the log, so put it back under the same name. If no log"
                " holds one, delete its records"
            )
        elif version > event.schema_version:
            yield (
                f"{type_}: version {version} is recorded, and {event.__name__} has the schema version"
                f" {event.schema_version}: a version is never taken back"
            )
        else:
            yield from _of_version(contracts, event, version)
    for type_, event in contracts.events.items():
        for version in range(1, event.schema_version):
            if (type_, version) not in recorded:
                yield (
                    f"{type_}: version {version} is not recorded in {_shown(contracts.folder)}, and"
                    f" {event.__name__} has the schema version {event.schema_version}: versions are raised by"
                    " one, and the records of earlier ones stay"
                )
        example = contracts.example(type_, event.schema_version)
        if not example.is_file():
            yield (
                f"{type_}: {_shown(example)} is missing: write the data of one event there, as JSON,"
                " and run `make contracts`"
            )


def _of_version(contracts: Contracts, event: type[Event], version: int) -> Iterator[str]:
    path = contracts.schema(event.type, version)
    if not path.is_file():
        if version < event.schema_version:
            yield f"{event.type}: {_shown(path)} is missing: the records of earlier versions stay"
        return  # for a new version, `stale` reports it
    recorded = json.loads(path.read_text())
    if version == event.schema_version:
        for difference in differences(recorded, schema_of(event)):
            yield f"{event.type}: {difference}: {_WAY_OUT}"
    example = contracts.example(event.type, version)
    if example.is_file():
        yield from _of_example(event, recorded, example)


def _of_example(event: type[Event], schema: dict[str, Any], path: Path) -> Iterator[str]:
    where = f"{event.type}: the example {_shown(path)}"
    data = json.loads(path.read_text())
    try:
        (read,) = read_events(event, [example_record(schema, data)])
    except NotAnEvent as error:
        yield f"{where} can't be read any more: {error}: {_WAY_OUT}"
        return
    if (read.key, read.version) != (str(data["id"]), data["version"]):
        yield f"{where} changes its id or its version when it is read: an upcast has to keep both"
    written = json.loads(read.as_json())
    if schema["x-schema-version"] == event.schema_version:
        for name in data:
            if written.get(name) != data[name]:
                yield (
                    f"{where}: its field `{name}` is {json.dumps(data[name])}, and"
                    f" {json.dumps(written.get(name))} after it was read and written: {_WAY_OUT}"
                )


def files(found: list[Contracts]) -> dict[Path, str]:
    """The files that `make contracts` writes, with their text."""
    texts = {
        contracts.schema(type_, event.schema_version): _json(schema_of(event))
        for contracts in found
        for type_, event in contracts.events.items()
    }
    ours = [contracts for contracts in found if contracts.folder.is_relative_to(PROJECT / "src")]
    documented = [
        Version(
            json.loads(_text(contracts.schema(type_, version), texts)),
            json.loads(contracts.example(type_, version).read_text()),
            is_current=version == contracts.events[type_].schema_version,
        )
        for contracts in ours
        for type_, version in contracts.recorded()
    ]
    texts[PROJECT / "docs/asyncapi/asyncapi.json"] = _json(asyncapi.document(documented))
    texts[PROJECT / "docs/contracts.md"] = asyncapi.page(documented)
    return texts


def _text(path: Path, texts: dict[Path, str]) -> str:
    return texts.get(path) or path.read_text()


def stale(found: list[Contracts]) -> Iterator[str]:
    for path, text in files(found).items():
        if not path.is_file() or path.read_text() != text:
            yield f"{_shown(path)} is not what the contracts say: run `make contracts`"


def main(arguments: list[str]) -> int:
    try:
        found = packages()
        wrong = [problem for contracts in found for problem in problems(contracts)]
        if not wrong and arguments == ["--check"]:
            wrong = list(stale(found))
        elif not wrong:
            for path, text in files(found).items():
                path.parent.mkdir(parents=True, exist_ok=True)
                write_whole(path, text)
    except NotAService as error:
        wrong = [str(error)]
    for problem in wrong:
        print(f"contracts: {problem}", file=sys.stderr)  # noqa: T201
    return 1 if wrong else 0


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _shown(path: Path) -> str:
    return str(path.relative_to(PROJECT) if path.is_relative_to(PROJECT) else path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
