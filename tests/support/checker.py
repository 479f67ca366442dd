"""The judge: did the shop keep every promise it made, and do log and databases agree?

It knows what clients sent and were told, the log, and the tables, and nothing of how the shop
came there. `until_quiet` first: while events are still on their way, copies may differ.
"""

import asyncio
import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from itertools import groupby, islice, pairwise
from typing import Any, NamedTuple

import psycopg
from psycopg.rows import DictRow, dict_row

from eventspine.event import NotAnEvent, envelope
from eventspine.log import EventLog, Record
from shop.platform import discovery
from tests.support.load import TIMEOUT, Action, Outcome, Sent

_SHOWN = 5
_CURSORS = "SELECT consumer, topic, partition, next_offset FROM cursors"
"""Faults of one kind that are listed; when one thing is wrong, thousands often are."""
_COMMITS_WITHIN = 21.0
"""Seconds after a request was sent, after which it can't commit any more: 19.5, and the time that a busy machine takes."""


@dataclass(frozen=True)
class Sources:
    """Where the evidence is: URLs of the services' databases, and a way to open the log."""

    databases: Mapping[str, str]
    open_log: Callable[[], EventLog]


class Outbox(NamedTuple):
    """What a service says it has published."""

    head: int
    relayed: int
    rows: Sequence[DictRow]


@dataclass(frozen=True)
class Evidence:
    sent: Sequence[Sent]
    log: Mapping[str, Sequence[Record]]
    """By topic, each partition in the order of its offsets."""
    outboxes: Mapping[str, Outbox]
    users: Sequence[DictRow]
    customers: Sequence[DictRow]
    orders: Sequence[DictRow]
    orders_copy: Sequence[DictRow]
    greetings: Sequence[DictRow] = ()
    people: Sequence[DictRow] | None = None
    """None where there is no such service."""


def check(sources: Sources, sent: Sequence[Sent], *, quiet_within: float = 90) -> list[str]:
    """What is wrong, once all is quiet; empty if nothing is."""
    # A request whose client did not wait for its answer may still commit.
    given_up = [one.sent_at for one in sent if one.answered_at - one.sent_at >= TIMEOUT]
    time.sleep(max(0.0, max(given_up, default=0.0) + _COMMITS_WITHIN - time.monotonic()))
    until_quiet(sources, quiet_within)
    return faults(gather(sources, sent))


# Gathering


def until_quiet(sources: Sources, timeout: float = 90) -> None:
    """Wait until every event is in the log and applied. Raises with what it waited for in vain."""
    deadline = time.monotonic() + timeout
    while waited_for := _not_quiet(sources):
        assert time.monotonic() < deadline, f"not quiet after {timeout:g} s: {waited_for}"
        time.sleep(0.05)


def _not_quiet(sources: Sources) -> str:
    try:
        for service, url in sources.databases.items():
            with psycopg.connect(url, row_factory=dict_row) as db:
                outbox = _outbox(db)
                if outbox.relayed < outbox.head:
                    return f"{service} has {outbox.head} events, and {outbox.relayed} are relayed"
        topics = {name: discovery.load(name).handlers.topics for name in sources.databases}
        reached: dict[tuple[str, str], dict[int, int]] = {
            (name, topic): {} for name, of_service in topics.items() for topic in of_service
        }
        for url in sources.databases.values():
            with psycopg.connect(url) as db:
                # A service's reactions are consumers too.
                for consumer, topic, partition, offset in db.execute(_CURSORS):
                    reached.setdefault((consumer, topic), {})[partition] = offset
        ends = asyncio.run(_ends(sources.open_log(), {topic for _, topic in reached}))
        for (consumer, topic), offsets in reached.items():
            for partition, end in ends[topic].items():
                if (at := offsets.get(partition, 0)) < end:
                    return f"{consumer} has read {topic}/{partition} up to {at} of {end}"
    except psycopg.OperationalError as error:
        return f"a database that answers: {error}"
    return ""


def gather(sources: Sources, sent: Sequence[Sent]) -> Evidence:
    tables: dict[str, list[DictRow]] = {}
    outboxes: dict[str, Outbox] = {}
    wanted = {
        "users": ("users", "orders"),
        "orders": ("orders", "customers"),
        "greetings": ("greetings", "people"),
    }
    for service, url in sources.databases.items():
        with psycopg.connect(url, row_factory=dict_row) as db:
            db.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            outboxes[service] = _outbox(db)
            for table in wanted[service]:
                tables[f"{service}.{table}"] = db.execute(
                    f"SELECT * FROM {table} ORDER BY id".encode()
                ).fetchall()
    return Evidence(
        sent=list(sent),
        log=asyncio.run(_read_all(sources.open_log(), tuple(sources.databases))),
        outboxes=outboxes,
        users=tables["users.users"],
        customers=tables["orders.customers"],
        orders=tables["orders.orders"],
        orders_copy=tables["users.orders"],
        greetings=tables.get("greetings.greetings", ()),
        people=tables.get("greetings.people"),
    )


