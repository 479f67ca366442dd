"""The process that runs the relay and the consumer of one service."""

import asyncio
import signal
from collections.abc import Coroutine, Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import structlog
import uvloop

from eventspine.captured import Captured
from eventspine.consumer import Consumer
from eventspine.database import Database
from eventspine.frozen import end_frozen_sessions
from eventspine.log import EventLog
from eventspine.pruning import Pruner
from eventspine.reactions import Reaction
from eventspine.relay import Relay
from eventspine.slots import slot_of
from shop.platform.event_log import captures, database_address, open_event_log, relay_batch
from shop.platform.interceptors import steps
from shop.platform.processes import files, garbage
from shop.platform.processes.heartbeat import beat
from shop.platform.processes.ready import notify_ready
from shop.platform.service import Service
from shop.platform.settings import Settings
from shop.platform.telemetry.process import Telemetry

_LOG = structlog.get_logger("shop.worker")

_CANCEL_AGAIN_AFTER = 0.3  # seconds
_STAND_BY_AFTER = (
    10.0  # seconds; on a busy machine the first reader of a new Kafka group needed four
)


def run_worker(service: Service, settings: Settings) -> None:
    """Work until SIGTERM or SIGINT. A stop at any moment loses nothing. Raises `TooFewFiles`."""
    files.for_worker()
    uvloop.run(_work(service, settings))


async def _work(service: Service, settings: Settings) -> None:
    address = database_address(settings, service.name)
    log = open_event_log(settings)
    is_captured = captures(settings)
    telemetry = Telemetry(settings, "worker", service.name)
    chain = steps(settings.interceptors, "worker", service.name, telemetry)
    listening = [each for each in service.consumers(settings) if each.topics]
    reactions = [each for each in listening if isinstance(each, Reaction)]
    # Each reaction may hold one connection, so that the other parts do not wait for it.
    database = Database(address, size=3 + len(reactions), timeout=10.0, steps=chain)
    await database.open()
    consumers = {
        each.consumer: Consumer(
            database,
            log,
            each,
            batch=each.batch if isinstance(each, Reaction) else settings.consumer_batch,
            most_parked=settings.most_parked,
        )
        for each in listening
    }
    consumer = consumers.get(service.name)
    relay: Relay | Captured | None = None
    if service.topic and is_captured:
        relay = Captured(
            address,
            log,
            source=service.source,
            topic=service.topic,
            slot=slot_of(service.name),
            group=f"{service.name}.relay",
        )
    elif service.topic:
        relay = Relay(
            address,
            log,
            source=service.source,
            topics=[service.topic],
            batch=relay_batch(settings),
            steps=chain,
        )
    pruner = Pruner(
        database,
        outbox_seconds=settings.outbox_retention_s,
        key_seconds=settings.idempotency_retention_s,
        parked_seconds=settings.parked_retention_s,
        aged=service.all_aged(settings),
    )
    # Without reactions, because a worker that only waits for a provider must not be restarted.
    loops: dict[str, Relay | Captured | Consumer] = {}
    if relay is not None:
        loops["relay"] = relay
    if consumer is not None:
        loops["consumer"] = consumer
    parts = [part.run() for part in (relay, *consumers.values(), pruner) if part is not None]
    tasks = [asyncio.create_task(part) for part in parts]
    tasks.append(asyncio.create_task(end_frozen_sessions(database)))
    if settings.heartbeat:
        heart = beat(settings.heartbeat, loops)
        tasks.append(asyncio.create_task(heart))
    stopping = asyncio.Event()
    for signal_ in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signal_, stopping.set)
    if telemetry.metrics is not None:
        looking = _show(telemetry, service, settings, log, database, relay, consumers)
        tasks.append(asyncio.create_task(looking))
    _LOG.info("worker.started", service=service.name, log=settings.event_log)
    garbage.settle()
    announcing = asyncio.create_task(_announce(relay, consumer))
    stopped = asyncio.create_task(stopping.wait())
    # The tasks never end by themselves. If one does, the process must end too.
    async with telemetry.running():
        await asyncio.wait([*tasks, stopped], return_when=asyncio.FIRST_COMPLETED)
        await _cancel([*tasks, stopped, announcing])
    for task in tasks:
        with suppress(asyncio.CancelledError):
            await task
    for reaction in reactions:
        await reaction.close()
    await log.close()
    await database.close()


def _show(
    telemetry: Telemetry,
    service: Service,
    settings: Settings,
    log: EventLog,
    database: Database,
    relay: Relay | Captured | None,
    consumers: Mapping[str, Consumer],
) -> Coroutine[Any, Any, None]:
    """Add what there is to see. Returns what looks at the database and the log until it is cancelled."""
    from shop.platform.flow import FlowReader  # noqa: PLC0415 - only where metrics are on
    from shop.platform.telemetry.looking import Looking  # noqa: PLC0415
    from shop.platform.telemetry.parts import of_database, of_worker  # noqa: PLC0415

    loops: dict[str, Relay | Captured | Consumer] = dict(consumers)
    if relay is not None:
        loops["relay"] = relay
    looking = Looking(FlowReader([service], settings, log=log), database.address)
    assert telemetry.metrics is not None
    telemetry.metrics.add(partial(of_worker, relay, consumers.values(), loops))
    telemetry.metrics.add(partial(of_database, database))
    telemetry.metrics.add(looking.samples)
    telemetry.pages["/health/ready"] = looking.ready
    return looking.run()


async def _announce(relay: Relay | Captured | None, consumer: Consumer | None) -> None:
    """Report readiness as soon as events flow, so that a new customer's order finds the customer in time.

    If it gets nothing to do for a while, it also reports readiness. Then other workers do the work, or the log
    or the database is unavailable.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(_STAND_BY_AFTER):
            while not ((relay is None or relay.leads) and (consumer is None or consumer.reads)):
                await asyncio.sleep(0.02)
    notify_ready()


async def _cancel(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel the tasks, repeatedly, until each has ended.

    If a task's connection is lost at the same moment, its wait raises that error instead of the cancellation.
    The task would then continue.
    """
    going_on = set(tasks)
    while going_on:
        for task in going_on:
            task.cancel()
        _, going_on = await asyncio.wait(going_on, timeout=_CANCEL_AGAIN_AFTER)
