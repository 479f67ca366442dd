"""What a storm's checker demands, once the clients have gone home.

It knows what clients sent and were told, what was planted, the log and the databases; and of the
ledger that each service keeps for it, since handlers leave out a version they have: tables alone do
not show what was applied twice.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import NamedTuple

import psycopg

from eventspine.dead_letters import BEHIND
from eventspine.event import NotAnEvent, envelope
from eventspine.log import LogUnavailable, Record
from tests.more.services.greetings.reactions import NAME
from tests.storm.clients import broken_keys, outcomes
from tests.storm.faults import Scene
from tests.storm.foreign_records import Place, is_planted
from tests.storm.planting import READERS, Planted
from tests.storm.stage import SERVICES, Stage
from tests.support.checker import Evidence, faults, gather, until_quiet
from tests.support.load import Sent
from tests.support.waiting import until

Faults = dict[str, list[str]]
"""By what was demanded, what was found instead."""

_SHOWN = 5
_QUIET_WITHIN = 60.0

_LEDGER = """
SELECT position FROM storm_ledger WHERE topic = %s ORDER BY seq
"""


def judge(scene: Scene, sent: Sequence[Sent]) -> Faults:
    """Empty if everything is as it must be. Planted faults are mended on the way."""
    stage, planted = scene.stage, scene.planted
    found: Faults = {}

    def demand(what: str, look: Callable[[], Iterable[str]]) -> None:
        try:
            wrong = list(islice(look(), _SHOWN))
        except (AssertionError, psycopg.Error, LogUnavailable) as error:
            wrong = [f"{type(error).__name__}: {error}"]
        if wrong:
            found[what] = wrong

    demand("everything comes to rest", lambda: _rest(stage))
    parked = {service: _parked(stage, service) for service in SERVICES}
    demand("after a retry nothing is parked", lambda: _mended(stage))
    everything = [*sent, *planted.sent]
    whole = gather(stage.sources, outcomes(everything))
    evidence = _without_foreign_records(whole)
    demand(
        "what was planted is parked, and nothing else",
        lambda: _rightly_parked(parked, _foreign_records(whole), planted),
    )
    planted.discarded |= set(_foreign_records(whole))
    demand("all that was promised, and nothing else", lambda: faults(evidence))
    demand("one key, one outcome", lambda: broken_keys(everything))
    demand("no good token is refused", lambda: refused_tokens(everything))
    for service in SERVICES:
        demand(
            f"{service} applied each event once, in order",
            lambda service=service: _applied_once(stage, service, evidence),
        )
    demand(
        "each greeting was delivered once, and with its receipt",
        lambda: _delivered_once(stage, evidence),
    )
    demand("shop audit says the same", lambda: _audit(stage))
    if found:
        _keep(stage, whole, everything)
    return found


def refused_tokens(sent: Iterable[Sent]) -> Iterable[str]:
    """The clients show good tokens alone (`tokens.py`)."""
    return (str(one) for one in sent if one.status == 401)


def _rest(stage: Stage) -> Iterable[str]:
    until_quiet(stage.sources, _QUIET_WITHIN)
    return ()


class _Parked(NamedTuple):
    topic: str
    partition: int
    offset: int
    key: str | None
    cause: str
    error: str


def _parked(stage: Stage, service: str) -> list[_Parked]:
    sql = 'SELECT topic, partition, "offset", key, cause, error FROM parked ORDER BY parked_at'
    return [_Parked(*row) for row in stage.rows(service, sql)]


def _rightly_parked(
    parked: Mapping[str, Sequence[_Parked]],
    foreign: Mapping[Place, Record],
    planted: Planted,
) -> Iterable[str]:
    held = {(topic, record.key) for (topic, _, _), record in foreign.items()}
    for service, rows in parked.items():
        places = {row[:3] for row in rows}
        keys = {(row.topic, row.key) for row in rows}
        for row in rows:
            key = (row.topic, row.key)
            behind = row.cause == BEHIND and key in held
            if not (behind or row[:3] in foreign or key in planted.unfit):
                yield f"{service} has parked {row}"
        must = {place for place, record in foreign.items() if not _is_known(record)}
        for topic, partition, offset in sorted(must - planted.discarded - places):
            if service in READERS[topic]:
                yield f"{service} has not parked what is no event at {topic}/{partition}@{offset}"
        for topic, of in sorted(planted.unfit - planted.mended - keys):
            if service in READERS[topic]:
                yield f"{service} has not parked key {of} of {topic}, which it can't apply"
    planted.mended |= planted.unfit


def _mended(stage: Stage) -> Iterable[str]:
    stage.take_unfit()
    for service in SERVICES:
        if not _parked(stage, service):
            continue
        for words in (("discard", service, "--cause", "not an event"), ("retry", service)):
            done = stage.run("parked", *words)
            if done.returncode:
                yield f"shop parked {' '.join(words)}: {done.stdout}{done.stderr}"
        for row in _parked(stage, service):
            yield f"{service} has parked {row}"
    stage.refuse_unfit()


def _is_known(record: Record) -> bool:
    """Whether it says that it is an event of ours. Then it may be too late, and is a repeat."""
    try:
        return envelope(record).source == f"/{record.topic}"
    except NotAnEvent:
        return False


def _foreign_records(evidence: Evidence) -> dict[Place, Record]:
    """The records that no publisher wrote."""
    return {
        (record.topic, record.partition, record.offset): record
        for records in evidence.log.values()
        for record in records
        if is_planted(record)
    }


def _without_foreign_records(evidence: Evidence) -> Evidence:
    log = {
        topic: [record for record in records if not is_planted(record)]
        for topic, records in evidence.log.items()
    }
    return replace(evidence, log=log)


def _applied_once(stage: Stage, service: str, evidence: Evidence) -> Iterable[str]:
    """The ledger against the log: each position once, and a key's in the order of the log."""
    for topic, readers in READERS.items():
        if service in readers:
            yield from _topic_applied_once(stage, service, topic, evidence)


