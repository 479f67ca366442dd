"""Real pseudo-terminals, and locales that are not UTF-8."""

import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

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
    return process.wait(10), shown
