"""What `shop cdc` does with one service."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import typer

from eventspine import slots
from eventspine.database import Connection, connect, execute, translated
from eventspine.errors import Unavailable
from eventspine.kafka_log import KafkaLog
from eventspine.relay import Relay
from eventspine.slots import HEARTBEATS, Slot, slot_of
from shop.cli.connect import Connect, Connector
from shop.platform.event_log import cdc_address, database_address, open_event_log, relay_batch
from shop.platform.service import Service
from shop.platform.settings import Settings

_FREE_WITHIN = 60.0  # seconds in which PostgreSQL notices that Debezium has gone
_AGAIN_AFTER = 0.1

_HEADS = """
SELECT head.position, coalesce(relay.position, 0) FROM outbox_head AS head
LEFT JOIN relay ON relay.source = %(source)s
"""

# With the disk, because the transformation refuses a hole by what is saved here.
_BEGUN = """
UPDATE relay SET position = greatest(position, %(position)s), captured = 0 WHERE source = %(source)s
"""


async def begin(service: Service, settings: Settings) -> bool:
    """Also the repair: whatever the slot and the offsets are like, what was not published comes from the outbox."""
    source, name = service.source, slot_of(service.name)
    connect_ = _connect(settings)
    async with _both(service, settings) as (owner, replicator), _log(settings) as log:
        await slots.require_logical(owner)
        await log.create_passing_topic(HEARTBEATS + name)
        connector = connect_ and connect_.find(name)
        if connect_ and connector:
            connect_.stop(name)
        await slots.publish(owner)
        slot = await slots.find(replicator, name)
        if slot is None or slot.is_lost:
            if slot is not None:
                _say(service, f"slot {name} is lost")
                await slots.drop(replicator, name)
            if connect_ and connector:
                connect_.forget_offsets(name)
            await slots.make(replicator, name)
            _say(service, f"slot {name} is made")
        head, relayed = await _heads(owner, source)
        if relayed < head:
            _say(service, f"waiting until positions {relayed + 1} to {head} are in the log")
        await _feed(service, settings, log, owner, head)
        await execute(owner, _BEGUN, {"source": source, "position": 0})
        if connect_ and connector:
            connect_.start(name)
        _say(service, f"change data capture has begun; all positions up to {head} are in the log")
    return True


async def end(service: Service, settings: Settings) -> bool:
    """Whatever was not confirmed is relayed from the outbox. A slot that is lost confirms nothing more."""
    source, name = service.source, slot_of(service.name)
    connect_ = _connect(settings)
    async with _both(service, settings) as (owner, replicator):
        connector = connect_ and connect_.find(name)
        if connect_ and connector:
            connect_.stop(name)
        slot = await slots.find(replicator, name)
        if slot is not None and not slot.is_lost:
            await _until_free(replicator, name)
            # The head before the look, because what is committed later may be missing from it.
            head, _ = await _heads(owner, source)
            first = await slots.first_not_confirmed(replicator, name)
            safe = head if first is None else first - 1
            await execute(owner, _BEGUN, {"source": source, "position": safe})
        if slot is not None:
            await slots.drop(replicator, name)
        if connect_ and connector:
            connect_.forget_offsets(name)
        await slots.unpublish(owner)
        _, relayed = await _heads(owner, source)
        _say(
            service, f"change data capture has ended; the worker relays from position {relayed + 1}"
        )
    return True


async def status(service: Service, settings: Settings) -> bool:
    """Returns whether nothing has to be done."""
    source, name = service.source, slot_of(service.name)
    connect_ = _connect(settings)
    connection = await connect(database_address(settings, service.name))
    try:
        with translated():
            slot = await slots.find(connection, name)
            head, relayed = await _heads(connection, source)
    finally:
        await connection.close()
    connector = connect_.find(name) if connect_ else None
    if slot is None and connector is None and settings.relay != "cdc":
        _say(service, "change data capture is off: SHOP_RELAY is polling, and there is no slot")
        return True
    wrong = []
    _say(service, f"slot {name}: {_slot_line(slot)}")
    if slot is None or slot.is_lost:
        wrong.append(
            "run `shop cdc begin`, which makes the slot anew and sends what is missing from the outbox"
        )
    elif slot.wal_status == "unreserved":
        wrong.append("the slot will soon be lost: the connector has to read it")
    if connect_:
        _say(service, f"connector {name}: {_connector_line(connector)}")
        if connector is None or not connector.runs:
            wrong.append(
                "the connector does not run: `shop cdc begin` starts it again, if Connect knows it"
            )
    _say(service, f"position {relayed} of {head} is known to be in the log; {head - relayed} to go")
    for line in wrong:
        _say(service, line)
    return not wrong


def _slot_line(slot: Slot | None) -> str:
    if slot is None:
        return "there is none"
    limit = (
        "no limit"
        if slot.safe_wal_size is None
        else f"{_size(slot.safe_wal_size)} until it is lost"
    )
    if slot.is_lost:
        return "lost"
    return (
        f"{'read' if slot.active else 'not read'}, {slot.wal_status}, {_size(slot.lag)} not confirmed,"
        f" {_size(slot.held)} of the write-ahead log kept, {limit}"
    )


def _connector_line(connector: Connector | None) -> str:
    if connector is None:
        return "Kafka Connect does not know it"
    tasks = ", ".join(connector.tasks) or "none"
    why = f" ({connector.trace})" if connector.trace else ""
    return f"{connector.state}, tasks: {tasks}{why}"


def _size(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 1024 / 1024:.1f} MiB"


@asynccontextmanager
async def _log(settings: Settings) -> AsyncIterator[KafkaLog]:
    log = open_event_log(settings)
    assert isinstance(log, KafkaLog)
    try:
        yield log
    finally:
        await log.close()


def _connect(settings: Settings) -> Connect | None:
    return Connect(settings.connect_url) if settings.connect_url else None


@asynccontextmanager
async def _both(
    service: Service, settings: Settings
) -> AsyncIterator[tuple[Connection, Connection]]:
    """A connection as the owner of the tables, and one that may use replication slots.

    A new slot waits for the transactions that run at the moment, so there is no time limit.
    """
    owner = await connect(database_address(settings, service.name))
    try:
        replicator = await connect(
            cdc_address(settings, service.name), statement_within=float("inf"), lock_timeout="0"
        )
        try:
            with translated():
                yield owner, replicator
        finally:
            await replicator.close()
    finally:
        await owner.close()


async def _heads(connection: Connection, source: str) -> tuple[int, int]:
    """The last position given out, and the last one known to be in the log."""
    [(head, relayed)] = await (await execute(connection, _HEADS, {"source": source})).fetchall()
    return head, relayed


async def _feed(
    service: Service, settings: Settings, log: KafkaLog, connection: Connection, head: int
) -> None:
    """Return when everything up to this position is in the log. A relay here feeds it, unless another one leads."""
    relay = Relay(
        database_address(settings, service.name), log,
        source=service.source, topics=[service.topic], batch=relay_batch(settings),
    )  # fmt: skip
    # It must have led once in any case, if no other does: it notices another log, and an old backup.
    leading = asyncio.create_task(relay.lead())
    try:
        while True:
            await asyncio.wait([leading], timeout=_AGAIN_AFTER)
            if leading.done():
                leading.result()
            fed = relay.leads or relay.stands_by
            if fed and (await _heads(connection, service.source))[1] >= head:
                return
    finally:
        leading.cancel()
        await asyncio.wait([leading])


async def _until_free(connection: Connection, name: str) -> None:
    for _ in range(int(_FREE_WITHIN / _AGAIN_AFTER)):
        slot = await slots.find(connection, name)
        if slot is None or not slot.active:
            return
        await asyncio.sleep(_AGAIN_AFTER)
    raise Unavailable(
        f"the connector still reads slot {name}: stop it, or set SHOP_CONNECT_URL, and try again"
    )


def _say(service: Service, line: str) -> None:
    typer.echo(f"shop: {service.name}: {line}")
