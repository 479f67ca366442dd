"""`shop api`: the HTTP API of one service, or the pages of one front."""

from typing import Annotated

import typer

from shop.cli.common import (
    Name,
    front_part,
    part,
    stop,
)
from shop.platform import discovery
from shop.platform.processes.files import TooFewFiles
from shop.platform.processes.listening import PortTaken
from shop.platform.processes.several import AllEnded

Processes = Annotated[
    int,
    typer.Option(
        min=1,
        max=64,
        help="processes that share the port; each has its own limits and connections to the database",
    ),
]


def api(service: Name, processes: Processes = 1) -> None:
    """Run the HTTP API of one service, or the console."""
    from shop.platform.processes.api import run_api, run_front  # noqa: PLC0415 - only this needs uvicorn

    try:
        if service not in discovery.fronts():
            run_api(*part("api", service), processes)
        elif processes == 1:
            run_front(*front_part(service))
        else:
            stop(f"{service} runs as one process: leave --processes out")
    except PortTaken as error:
        if error.is_elsewhere:
            stop(f"{error}; set SHOP_HOST to an address of this machine")
        stop(f"{error}; choose another with SHOP_{service.upper()}__PORT")
    except AllEnded as ended:
        raise typer.Exit(ended.status) from None
    except TooFewFiles as error:
        stop(str(error))
