"""What is around every command: its exit status, its output, and one sentence for each error."""

import sys
import traceback
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from shop.cli import streams
from shop.cli.common import (
    NOT_DONE,
    UNFORESEEN,
    one_line,
)
from shop.platform.discovery import NotAService
from shop.platform.libpq import HEEDED, forget_libpq_variables
from shop.platform.settings import NotConfigured

INTERRUPTED = 130
NOBODY_READS = 141
"""The exit statuses that shells use for a process that SIGINT or SIGPIPE has ended."""

SERVING = ("up", "api", "worker")
"""Commands that continue if their output is closed."""


class _Raised(Exception):
    """Wraps an error. Typer would turn `cause` itself into status 1."""

    def __init__(self, cause: BaseException) -> None:
        self.cause = cause


class _Commands(TyperGroup):
    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """Parses the arguments. It also prints the help, so errors of the output can occur here."""
        try:
            return super().make_context(*args, **kwargs)
        except (OSError, SystemExit) as error:
            raise _Raised(error) from error

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (OSError, EOFError, SystemExit) as error:
            raise _Raised(error) from error


app = typer.Typer(
    cls=_Commands,
    help="An event-driven shop: a user service and an order service, kept in sync by events.",
    epilog="Exit status: 0: success; 1: the command ran and found a problem; 2: it could not run, and one"
    " sentence says why; 70: an unexpected error (a fault in eventshop); 130: Ctrl-C; 141: the reader of"
    " the output has closed it. (`up`: 1 if it could not start.)",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"eventshop {version('eventshop')}")
        raise typer.Exit


@app.callback()
def _options(
    *,
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="print the version and exit"
        ),
    ] = False,
) -> None:
    # No docstring, because Typer would print it instead of the help above.
    pass


def main() -> None:
    streams.settle()
    _ignore_libpq_variables(sys.argv[1:])
    status = _status(sys.argv[1:])
    lost = streams.flush()
    if lost and not set(SERVING) & set(sys.argv[1:2]):
        status = _not_written(lost)
    sys.exit(status)


def _ignore_libpq_variables(words: list[str]) -> None:
    ignored = forget_libpq_variables(HEEDED)
    # These variables can't affect `shop up`, which has its own databases.
    if ignored and words[:1] != ["up"]:
        streams.tell(
            f"shop: ignored: {', '.join(ignored)}; SHOP_…__DATABASE_URL says where a database is"
            " (docs/operations.md, 'PostgreSQL's own variables')"
        )


def _status(words: list[str]) -> int:
    """Run the command. Returns the exit status."""
    try:
        app(args=words)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 0
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the last resort
        return _status_after(error.cause if isinstance(error, _Raised) else error)
    return 0


def _status_after(error: BaseException) -> int:
    if isinstance(error, (NotAService, NotConfigured)):
        streams.tell(f"shop: {error}")
        return NOT_DONE
    if isinstance(
        error, SystemExit
    ):  # Rich raises it if the reader of Typer's help has closed the pipe
        return NOBODY_READS
    if said := _refused_by_kafka(error):
        streams.tell(f"shop: SHOP_KAFKA__…: {said}")
        return NOT_DONE
    if isinstance(error, OSError) and streams.flush():
        return NOT_DONE  # `main` prints the reason
    return _unforeseen(error)


def _refused_by_kafka(error: BaseException) -> str:
    """What librdkafka says of a property that it does not know, or of its value. Only Kafka's users have it loaded."""
    kafka = sys.modules.get("confluent_kafka")
    if kafka is None or not isinstance(error, kafka.KafkaException):
        return ""
    reason = error.args[0]
    return str(reason.str()) if reason.name() == "_INVALID_ARG" else ""


def _not_written(error: OSError) -> int:
    if isinstance(error, BrokenPipeError):  # `shop events | head`
        return NOBODY_READS
    streams.tell(f"shop: cannot write the output: {error.strerror}")
    return NOT_DONE


def _unforeseen(error: BaseException) -> int:
    """Report an unexpected error. The summary is the last line, because a supervisor shows that line."""
    streams.tell("".join(traceback.format_exception(error)).rstrip())
    if isinstance(error, SyntaxError):  # an unfinished edit, under `make dev`
        streams.tell(f"shop: {one_line(error)}: correct the file")
        return UNFORESEEN
    streams.tell(
        f"shop: an unexpected error, please report it: {type(error).__name__}: {one_line(error)}"
    )
    return UNFORESEEN
