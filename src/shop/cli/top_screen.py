"""`shop top`: the flow as a table, once or live."""

import asyncio
import json
import os
import sys
import termios
import tty
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from shop.cli.console import Console
from shop.platform.flow import ConsumerFlow, Flow, FlowReader, ServiceFlow, State
from shop.platform.flow.model import MOST_COUNTED
from shop.platform.terminal import plain

_STYLES: dict[State, str] = {
    "well": "green",
    "behind": "yellow",
    "stuck": "red",
    "away": "bold red",
}
_MINUTE, _HOUR = 60, 3600
_MOST_BETWEEN = 1.0
"""Seconds between the two looks of a single picture, which needs two for its rates."""


async def shown_once(reader: Callable[[], FlowReader], every: float, *, as_json: bool) -> bool:
    """Print one picture. Returns whether nothing is stuck or away."""
    async with _opened(reader) as opened:
        await opened.look()
        await asyncio.sleep(min(every, _MOST_BETWEEN))
        flow = await opened.look()
    if as_json:
        print(json.dumps(flow.as_dict()), flush=True)  # noqa: T201 - it is what was asked for
    else:
        _console().print(picture(flow))
    return flow.state in {"well", "behind"}


async def watch(reader: Callable[[], FlowReader], every: float) -> None:
    """Show the flow until q is pressed, or until it is cancelled."""
    console = _console()
    with _keys() as quit_:
        async with _opened(reader) as opened:
            with Live(Text("looking…"), console=console, screen=True, auto_refresh=False) as live:
                looking = asyncio.create_task(_look(opened, every, live))
                asked = asyncio.create_task(quit_.wait())
                try:
                    await asyncio.wait([looking, asked], return_when=asyncio.FIRST_COMPLETED)
                finally:
                    # After Ctrl-C too, or a look would use connections that are being closed.
                    looking.cancel()
                    asked.cancel()
                    await asyncio.wait([looking, asked])
                if not looking.cancelled():
                    looking.result()


async def _look(reader: FlowReader, every: float, live: Live) -> None:
    async for flow in reader.looks(every):
        live.update(picture(flow), refresh=True)


@asynccontextmanager
async def _opened(reader: Callable[[], FlowReader]) -> AsyncIterator[FlowReader]:
    opened = reader()
    try:
        yield opened
    finally:
        await opened.close()


@contextmanager
def _keys() -> Iterator[asyncio.Event]:
    """An event that q sets. Without a terminal to read from, nothing sets it."""
    pressed = asyncio.Event()
    if not sys.stdin.isatty():
        yield pressed
        return
    loop = asyncio.get_running_loop()
    stdin = sys.stdin.fileno()
    before = termios.tcgetattr(stdin)

    def read() -> None:
        if os.read(stdin, 1) in {b"q", b"Q", b""}:
            pressed.set()
            loop.remove_reader(stdin)

    tty.setcbreak(stdin)  # Ctrl-C is still a signal
    loop.add_reader(stdin, read)
    try:
        yield pressed
    finally:
        loop.remove_reader(stdin)
        termios.tcsetattr(stdin, termios.TCSADRAIN, before)


def _console() -> Console:
    return Console(highlight=False, markup=False, emoji=False)


def picture(flow: Flow) -> Group:
    """What is shown of one look: a line for all, a table, and a line for each trouble."""
    title = Text.assemble(
        ("eventshop ", "bold"),
        f"{flow.at.astimezone():%H:%M:%S}  log: {flow.log_kind}  ",
        ("events flow", "green") if not flow.troubles else _state(flow.state),
    )
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("")
    table.add_column("part", no_wrap=True)
    table.add_column("state")
    for name in ("waiting", "oldest", "per second", "total"):
        table.add_column(name, justify="right", no_wrap=True)
    for service in flow.services:
        for number, row in enumerate(_rows(service)):
            table.add_row(Text(service.name if not number else "", "bold"), *row)
    troubles = [
        Text.assemble((f"{each.where}: ", _STYLES[each.state]), plain(each.says))
        for each in flow.troubles
    ]
    return Group(title, Text(), table, *([Text(), *troubles] if troubles else []))


_Row = tuple[str, Text, str, str, str, str]


def _rows(service: ServiceFlow) -> Iterator[_Row]:
    outbox = service.outbox
    if service.api is not None:
        yield ("API", _state(service.api.state), "", "", "", "")
    if service.database != "well" or outbox is None:
        yield ("database", _state(service.database), "", "", "", "")
    else:
        yield (
            "database",
            _state(service.database),
            "",
            "",
            _rate(outbox.publish_rate),
            _count(outbox.published),
        )
    if outbox is not None:
        yield (
            "relay",
            _state(outbox.state),
            _count(outbox.waiting),
            _age(outbox.waiting_seconds),
            _rate(outbox.relay_rate),
            _count(outbox.relayed),
        )
    if service.log is not None:
        yield (
            plain(f"topic {service.log.topic}"),
            _state(service.log.state),
            "",
            "",
            _rate(service.log.rate),
            _count(service.log.records),
        )
    for each in service.consumers:
        who = "" if each.consumer == service.name else f"{each.consumer} "
        yield (
            plain(f"{who}reads {each.topic}"),
            _state(each.state, _parked(each)),
            _count(each.behind),
            _age(each.behind_seconds),
            _rate(each.rate),
            _count(each.applied),
        )


def _state(state: State, more: str = "") -> Text:
    return Text(f"{state}{more}", _STYLES[state])


def _parked(consumer: ConsumerFlow) -> str:
    if not consumer.parked:
        return ""
    more = "+" if consumer.parked > MOST_COUNTED else ""
    return f", {min(consumer.parked, MOST_COUNTED)}{more} parked"


def _count(number: int | None) -> str:
    return "?" if number is None else f"{number:,}"


def _rate(rate: float | None) -> str:
    if rate is None:
        return "?"
    return f"{rate:,.1f}" if rate < 100 else f"{rate:,.0f}"  # noqa: PLR2004 - three digits are enough


def _age(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    if seconds < _MINUTE:
        return f"{seconds:.1f} s" if seconds else ""
    if seconds < _HOUR:
        return f"{seconds / _MINUTE:.0f} min"
    return f"{seconds / _HOUR:.1f} h"
