"""Structured logs: one JSON object a line on stdout, and in files where asked for.

Readable lines instead when stdout is a terminal.
"""

import logging
import sys
from pathlib import Path
from typing import TextIO

import structlog

from shop.platform.log_files import cut
from shop.platform.terminal import plain


def configure_logging(process: str, *, level: str = "info", directory: Path | None = None) -> None:
    """Once, at the start of a process. `process` is named in every line, and names the file."""
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _named(process),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=True,
    )
    as_json = _formatter(shared, structlog.processors.JSONRenderer())
    console = _Stdout(sys.stdout)
    console.setFormatter(_formatter(shared, _for_people) if sys.stdout.isatty() else as_json)
    handlers: list[logging.Handler] = [console]
    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
        file = _File(directory / f"{process.replace(' ', '-')}.log")
        file.setFormatter(as_json)
        handlers.append(file)
    logging.basicConfig(handlers=handlers, level=level.upper(), force=True)
    # The pool repeats itself every second while a database is away; our own code says it once.
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)
    for chatty in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(chatty).handlers.clear()
        logging.getLogger(chatty).propagate = True
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)


class _Stdout(logging.StreamHandler[TextIO]):
    """A disk that is full, or a reader that has gone, is not told of at every line."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        if not isinstance(sys.exception(), OSError):
            super().handleError(record)


class _File(logging.FileHandler):
    """Appended to by every process of its kind, and cut by the one that finds it grown."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, encoding="utf-8", errors="backslashreplace")
        self._path = path

    def emit(self, record: logging.LogRecord) -> None:
        super().emit(record)
        try:
            cut(self._path)
        except OSError:
            self.handleError(record)


_console = structlog.dev.ConsoleRenderer()


def _for_people(logger: object, method: str, line: structlog.types.EventDict) -> str:
    """What others wrote, a record's key, an error's text, does nothing to the terminal."""
    shown = {
        name: "\n".join(map(plain, value.split("\n"))) if isinstance(value, str) else value
        for name, value in line.items()
    }
    return _console(logger, method, shown)


def _named(process: str) -> structlog.types.Processor:
    def add(
        _logger: object, _method: str, line: structlog.types.EventDict
    ) -> structlog.types.EventDict:
        line["process"] = process
        return line

    return add


def _formatter(
    shared: list[structlog.types.Processor], renderer: structlog.types.Processor
) -> logging.Formatter:
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            renderer,
        ],
    )
