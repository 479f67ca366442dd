"""Makes stdout and stderr robust: closed, full, without a reader, or with any encoding."""

import io
import os
import sys
from contextlib import suppress

from shop.platform.terminal import accept_any_character


class Output(io.TextIOWrapper):
    """stdout, which stores the error if something could not be written."""

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
    """Call it first. It opens /dev/null for closed standard streams (`>&-`).

    Otherwise the next file or socket would get the file descriptor, and the output of a child would go there.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free file descriptor
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
    """Write a line to stderr, if possible."""
    with suppress(OSError):
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


def flush() -> OSError | None:
    """Flush the output. Returns the error if something could not be written, now or earlier."""
    try:
        sys.stdout.flush()
    except OSError as error:
        # Otherwise Python tries again at exit, and exits with status 120.
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return error
    return sys.stdout.lost if isinstance(sys.stdout, Output) else None