def _outbox(db: psycopg.Connection[DictRow]) -> Outbox:
    row = db.execute(
        "SELECT (SELECT position FROM outbox_head) AS head,"
        " coalesce((SELECT position FROM relay), 0) AS relayed"
    ).fetchone()
    assert row
    rows = db.execute("SELECT position, key, type, data FROM outbox ORDER BY position").fetchall()
    return Outbox(row["head"], row["relayed"], rows)


async def _ends(log: EventLog, topics: Iterable[str]) -> dict[str, dict[int, int]]:
    try:
        return {topic: await log.end_offsets(topic) for topic in topics}
    finally:
        await log.close()


async def _read_all(log: EventLog, topics: Sequence[str]) -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = {}
    try:
        for topic in topics:
            records = found[topic] = []
            for partition, end in (await log.end_offsets(topic)).items():
                offset = 0
                while offset < end:
                    some = await log.read(topic, partition, offset, 5000)
                    assert some, f"{topic}/{partition} ends at {end}, and has no record {offset}"
                    records += some
                    offset = some[-1].offset + 1
    finally:
        await log.close()
    return found


# Judging


def faults(evidence: Evidence) -> list[str]:
    logs = {service: _log_of(service, evidence) for service in evidence.outboxes}
    # Its topic also has keys and what may be done with them.
    user_events = [event for event in logs["users"][1] if event.type.startswith("user.")]
    order_events = logs["orders"][1]
    users = [_user(row) for row in evidence.users]
    orders = [_order(row) for row in evidence.orders]
    kinds: list[Iterable[str]] = [
        (f"answered with an error of ours: {sent}" for sent in evidence.sent if sent.status == 500),
        _kept("create_user", "email", evidence.sent, evidence.users),
        _kept("place_order", "product", evidence.sent, evidence.orders),
        _changed("rename_user", evidence.sent, evidence.users, _renamed),
        _changed("cancel_order", evidence.sent, evidence.orders, _cancelled),
        *(wrong for wrong, _ in logs.values()),
        _one_first_event(evidence.orders, order_events, "order.placed"),
        _one_first_event(evidence.users, user_events, "user.created"),
        _differ("users", users, "the fold of their events", _fold(user_events, _user)),
        _differ("orders", orders, "the fold of their events", _fold(order_events, _order)),
        _differ("users", users, "the order service's customers", map(_user, evidence.customers)),
        _differ("orders", orders, "the user service's copies", map(_order, evidence.orders_copy)),
    ]
    if evidence.people is not None:
        events = logs["greetings"][1]
        greetings = [_greeting(row) for row in evidence.greetings]
        kinds += [
            _kept("send_greeting", "text", evidence.sent, evidence.greetings),
            _one_first_event(evidence.greetings, events, "greeting.sent"),
            _differ("greetings", greetings, "the fold of their events", _fold(events, _greeting)),
            _differ(
                "users", map(_person, evidence.users),
                "the greeting service's people", map(_person, evidence.people),
            ),
        ]  # fmt: skip
    return [fault for kind in kinds for fault in islice(kind, _SHOWN)]


def _kept(action: Action, by: str, sent: Sequence[Sent], rows: Sequence[DictRow]) -> Iterator[str]:
    """What was answered is there once, what was refused is not, the rest is there at most once."""
    there = defaultdict(list)
    for row in rows:
        if row[by] is not None:  # an erased user's e-mail is
            there[row[by].lower()].append(row)
    asked = defaultdict(list)
    for one in sent:
        if one.action == action:
            asked[one.fields[by].lower()].append(one)
    for token, ones in asked.items():
        yield from _kept_once(ones, there.pop(token, []))
    for token, found in there.items():
        yield f"nobody asked for {token}: {found}"


def _kept_once(ones: Sequence[Sent], found: Sequence[DictRow]) -> Iterator[str]:
    """The same thing, asked for by these: an e-mail may have been, by several."""
    done = [one for one in ones if one.outcome is Outcome.DONE]
    unknown = [one for one in ones if one.outcome is Outcome.UNKNOWN]
    least, most = len(done), 1 if unknown else len(done)
    if not least <= len(found) <= most:
        yield f"{len(found)} rows, not {least} to {most}: {'; '.join(map(str, ones))}: {found}"
        return
    for one in done:
        if (told := one.answer["id"]) != found[0]["id"]:
            yield f"id {found[0]['id']} was answered as {told}: {one}"
        yield from _as_asked_for(one, found[0])


def _as_asked_for(one: Sent, row: DictRow) -> Iterator[str]:
    for name in ("user_id", "product", "quantity", "total_price", "email", "text"):
        if name in one.fields and str(row[name]) != str(one.fields[name]):
            yield f"{name} is {row[name]}: {one}"


