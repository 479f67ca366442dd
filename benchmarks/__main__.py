"""`python -m benchmarks [NAME …] [--quick]`: measures, shows a table, and writes a page in docs/.

Without names it runs all benchmarks except `history` and `restore-sizes`, which take half an hour and have their own page. Only a
complete run at full length writes a page, so that all figures of a page were measured together.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from benchmarks import (
    auth,
    cdc,
    event_floors,
    first_order,
    floors,
    grown,
    history,
    interceptors,
    kafka_events,
    kafka_first_order,
    kafka_orders,
    logins,
    memory,
    one_at_a_time,
    open_console,
    orders_a_second,
    overload,
    pipeline,
    report,
    restore,
    telemetry,
    through_gateway,
)
from benchmarks.load import Missing
from benchmarks.report import Page, Section
from benchmarks.stage import Stage
from devstack.postgres import LocalPostgres

PAGES: dict[Page, dict[str, Callable[[Stage], Section]]] = {
    report.BENCHMARKS: {
        "orders": orders_a_second.run,
        "floors": floors.run,
        "interceptors": interceptors.run,
        "telemetry": telemetry.run,
        "console": open_console.run,
        "auth": auth.run,
        "logins": logins.run,
        "latency": one_at_a_time.run,
        "overload": overload.run,
        "gateway": through_gateway.run,
        "first-order": first_order.run,
        "events": pipeline.run,
        "grown": grown.run,
        "memory": memory.run,
        "kafka-events": kafka_events.run,
        "event-floors": event_floors.run,
        "kafka-first-order": kafka_first_order.run,
        "kafka-orders": kafka_orders.run,
        "cdc": cdc.run,
        "restore": restore.run,
    },
    report.HISTORY: {"history": history.run, "restore-sizes": restore.sizes},
}
BENCHMARKS = {name: run for page in PAGES.values() for name, run in page.items()}

_RAM_DISKS = {"tmpfs", "ramfs"}
_QUIET = 0.5


def main(arguments: Sequence[str]) -> int:
    options = _options(arguments)
    console = Console()
    console.print(f"benchmarks: {', '.join(options.names)}; do nothing else on this machine")
    directory = Path(tempfile.mkdtemp(prefix="eventshop-bench-", dir=options.data))
    disk = _filesystem(directory)
    if disk in _RAM_DISKS:
        console.print(
            f"{directory} is in memory ({disk}), so it is not durable: name a directory on a "
            "disk with --data", style="red",
        )  # fmt: skip
        directory.rmdir()
        return 1
    # If root runs this, PostgreSQL's own user must be able to enter.
    os.chmod(directory, 0o711)
    started = time.monotonic()
    load = os.getloadavg()[0]
    if load > _QUIET:
        console.print(
            f"other programs are running here (load {load:.1f}), so the figures will be inexact",
            style="yellow",
        )

    def say(line: str) -> None:
        console.print(f"[dim]{time.monotonic() - started:4.0f} s[/dim] {line}", highlight=False)

    sections: list[report.Section] = []
    try:
        with LocalPostgres(directory / "postgres") as postgres:
            stage = Stage(
                postgres, directory, rounds=1 if options.quick else options.rounds,
                effort=0.1 if options.quick else 1.0, say=say,
            )  # fmt: skip
            for name in options.names:
                sections.append(BENCHMARKS[name](stage))
                for row in sections[-1].rows:  # a later one may fail, or be interrupted
                    say(f"{row.what}: {report.spread(row.values, row.unit)}")
    except Missing as missing:
        console.print(f"benchmarks: {missing}", style="red")
        return 1
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    report.show(console, sections)
    page = next((page for page, whole in PAGES.items() if list(whole) == options.names), None)
    if options.quick or page is None:
        console.print("only a complete run writes its page", style="dim")
    else:
        report.write(page, sections, options.rounds, disk, load)
        console.print(f"written: {page.path}")
    failed = [row for section in sections for row in section.rows if row.missed]
    return 1 if failed and not options.quick else 0


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {', '.join(BENCHMARKS)}")
    parser.add_argument(
        "--quick", action="store_true", help="a smoke run; its figures are not valid"
    )
    parser.add_argument("--rounds", type=int, default=5, help="at least 3 (default 5)")
    parser.add_argument(
        "--data", help="a directory on the disk to measure on (default: the temporary one)"
    )
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in BENCHMARKS]
    if unknown:
        parser.error(
            f"no benchmark is called {', '.join(unknown)}; there are: {', '.join(BENCHMARKS)}"
        )
    if options.rounds < 3:
        parser.error("fewer than 3 rounds are not enough; use --quick for a smoke run")
    options.names = options.names or list(PAGES[report.BENCHMARKS])
    return options


def _filesystem(directory: Path) -> str:
    """The kind of file system, if it is known."""
    try:
        mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return "unknown"
    above = {str(path) for path in (directory.resolve(), *directory.resolve().parents)}
    found = [(len(mount[1]), mount[2]) for mount in mounts if mount[1] in above]
    return max(found)[1] if found else "unknown"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
