"""The sections of an audit: what is checked about one service, and the sentences for what does not hold."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg

from eventspine.address import Address
from eventspine.audited_log import Feeding
from eventspine.database import Connection
from eventspine.event import Event
from eventspine.handlers import Handlers
from eventspine.positions import Seen
from eventspine.projections import (
    Aggregate,
    Invariant,
    Projection,
    breaches,
    differences,
    skipped_versions,
)


@dataclass
class Audited:
    """What the audit needs to know about one service."""

    name: str
    source: str
    topic: str
    """Empty, like `source`, if the service only reads."""
    events: Sequence[type[Event]]
    """The classes of the events that it publishes."""
    database_url: Address
    consumers: Sequence[Handlers]
    """Its handlers, and then its reactions."""
    projections: Sequence[Projection | Aggregate]
    invariants: Sequence[Invariant] = ()


@dataclass
class Section:
    """The result of one check. `problems` are sentences that tell an operator what to do."""

    title: str
    facts: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        return not self.problems


def source_section(audited: Audited, seen: Seen, head: int, fed: Feeding) -> Section:
    """Whether the topic holds every event that was relayed, and none that the database did not publish."""
    section = Section(
        f"{audited.name}: events in topic {audited.topic}",
        facts={
            "published": head,
            "relayed": fed.relayed,
            "in_log": seen.different,
            "repeats": seen.repeats,
            "not_events": seen.foreign,
        },
    )
    if fed.problem:
        section.problems.append(fed.problem)
    for first, last in seen.missing(fed.relayed)[:10]:
        span = f"position {first} is" if first == last else f"positions {first} to {last} are"
        section.problems.append(
            f"{span} missing from topic {audited.topic}, although relayed: consumers that have not "
            "read them can't get them any more; restore the log from a backup or a replica"
        )
    if seen.highest > head:
        section.problems.append(
            f"topic {audited.topic} holds position {seen.highest} but the database has only given "
            f"out {head}: it was restored from an old backup, and must be rebuilt from the log; or another"
            " writer wrote that position (docs/operations.md, 'A forged position')"
        )
    return section


def nothing_published(audited: Audited, head: int) -> list[Section]:
    """For a service without a topic: one section if it has published all the same."""
    if not head:
        return []
    section = Section(f"{audited.name}: it only reads", facts={"published": head})
    section.problems.append(
        f"it has no topic, and {head} event(s) in its outbox that no service can read: give it a"
        " topic, or publish nothing in it"
    )
    return [section]


def parked_section(name: str, parked: Sequence[Any]) -> Section:
    """Parked records of a consumer. Each is a problem."""
    section = Section(f"{name}: parked events", facts={"parked": len(parked)})
    for topic, partition, offset, position, key, error in parked[:10]:
        what = f"position {position} of topic {topic}" if position else "foreign record"
        section.problems.append(
            f"{what} (key {key}, {topic}/{partition}@{offset}) is parked: {error[:200]}; fix the"
            " cause, then `shop parked retry`, or discard it"
        )
    return section


async def table_section(
    connection: Connection,
    audited: Audited,
    table: Projection | Aggregate,
    incomplete: set[str],
) -> Section:
    """Whether a table is what the staged events make of it. Not compared if its topic is `incomplete`."""
    topics = [table.topic] if isinstance(table, Projection) else list(table.topics)
    what = "the latest version of every key in" if isinstance(table, Projection) else "the sum of"
    section = Section(f"{audited.name}: table {table.table} is {what} topic {', '.join(topics)}")
    if incomplete.intersection(topics):
        section.problems.append(
            "not compared: this log lacks events from which the table was computed"
        )
        return section
    try:
        async with connection.transaction():
            found = await differences(connection, table)
    except psycopg.DataError as error:
        section.problems.append(
            f"topic {', '.join(topics)} holds values that no column of {table.table} can hold"
            f" ({error.diag.message_primary}), so its service did not publish them: make sure that"
            " no other writer can write there"
        )
        return section
    section.facts |= {"rows": found.rows, "different": found.total}
    for row in found.first:
        if row.found is None:
            what = f"is missing; the log says {row.expected}"
        elif row.expected is None:
            what = f"is in the table but not in the log: {row.found}"
        else:
            differs = [name for name in row.expected if row.expected[name] != row.found.get(name)]
            what = "differs: " + ", ".join(
                f"{name} is {row.found.get(name)!r} and must be {row.expected[name]!r}"
                for name in differs
            )
        section.problems.append(f"{table.table} {row.key} {what}")
    return section


async def invariant_section(
    connection: Connection, audited: Audited, invariant: Invariant
) -> Section:
    """Rows that violate an invariant."""
    section = Section(f"{audited.name}: {invariant.title}")
    rows, total = await breaches(connection, invariant)
    section.facts["breaches"] = total
    section.problems += [f"violated by {row}" for row in rows]
    return section


async def versions_section(connection: Connection, audited: Audited) -> Section:
    """Whether the versions of each key rise by one."""
    keys = [
        table.key
        for table in audited.projections
        if isinstance(table, Projection) and table.topic == audited.topic
    ]
    skipped, count = [], 0
    for key in keys or [{"id": "text"}]:
        found, more = await skipped_versions(connection, audited.topic, key)
        skipped += found
        count += more
    section = Section(
        f"{audited.name}: versions rise by one in topic {audited.topic}", facts={"skipped": count}
    )
    for of, version, previous in skipped:
        section.problems.append(
            f"key {of}: version {version} follows version {previous} in topic {audited.topic}"
        )
    return section
