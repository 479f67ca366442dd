"""`shop up --reload`: restarts the processes that run edited code, at every save.

If a file of one service was saved, its API and worker restart. If another file of the shop or of the spine
was saved, all processes restart. If a migration was saved, the databases are migrated first.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Self

from watchfiles import Change, watch

import eventspine
import shop
from devstack.process import Process
from devstack.supervisor import StartFailed, Supervisor, say
from shop.platform import discovery

STOP_TIMEOUT = 5.0
"""Seconds that a process may take to stop before its restart."""

_LINES = 15
"""How many log lines of a process that does not start are shown."""


class Reload:
    """Watches files while its context is entered. Call `look` in the supervisor's thread."""

    def __init__(self) -> None:
        self._services = discovery.folders()
        self._saved: SimpleQueue[set[Path] | Exception] = SimpleQueue()
        self._edited: set[Path] = set()
        """Saved files whose processes have not been restarted yet."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watching files")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def look(
        self,
        supervisor: Supervisor,
        parts: Mapping[str, Sequence[Process]],
        migrate: Callable[[], None],
    ) -> None:
        """Restart the processes that run files saved since the last call. Does not wait for them.

        `parts` gives the processes of each service. `migrate` may raise `StartFailed`.
        """
        new = self._new()
        if not new:
            return
        self._edited |= new
        owners = {self._owner(path) for path in self._edited}
        names = [name for name in parts if None in owners or name in owners]
        say(f"{_listed(new)} saved; starting again: {', '.join(names)}")
        if any("migrations" in path.parts for path in self._edited):
            try:
                migrate()
            except StartFailed as error:
                say(f"{error}; the next save tries again")
                return
        self._edited.clear()
        for process in chain.from_iterable(parts[name] for name in names):
            supervisor.restart(process, timeout=STOP_TIMEOUT, failed=_says_why(process))

    def _new(self) -> set[Path]:
        new: set[Path] = set()
        with suppress(Empty):
            while True:
                found = self._saved.get_nowait()
                if isinstance(found, Exception):
                    say(f"edited files are not noticed any more: {found}")
                else:
                    new |= found
        return new

    def _watch(self) -> None:
        try:
            for changes in watch(
                *self._folders(),
                watch_filter=_is_code,
                stop_event=self._stop,
                raise_interrupt=False,
            ):
                self._saved.put({Path(path) for _, path in changes})
        except Exception as error:  # noqa: BLE001 - its kinds are the system's and the library's
            self._saved.put(error)

    def _folders(self) -> list[Path]:
        watched = [Path(package.__path__[0]) for package in (eventspine, shop)]
        for folder in self._services.values():
            # Services of other distributions, and their contracts.
            for beside in (folder.parent, folder.parent.parent / "contracts"):
                if not any(beside.is_relative_to(seen) for seen in watched):
                    watched.append(beside)
        return watched

    def _owner(self, path: Path) -> str | None:
        """The only service that uses this file; None if others may use it too."""
        for name, folder in self._services.items():
            if path.is_relative_to(folder):
                return name
        return None


def _says_why(process: Process) -> Callable[[str], None]:
    def failed(why: str) -> None:
        for line in process.log.tail()[-_LINES:]:
            say(f"  {line}")
        say(f"{process.name} does not start: {why}; the next save tries again")

    return failed


def _is_code(_change: Change, path: str) -> bool:
    """The pages of a front are of templates, too, and its process keeps what it has read."""
    return path.endswith((".py", ".html", ".css", ".js"))


def _listed(paths: set[Path]) -> str:
    first, *others = sorted(path.name for path in paths)
    return f"{first} and {len(others)} more" if others else first
