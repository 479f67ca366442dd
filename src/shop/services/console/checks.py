"""Audits, rebuilds and restores that somebody starts on a page: the commands of the command line, in processes of their
own. So they do exactly what the commands do, and one that needs all memory does not hurt the console.

The last ones are kept: as files in the folder `console` of SHOP_DATA_DIR, or, without that, until this process ends.
"""

import asyncio
import json
import os
import re
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self

import structlog

_LOG = structlog.get_logger("shop.console")

_KEPT = 30
_AT_ONCE = 2
_MOST_BYTES = 1024 * 1024
"""Of what a command prints. The rest is dropped, and that is said."""
_LONGEST_LINE = 4 * 1024 * 1024
_LOOKS_EVERY_S = 0.3
_PROGRESS = "progress: "
_ID = re.compile(r"[0-9TZ-]{10,32}-[0-9a-f]{6}")

Kind = Literal["audit", "rebuild", "restore"]
State = Literal["runs", "holds", "differs", "failed", "stopped"]
_STATES: Mapping[int, State] = {0: "holds", 1: "differs", 130: "stopped"}
_INTERRUPTED = 130


class NotNow(Exception):
    """It can't be started. The message says why."""


@dataclass
class Progress:
    what: str
    done: int
    total: int


@dataclass
class Check:
    id: str
    kind: Kind
    about: str
    """What it is of, for a person: a service, a table."""
    words: list[str]
    """The command, as one would type it."""
    by: str
    began: str
    """ISO 8601, as `ended`."""
    ended: str = ""
    status: int | None = None
    """The exit status."""
    out: str = ""
    said: str = ""
    """What it wrote to stderr, without the progress."""
    cut: bool = False
    progress: list[Progress] = field(default_factory=list)
    changes: int = 0
    """Rises with everything that is new, so that a page knows when to look again."""

    @property
    def state(self) -> State:
        return "runs" if self.status is None else _STATES.get(self.status, "failed")

    @property
    def began_at(self) -> datetime:
        return datetime.fromisoformat(self.began)

    @property
    def took_ms(self) -> float | None:
        if not self.ended:
            return None
        return (datetime.fromisoformat(self.ended) - self.began_at).total_seconds() * 1000

    @property
    def verdict(self) -> Mapping[str, Any] | None:
        """What an audit found; None if it is no audit, or did not get so far."""
        if self.kind != "audit" or not self.out:
            return None
        try:
            found = json.loads(self.out)
        except ValueError:
            return None
        return found if isinstance(found, dict) else None

    @classmethod
    def read(cls, text: str) -> Self:
        """Raises ValueError and TypeError."""
        found = json.loads(text)
        found["progress"] = [Progress(**each) for each in found["progress"]]
        return cls(**found)


