"""The story that a question asks for: its events, from all services, each with its way."""

from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

from shop.services.console import outboxes
from shop.services.console.journeys import Journey, journey
from shop.services.console.outboxes import Published, Wanted
from shop.services.console.questions import Entity, answered, row_of
from shop.services.console.reading import Reading
from shop.services.console.watching import Watch

MOST = 20
"""Events of one page. The way of each takes some reads."""


class Story(NamedTuple):
    journeys: list[Journey]
    """In the order of time."""
    reached: Mapping[str, int]
    """For each service whose outbox was searched, the position from which on all was searched."""
    first: Mapping[str, int]
    """For each of them, the oldest position that its outbox has."""
    complete: bool
    """Whether all that can be found was found."""
    notes: list[str]
    """What is not known, in sentences."""


async def of_entity(
    reading: Reading, watch: Watch, entity: Entity, reached: Mapping[str, int]
) -> Story:
    """All events of one order, user or the like. Its row says how many there are: one for each version."""
    service = reading.topics[entity.topic].name
    row = await row_of(reading, entity)
    wanted = outboxes.of_key(entity.topic, entity.key)
    began = row.began if row else None
    found, searched, first = await _search(
        reading, service, wanted, reached, began=began, enough=row.version if row else outboxes.MANY
    )
    notes = []
    versions = {each.version for each in found}
    whole = row is not None and versions >= set(range(1, row.version + 1))
    if row is None:
        notes.append(f"The table of {service} has no row of {entity.topic} {entity.key}.")
    if row is not None and not whole and searched <= first:
        lacking = row.version - len(versions)
        notes.append(
            f"{lacking} of its {row.version} events are older than what the outbox of {service} keeps. They are"
            " in the log, where this page does not look for them."
        )
    journeys = await _journeys(reading, watch, found, notes)
    return Story(journeys, {service: searched}, {service: first}, whole or searched <= first, notes)


async def of_request(reading: Reading, watch: Watch, key_hash: str) -> Story:
    """What one request published, found by its idempotency key: about the time when it was answered."""
    found: list[Published] = []
    notes = []
    for name, status, began in await answered(reading, key_hash):
        database = reading.database(name)
        within = await outboxes.bounds(database)
        at = await outboxes.position_at(database, within, began)
        of_service = await outboxes.around(database, name, outboxes.of_key_hash(key_hash), at)
        found += of_service
        if not of_service:
            notes.append(
                f"{name} answered this request with {status} and published nothing, or its outbox does not"
                " keep that any more."
            )
    journeys = await _journeys(reading, watch, found, notes)
    return Story(journeys, {}, {}, complete=True, notes=notes)


async def of_trace(reading: Reading, watch: Watch, trace: str, reached: Mapping[str, int]) -> Story:
    """What the requests of a trace published. No index has it, so it is searched from the newest back."""
    found: list[Published] = []
    searched: dict[str, int] = {}
    first: dict[str, int] = {}
    for service in reading.topics.values():
        of_service, searched[service.name], first[service.name] = await _search(
            reading, service.name, outboxes.of_trace(trace), reached, enough=MOST
        )
        found += of_service
    complete = all(searched[name] <= first[name] for name in searched)
    notes: list[str] = []
    journeys = await _journeys(reading, watch, found, notes)
    return Story(journeys, searched, first, complete, notes)


async def _search(
    reading: Reading,
    service: str,
    wanted: Wanted,
    reached: Mapping[str, int],
    *,
    began: datetime | None = None,
    enough: int,
) -> tuple[list[Published], int, int]:
    """What was found, the position that was reached, and the oldest position that is kept."""
    database = reading.database(service)
    within = await outboxes.bounds(database)
    near: dict[int, Published] = {}
    if began is not None:
        at = await outboxes.position_at(database, within, began)
        near = {
            each.position: each for each in await outboxes.around(database, service, wanted, at)
        }
    before = min(reached.get(service, within.last + 1), within.last + 1)
    if len(near) >= enough:
        return list(near.values()), before, within.first
    found, searched = await outboxes.back(
        database, service, wanted, before, within.first, enough - len(near)
    )
    return (
        list({**near, **{each.position: each for each in found}}.values()),
        searched,
        within.first,
    )


async def _journeys(
    reading: Reading, watch: Watch, found: list[Published], notes: list[str]
) -> list[Journey]:
    found.sort(key=lambda each: (each.time, each.position))
    if len(found) > MOST:
        notes.append(f"The newest {MOST} of {len(found)} events are shown.")
    known = {(each.topic, each.key, each.version): each for each in found}
    journeys = []
    for each in found[-MOST:]:
        before = known.get((each.topic, each.key, each.version - 1))
        journeys.append(await journey(reading, watch, each, before))
    return journeys
