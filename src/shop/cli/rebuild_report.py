"""`shop rebuild`: what differs, and what was done."""

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import typer

from eventspine.address import Address
from eventspine.log import EventLog
from eventspine.rebuilding import Compared, Difference, Rebuild, Rebuilt
from eventspine.recomputing import Recomputed
from eventspine.staging import Source
from shop.cli.common import stop
from shop.cli.progress import shown
from shop.platform import discovery
from shop.platform.service import Service
from shop.platform.terminal import plain

_SHOWN = 20  # differences of a table


def source_of(service: Service) -> Source:
    own = {event.type: event for event in discovery.contracts(service.name)}
    return Source(service.name, service.source, service.topic, service.handlers, own)


async def rebuild_tables(
    service: Service,
    url: Address,
    log: EventLog,
    tables: Sequence[Recomputed],
    *,
    dry_run: bool,
    differences: Path | None,
) -> bool:
    """Whether the tables are what the log says, now or already before."""
    with shown(service.name) as progress:
        rebuild = Rebuild(url, log, source_of(service), tables, progress)
        async with rebuild.prepared():
            for compared in await rebuild.compare():
                _say(service, _sentence(compared))
            await _show(service, rebuild, differences)
            if rebuild.result.differ and not dry_run:
                await rebuild.swap()
    _say(service, _end(rebuild.result, dry_run=dry_run))
    return not (dry_run and rebuild.result.differ)


def _sentence(compared: Compared) -> str:
    before = f"{compared.rows_before} rows, checksum {compared.checksum_before}"
    if not compared.different:
        return f"table {compared.table}: {before}: as the log says"
    return (
        f"table {compared.table}: {compared.different} row(s) differ; in use: {before}; by the log:"
        f" {compared.rows} rows, checksum {compared.checksum}"
    )


async def _show(service: Service, rebuild: Rebuild, file: Path | None) -> None:
    if not rebuild.result.differ:
        return
    told: dict[str, int] = {}
    out = file.open("w", encoding="utf-8") if file is not None else None
    try:
        async for difference in rebuild.differences():
            told[difference.table] = told.get(difference.table, 0) + 1
            if told[difference.table] <= _SHOWN:
                _say(service, _difference(difference))
            if out is not None:
                out.write(json.dumps(difference._asdict(), default=str) + "\n")
        if out is not None:
            out.flush()
    except OSError as error:  # a full disk; nothing was replaced yet
        stop(f"not rebuilt: cannot write {file}: {error.strerror}")
    finally:
        if out is not None:
            with suppress(OSError):
                out.close()
    for table, count in told.items():
        if count > _SHOWN:
            all_of_them = f"all are in {file}" if file else "--differences FILE writes all"
            _say(service, f"table {table}: {count - _SHOWN} more row(s) differ; {all_of_them}")


def _difference(difference: Difference) -> str:
    table, key, expected, found = difference
    if found is None:
        return f"{table} {key} is missing; the log says {expected}"
    if expected is None:
        return f"{table} {key} is in the table but not in the log: {found}"
    differs = [name for name in expected if expected[name] != found.get(name)]
    return f"{table} {key} differs: " + ", ".join(
        f"{name} is {found.get(name)!r} and must be {expected[name]!r}" for name in differs
    )


def _end(result: Rebuilt, *, dry_run: bool) -> str:
    read = f"{result.events} events read in {result.seconds:.1f} s"
    if result.swapped:
        return (
            f"{read}; the tables were replaced: readers and writers waited {result.held * 1000:.0f} ms,"
            f" consumers {result.consumers_held * 1000:.0f} ms"
        )
    if result.differ and dry_run:
        return f"{read}; nothing was changed (--dry-run)"
    return f"{read}; every table is what the log says, so nothing was changed"


def _say(service: Service, line: str) -> None:
    typer.echo(f"shop: {service.name}: {plain(' '.join(line.split()))}")