def _changed(
    action: Action,
    sent: Sequence[Sent],
    rows: Sequence[DictRow],
    is_done: Callable[[Sent, DictRow], bool],
) -> Iterator[str]:
    by_id = {row["id"]: row for row in rows}
    for one in sent:
        if one.action != action or one.outcome is Outcome.UNKNOWN:
            continue
        row = by_id.get(one.fields["id"])
        if row is None or is_done(one, row) != (one.outcome is Outcome.DONE):
            yield f"{one}: {row}"


def _renamed(one: Sent, row: DictRow) -> bool:
    return bool(row["name"] == one.fields["name"])


def _cancelled(_one: Sent, row: DictRow) -> bool:
    return bool(row["status"] == "cancelled")


class Shown(NamedTuple):
    """An event of the log, where it stands first."""

    position: int
    partition: int
    type: str
    key: str
    value: bytes


def _log_of(service: str, evidence: Evidence) -> tuple[list[str], list[Shown]]:
    """What is wrong with a service's topic, and its events, each once, by position."""
    wrong: list[str] = []
    shown: dict[int, Shown] = {}
    for partition, records in groupby(evidence.log[service], key=lambda record: record.partition):
        last = 0
        for record in records:
            where = f"{service}/{partition}@{record.offset}"
            try:
                position, source, type_ = envelope(record)
            except NotAnEvent as error:
                wrong.append(f"{where} is not an event: {error}")
                continue
            if source != f"/{service}":
                wrong.append(f"{where} comes from {source}")
                continue
            event = Shown(position, partition, type_, record.key or "", record.value or b"")
            if position in shown:
                if event != shown[position]:
                    wrong.append(f"{where} repeats {position} as another: {event}")
            elif position < last:
                wrong.append(f"{where}: {position} was overtaken by {last}")
            shown.setdefault(position, event)
            last = max(last, position)
    events = [shown[position] for position in sorted(shown)]
    wrong += _incomplete(service, events, evidence.outboxes[service])
    wrong += _out_of_order(service, events)
    return wrong, events


def _incomplete(service: str, events: Sequence[Shown], outbox: Outbox) -> Iterator[str]:
    """The positions 1 to N, all of them, and each as it was published."""
    for last, next_ in pairwise([0, *(event.position for event in events), outbox.head + 1]):
        if next_ != last + 1:
            yield f"{service}: positions {last + 1} to {next_ - 1} of {outbox.head} are not logged"
    logged = {event.position: event for event in events}
    for row in outbox.rows:
        event = logged.get(row["position"])
        if event and (event.type, event.key, _json(event)) != (
            row["type"],
            row["key"],
            row["data"],
        ):
            yield f"{service}: {row} was published, and is logged as {event}"


def _out_of_order(service: str, events: Sequence[Shown]) -> Iterator[str]:
    """A key's versions rise by one, in one partition."""
    known: dict[str, tuple[int, int]] = {}
    for event in events:
        version, partition = known.get(event.key, (0, event.partition))
        if (got := _json(event)["version"]) != version + 1 or partition != event.partition:
            yield f"{service}: after version {version} of {event.key} in {partition} came {event}"
        known[event.key] = (got, event.partition)


def _one_first_event(rows: Sequence[DictRow], events: Sequence[Shown], type_: str) -> Iterator[str]:
    count = Counter(event.key for event in events if event.type == type_)
    for row in rows:
        if (got := count[str(row["id"])]) != 1:
            yield f"{got} × {type_} of {row}"


def _fold(
    events: Sequence[Shown], state: Callable[[Mapping[str, Any]], Hashable]
) -> Iterable[Hashable]:
    return {event.key: state(_json(event)) for event in events}.values()


def _differ(
    what: str, ours: Iterable[Hashable], whose: str, theirs: Iterable[Hashable]
) -> Iterator[str]:
    here, there = Counter(ours), Counter(theirs)
    for one in here - there:
        yield f"{what}, but not in {whose}: {one}"
    for one in there - here:
        yield f"in {whose}, but not in {what}: {one}"


class User(NamedTuple):
    id: int
    email: str | None
    name: str | None
    version: int


class Order(NamedTuple):
    id: int
    user_id: int
    product: str
    quantity: int
    total_price: Decimal
    status: str
    version: int
    placed_at: datetime


def _user(row: Mapping[str, Any]) -> User:
    return User(row["id"], row.get("email"), row.get("name"), row["version"])


def _order(row: Mapping[str, Any]) -> Order:
    values = {name: row[name] for name in Order._fields}
    values["total_price"] = Decimal(row["total_price"])
    if isinstance(placed_at := row["placed_at"], str):
        values["placed_at"] = datetime.fromisoformat(placed_at)
    return Order(**values)


def _greeting(row: Mapping[str, Any]) -> Hashable:
    return (row["id"], row["user_id"], row["text"], row["version"])


def _person(row: Mapping[str, Any]) -> Hashable:
    return (row["id"], row["name"], row["version"])


def _json(event: Shown) -> Any:
    return json.loads(event.value)
