"""stdout and stderr: closed, full, without a reader, or of any encoding. None of it is a crash."""

import io
import os
import sys
from contextlib import suppress
from typing import NoReturn

from rich.console import Console as RichConsole

from shop.platform.terminal import accept_any_character


class Console(RichConsole):
    """Rich ends the process with status 1 if the reader of its output has gone."""

    def on_broken_pipe(self) -> NoReturn:
        raise BrokenPipeError


class Output(io.TextIOWrapper):
    """stdout, which remembers that something could not be written."""

    lost: OSError | None = None

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError as error:
            self.lost = error
            raise

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self.lost = error
            raise


def settle() -> None:
    """Call first. What was closed (`>&-`) leads nowhere: else the next file or socket that is opened
    would get its number, and what a child prints would land in there.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    elif sys.stdout is sys.__stdout__ and isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout = Output(
            sys.stdout.buffer,
            encoding=sys.stdout.encoding,
            line_buffering=sys.stdout.line_buffering,
            write_through=sys.stdout.write_through,
        )
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False)
    accept_any_character(sys.stdout)
    accept_any_character(sys.stderr)


def tell(line: str) -> None:
    """To stderr, if it can be written."""
    with suppress(OSError):
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


def flush() -> OSError | None:
    """Write what is still to be written. Why something could not be, now or before, if so it was."""
    try:
        sys.stdout.flush()
    except OSError as error:
        # Or Python tries again at its end, and makes it status 120.
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return error
    return sys.stdout.lost if isinstance(sys.stdout, Output) else None
