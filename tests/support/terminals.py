"""Real pseudo-terminals, and locales that are not UTF-8."""

import fcntl
import os
import pty
import select
import shutil
import subprocess
import sys
import termios
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Self

import pytest


@cache
def locale_in(directory: Path, language: str, charmap: str) -> str:
    """The name of a locale made here; LOCPATH has to be `directory`. Skips where none can be made."""
    name = f"{language}.{charmap}"
    if shutil.which("localedef") is None or not Path("/usr/share/i18n/charmaps").exists():
        pytest.skip("left out, since no locale can be made here (Debian: apt-get install locales)")
    subprocess.run(
        ["localedef", "-i", language, "-f", charmap, directory / name],
        capture_output=True,
        check=True,
    )
    return name


def on_a_terminal(words: Sequence[str], environment: Mapping[str, str]) -> tuple[int, bytes]:
    """The exit status of `shop WORDS`, and all that its terminal was sent."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "shop.cli", *words],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, **environment},
        start_new_session=True,
    )
    os.close(theirs)
    shown = b""
    with suppress(OSError):  # so Linux says that the other end is closed
        while said := os.read(ours, 65536):
            shown += said
    os.close(ours)
    return process.wait(60), shown


class Terminal:
    """A real pseudo-terminal with `shop WORDS` on it, while a person looks and presses keys; for a `with` block."""

    def __init__(
        self,
        words: Sequence[str],
        environment: Mapping[str, str],
        *,
        lines: int = 40,
        columns: int = 100,
    ) -> None:
        self._ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (lines, columns))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "shop.cli", *words],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            # The size is the terminal's, whatever the environment of the tests says.
            env={k: v for k, v in environment.items() if k not in {"COLUMNS", "LINES"}},
            start_new_session=True,
            # So that Ctrl-C is a signal to it.
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509
        )
        os.close(theirs)
        self.shown = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        with suppress(OSError):
            os.close(self._ours)

    def until(self, *texts: str, after: int = 0, timeout: float = 60) -> None:
        """Wait until all these texts have been shown, in what came after so many bytes."""
        deadline = time.monotonic() + timeout
        while left := [text for text in texts if text.encode() not in self.shown[after:]]:
            wait = deadline - time.monotonic()
            assert wait > 0, f"not shown within {timeout:g} s: {left}\n{self.shown.decode()}"
            if select.select([self._ours], [], [], wait)[0]:
                try:
                    self.shown += os.read(self._ours, 65536)
                except OSError:  # so Linux says that the other end is closed
                    raise AssertionError(
                        f"it ended without {left}:\n{self.shown.decode()}"
                    ) from None

    def picture(self) -> str:
        """What is on the screen now, of a program that draws all of it each time."""
        with suppress(OSError):
            while select.select([self._ours], [], [], 0)[0]:
                self.shown += os.read(self._ours, 65536)
        # The last picture that is whole: what follows a picture begins at the top again.
        *_, last, _ = (b"", b"", *self.shown.split(b"\x1b[H"))
        return last.decode(errors="replace")

    def press(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def end(self, timeout: float = 60) -> int:
        """The exit status, once it has ended. What it still shows is read."""
        with suppress(OSError):
            while said := os.read(self._ours, 65536):
                self.shown += said
        return self.process.wait(timeout)
