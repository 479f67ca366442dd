"""`python -m tests.storm`: a storm over a shop of its own; exit status 0 only if nothing was wrong."""

import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, get_args

import typer
from rich.console import Console

from tests.storm import mutations
from tests.storm.stage import LogKind, Options, Stage
from tests.storm.storm import Plan, run, told

app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)


@app.command()
def main(
    seed: Annotated[int, typer.Option(help="of everything that is drawn; another each time")] = -1,
    cycles: Annotated[int, typer.Option(min=1)] = 30,
    log: Annotated[
        str, typer.Option(help="kafka, postgres, or cdc: kafka fed by Debezium")
    ] = "kafka",
    only: Annotated[str, typer.Option(help="names of faults, with commas between")] = "",
    mutation: Annotated[str, typer.Option(help="what to take away: tests/storm/mutations")] = "",
    longest: Annotated[float, typer.Option(help="seconds that anything is held, at most")] = 40.0,
    keep: Annotated[bool, typer.Option(help="keep the shop's data, whatever comes of it")] = False,
) -> None:
    """Strike a running shop, with faults drawn from the seed, and judge what became of it."""
    console = Console(highlight=False, soft_wrap=True, markup=False)
    seed = random.randrange(1_000_000) if seed < 0 else seed
    if mutation and not only:
        only = ",".join(mutations.load(mutation).FAULTS)
    if log not in get_args(LogKind):
        raise typer.BadParameter(f"--log is one of {', '.join(get_args(LogKind))}")
    chosen: LogKind = log  # type: ignore[assignment]
    again = f"python -m tests.storm --seed {seed} --cycles {cycles} --log {chosen}"
    again += f" --longest {longest:g}" if longest != 40.0 else ""
    again += f" --only {only}" if only else ""
    again += f" --mutation {mutation}" if mutation else ""
    console.print(f"seed {seed}; again: {again}")
    plan = Plan(seed, cycles, only=[name for name in only.split(",") if name], longest=longest)
    # Asked to stop, it takes the shop down with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    directory = Path(tempfile.mkdtemp(prefix="eventshop-storm-"))
    directory.chmod(0o711)
    began = time.monotonic()
    kept = True
    try:
        with Stage(directory, Options(chosen, mutation)) as stage:
            console.print(f"the shop is ready after {time.monotonic() - began:.0f} s")
            result = run(plan, stage, console.print)
            (directory / "supervisor.log").write_text("\n".join(stage.said) + "\n")
        kept = keep or bool(result.faults)
    finally:
        if kept:
            console.print(f"logs: {directory}")
        else:
            shutil.rmtree(directory, ignore_errors=True)
    console.print(told(result, time.monotonic() - began))
    if result.faults:
        console.print(f"again: {again}")
        sys.exit(1)


if __name__ == "__main__":
    app()
