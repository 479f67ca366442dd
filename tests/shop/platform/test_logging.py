"""What a process logs, where a person reads it."""

import os
import pty

import pytest
import structlog

from shop.platform.logging import configure_logging
from tests.support.living import OBEYED, SHOWN

pytestmark = pytest.mark.usefixtures("logging_as_it_was")


def test_control_characters_in_records_do_nothing_to_the_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
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
