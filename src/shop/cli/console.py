"""The console that the commands print with."""

from typing import NoReturn

from rich.console import Console as RichConsole


class Console(RichConsole):
    """A console that does not end the process with status 1 if the reader of its output closes the pipe."""

    def on_broken_pipe(self) -> NoReturn:
        raise BrokenPipeError
