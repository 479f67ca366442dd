"""Structured logs: one JSON object per line on stdout, and in files if configured.

If stdout is a terminal, the lines are formatted for people.
"""

import logging
import sys
from pathlib import Path
from typing import TextIO

import structlog

from eventspine.error_text import traceback_of
from shop.platform.log_files import cut
from shop.platform.log_ids import add_ids
from shop.platform.terminal import plain


def configure_logging(process: str, *, level: str = "info", directory: Path | None = None) -> None:
    """Call once, at the start of a process. `process` is in every line, and is the name of the file."""
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        add_ids,
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
    # While a database is unavailable, the pool logs that every second. This project logs it once.
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)
    for chatty in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(chatty).handlers.clear()
        logging.getLogger(chatty).propagate = True
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    logging.getLogger("uvicorn.access").addFilter(_without_query)


def _without_query(record: logging.LogRecord) -> bool:
    """Users are looked up by their e-mail addresses, which are in the query."""
    match record.args:
        case (client, method, str(path), *rest):
            record.args = (client, method, path.partition("?")[0], *rest)
    return True


class _Stdout(logging.StreamHandler[TextIO]):
    """Ignores errors of a full disk or a closed pipe. Otherwise each line would print a traceback."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        if not isinstance(sys.exception(), OSError):
            super().handleError(record)


class _File(logging.FileHandler):
    """All processes of one kind append to this file. The process that finds it too large cuts it."""

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
    """Escape control characters in values, such as a record's key, so that they do not affect the terminal."""
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


def _format_exception(
    _logger: object, _method: str, line: structlog.types.EventDict
) -> structlog.types.EventDict:
    match line.pop("exc_info", None):
        case (_, BaseException() as error, _) | (BaseException() as error):
            line["exception"] = traceback_of(error)
        case True if (current := sys.exception()) is not None:
            line["exception"] = traceback_of(current)
    return line


def _formatter(
    shared: list[structlog.types.Processor], renderer: structlog.types.Processor
) -> logging.Formatter:
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            _format_exception,
            renderer,
        ],
    )
