"""One event's whole way: outbox, relay, log, consumer. And that the spine walks it alone."""

import subprocess
import sys
import textwrap

from tests.support import notes
from tests.support.spine import opened, opened_log
from tests.support.waiting import eventually


async def test_an_event_published_here_is_applied_there(
    notes_url: str, copy_url: str, postgres_log_url: str
) -> None:
    async with (
        opened(notes_url) as database,
        opened(copy_url) as copy,
        opened_log(postgres_log_url, 3) as log,
    ):
        relay, consumer = notes.relay(notes_url, log), notes.consumer(copy, log)
        async with notes.Running(relay.run(), consumer.run()):
            await notes.publish(database, notes.event(1, 1), notes.event(2, 1))
            await notes.publish(database, notes.event(1, 2, "changed"))

            async def has_arrived() -> bool:
                return len(await copy.fetch("TABLE applied")) == 3

            await eventually(has_arrived)
        await notes.assert_copied(copy, notes.event(2, 1), *both(notes.event(1, 2, "changed")))


def both(changed: notes.NoteEvent) -> tuple[notes.NoteEvent, notes.NoteEvent]:
    return notes.event(changed.id, 1), changed


def test_the_spine_knows_no_shop() -> None:
    """All of it can be imported where there is none."""
    program = """
        import importlib, pkgutil, sys
        sys.modules["shop"] = None
        import eventspine
        for module in pkgutil.walk_packages(eventspine.__path__, "eventspine."):
            if "migrations" not in module.name:
                importlib.import_module(module.name)
        assert not [name for name in sys.modules if name.startswith("shop.")]
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True)