class Checks:
    """All checks: those that run, and the last that ended."""

    def __init__(self, folder: Path | None = None) -> None:
        given = os.environ.get("SHOP_DATA_DIR")
        self._folder = folder or (Path(given) / "console" if given else None)
        self._known: dict[str, Check] = {}
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopped: set[str] = set()

    @property
    def kept(self) -> bool:
        """Whether they are still there after a restart."""
        return self._folder is not None

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Ends, at its end, what still runs. A check only reads, so nothing is half done."""
        self._load()
        yield
        for id_ in list(self._processes):
            self.stop(id_)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5)
        for process in self._processes.values():
            with suppress(ProcessLookupError):
                process.kill()

    def latest(self) -> list[Check]:
        """The newest first."""
        return sorted(self._known.values(), key=lambda each: each.began, reverse=True)

    def get(self, id_: str) -> Check | None:
        return self._known.get(id_)

    def start(self, kind: Kind, about: str, words: Sequence[str], by: str) -> Check:
        """Raises `NotNow`."""
        running = [each for each in self._known.values() if each.state == "runs"]
        if any(each.words == list(words) for each in running):
            raise NotNow("The same check runs already: look at that one.")
        if len(running) >= _AT_ONCE:
            raise NotNow(f"{_AT_ONCE} checks run already: wait for one, or stop it.")
        now = datetime.now(UTC)
        id_ = f"{now:%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
        check = Check(id_, kind, about, list(words), by, now.isoformat())
        self._known[id_] = check
        task = asyncio.create_task(self._run(check))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return check

    def stop(self, id_: str) -> None:
        process = self._processes.get(id_)
        if process is not None:
            self._stopped.add(id_)
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGINT)

    async def looks(self, check: Check) -> AsyncIterator[bool]:
        """True each time that there is something new, and once it has ended; otherwise False, as a sign of life."""
        shown = -1
        while check.state == "runs":
            yield check.changes != shown
            shown = check.changes
            await asyncio.sleep(_LOOKS_EVERY_S)
        yield True

    async def _run(self, check: Check) -> None:
        _LOG.info("console.check_started", check=check.id, command=" ".join(check.words))
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "shop.cli", *check.words, "--data", "/nowhere"),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env={**os.environ, "EVENTSHOP_PROGRESS": "lines", "NO_COLOR": "1"},
                limit=_LONGEST_LINE,
                start_new_session=True,
            )
            self._processes[check.id] = process
            assert process.stdout is not None
            assert process.stderr is not None
            await asyncio.gather(
                self._read(check, process.stdout), self._hear(check, process.stderr)
            )
            status = await process.wait()
        except OSError as error:
            check.said += f"it could not be started: {error}\n"
            status = 2
        finally:
            self._processes.pop(check.id, None)
        check.ended = datetime.now(UTC).isoformat()
        if check.id in self._stopped and status != 0:
            # While Python still starts, it answers the signal with a traceback.
            check.status, check.said = _INTERRUPTED, ""
        else:
            check.status = status
        _LOG.info("console.check_ended", check=check.id, status=check.status)
        self._forget()
        await asyncio.to_thread(self._keep, check)

    async def _read(self, check: Check, stream: asyncio.StreamReader) -> None:
        while part := await stream.read(65536):
            if len(check.out) > _MOST_BYTES:
                check.cut = True
                continue
            check.out += part.decode(errors="backslashreplace")
            check.changes += 1

    async def _hear(self, check: Check, stream: asyncio.StreamReader) -> None:
        async for line in stream:
            text = line.decode(errors="backslashreplace")
            check.changes += 1
            if text.startswith(_PROGRESS):
                with suppress(ValueError, TypeError):
                    _note(check, Progress(**json.loads(text.removeprefix(_PROGRESS))))
            elif len(check.said) <= _MOST_BYTES:
                check.said += text

    def _load(self) -> None:
        if self._folder is None or not self._folder.is_dir():
            return
        for path in self._folder.glob("*.json"):
            if not _ID.fullmatch(path.stem):
                continue
            # A file that an older release wrote, or that is damaged, must not stop the console.
            with suppress(OSError, ValueError, TypeError, KeyError):
                check = Check.read(path.read_text(encoding="utf-8"))
                self._known[check.id] = check
        self._forget()

    def _keep(self, check: Check) -> None:
        if self._folder is None:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            unfinished = self._folder / f".{check.id}.unfinished"
            unfinished.write_text(json.dumps(asdict(check)), encoding="utf-8")
            unfinished.replace(self._folder / f"{check.id}.json")
        except OSError as error:
            _LOG.error("console.check_not_saved", check=check.id, reason=str(error))

    def _forget(self) -> None:
        """All but the last ones."""
        for old in [each for each in self.latest() if each.state != "runs"][_KEPT:]:
            del self._known[old.id]
            if self._folder is not None:
                with suppress(OSError):
                    (self._folder / f"{old.id}.json").unlink()


def _note(check: Check, new: Progress) -> None:
    for each in check.progress:
        if each.what == new.what:
            each.done, each.total = new.done, new.total
            return
    check.progress.append(new)
