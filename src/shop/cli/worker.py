"""`shop worker`: the events of one service."""

from shop.cli.common import (
    Name,
    part,
    stop,
)
from shop.platform.processes.files import TooFewFiles


def worker(service: Name) -> None:
    """Run the relay and the consumer of one service."""
    from shop.platform.processes.worker import run_worker  # noqa: PLC0415 - only this needs the consumer

    chosen, settings = part("worker", service)
    try:
        run_worker(chosen, settings)
    except TooFewFiles as error:
        stop(str(error))
