"""Moves from one log to another, with a progress bar and a line for each service."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import typer

from eventspine.address import Address
from eventspine.log import EventLog
from eventspine.log_copy import CannotCopy, copy_topic, lacking, no_relay, note
from shop.cli.common import stop
from shop.cli.progress import shown
from shop.platform.service import Service

Urls = Mapping[str, Address]
"""The URL of each service's database, by the service's name."""


async def copy_all(services: Sequence[Service], urls: Urls, of: EventLog, to: EventLog) -> bool:
    """Copy all topics. Returns whether no position is missing from both logs."""
    return all([await _copy(each, urls[each.name], of, to) for each in services])


async def accept_all(
    services: Sequence[Service], urls: Urls, log: EventLog, *, give_up: bool
) -> bool:
    """Accept the log. Returns whether all services continue with it."""
    return all([await _accept(each, urls[each.name], log, give_up=give_up) for each in services])


async def _copy(service: Service, address: Address, of: EventLog, to: EventLog) -> bool:
    with _one_sentence(service), shown(service.name) as progress:
        async with no_relay(address) as office:
            done = await copy_topic(
                of,
                to,
                service.topic,
                service.source,
                office,
                progress,
            )
            await note(address, to, service.topic, service.source, done.upto)
    _say(
        service,
        f"topic {service.topic} up to position {done.upto}: {done.copied} events copied,"
        f" {done.already_there} were there already; both logs have the same events, byte for byte",
    )
    for span in done.missing:
        _say(service, f"{_positions(span)} in neither log")
    return not done.missing


async def _accept(service: Service, address: Address, log: EventLog, *, give_up: bool) -> bool:
    with _one_sentence(service), shown(service.name) as progress:
        async with no_relay(address) as office:
            upto, missing = await lacking(
                address, log, service.topic, service.source, office.head, progress
            )
            for span in missing:
                _say(service, f"{_positions(span)} neither in this log nor in the outbox")
            if missing and not give_up:
                _say(service, "not accepted; --give-up continues without them")
                return False
            await note(address, log, service.topic, service.source, upto)
    _say(service, f"accepted; the worker feeds the log from position {upto + 1}")
    return True


@contextmanager
def _one_sentence(service: Service) -> Iterator[None]:
    try:
        yield
    except CannotCopy as error:
        stop(f"{service.name}: {error}")


def _positions(span: tuple[int, int]) -> str:
    first, last = span
    return f"position {first} is" if first == last else f"positions {first} to {last} are"


def _say(service: Service, line: str) -> None:
    typer.echo(f"shop: {service.name}: {line}")