def _topic_applied_once(
    stage: Stage, service: str, topic: str, evidence: Evidence
) -> Iterable[str]:
    key_of: dict[int, str] = {}
    for record in evidence.log[topic]:
        try:
            key_of.setdefault(envelope(record).position, record.key or "")
        except NotAnEvent:
            continue
    applied = [position for (position,) in stage.rows(service, _LEDGER, topic)]
    times = Counter(applied)
    for position, key in key_of.items():
        if times[position] != 1:
            yield f"{service} applied {topic} {position} of key {key} {times[position]} times"
    for position in times.keys() - key_of.keys():
        yield f"{service} applied {topic} {position}, which is not in the log"
    last: dict[str | None, int] = {}
    for position in applied:
        of = key_of.get(position)
        if position < last.get(of, 0):
            yield f"{service} applied {topic} {position} of key {of} after {last[of]}"
        last[of] = position


def _delivered_once(stage: Stage, evidence: Evidence) -> Iterable[str]:
    """The reaction's table and ledger, against the log and what the provider answered."""
    position_of = {
        int(record.key or 0): envelope(record).position for record in evidence.log["greetings"]
    }
    count = "SELECT count(*) FROM deliveries"
    until(lambda: stage.rows("greetings", count)[0][0] >= len(position_of), "all delivered", 60)
    yield from _topic_applied_once(stage, "greetings", "greetings", evidence)
    receipts: dict[int, list[int]] = {}
    for greeting, receipt in stage.rows("greetings", "SELECT greeting_id, receipt FROM deliveries"):
        receipts.setdefault(greeting, []).append(receipt)
    asked = {f"{NAME}/greetings/{at}": id_ for id_, at in position_of.items()}
    given = {asked.get(key): [receipt] for key, receipt in stage.provider.receipts.items()}
    for greeting in receipts.keys() | given.keys():
        if receipts.get(greeting or 0) != given.get(greeting):
            yield f"greeting {greeting} has {receipts.get(greeting or 0)}, and not {given.get(greeting)}"


def _audit(stage: Stage) -> Iterable[str]:
    done = stage.run("audit")
    if done.returncode:
        wrong = [line for line in done.stdout.splitlines() if not line.startswith("✓")]
        yield "\n    ".join([f"exit status {done.returncode}:", *wrong, done.stderr[-2000:]])


def _keep(stage: Stage, evidence: Evidence, sent: Sequence[Sent]) -> None:
    """All that was judged, as text: the servers' data goes with the storm."""
    directory = stage.directory / "evidence"
    directory.mkdir(exist_ok=True)
    kept: dict[str, Iterable[object]] = {"sent": sent}
    for topic in SERVICES:
        kept[f"{topic}.log"] = evidence.log[topic]
        kept[f"{topic}.outbox"] = evidence.outboxes[topic].rows
        kept[f"{topic}.applied"] = stage.rows(topic, "SELECT * FROM storm_ledger ORDER BY seq")
    kept |= {
        "users": evidence.users,
        "orders": evidence.orders,
        "orders.customers": evidence.customers,
        "users.orders": evidence.orders_copy,
        "greetings": evidence.greetings,
        "greetings.people": evidence.people or (),
    }
    for name, things in kept.items():
        (directory / name).write_text("".join(f"{thing!r}\n" for thing in things))
