"""What a process logs, where a person reads it."""

import logging
import os
import pty
from collections.abc import Iterator

import pytest
import structlog

from shop.platform.logging import configure_logging
from tests.shop.living import OBEYED, SHOWN


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    root.handlers[:] = before
    root.setLevel(level)
    structlog.reset_defaults()


def test_what_others_wrote_does_nothing_to_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    ours, terminal = pty.openpty()
    with open(terminal, "w", encoding="utf-8") as stdout, open(ours, "rb", buffering=0) as shown:
        monkeypatch.setattr("sys.stdout", stdout)
        configure_logging("test")
        structlog.get_logger("test").error("parked", key=OBEYED, other="x\x1b[2J")
        stdout.flush()
        line = os.read(shown.fileno(), 4096).decode()
    assert SHOWN in line.replace("\\\\", "\\")
    assert "\x1b[2J" not in line
    assert "\x07" not in line and "\x9b" not in line and "\u202e" not in line
