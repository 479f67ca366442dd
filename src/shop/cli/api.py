"""`shop api`: the HTTP API of one service, or the pages of one front."""

from shop.cli.common import (
    Name,
    front_part,
    part,
    stop,
)
from shop.platform import discovery
from shop.platform.processes.files import TooFewFiles
from shop.platform.processes.listening import PortTaken


def api(service: Name) -> None:
    """Run the HTTP API of one service, or the pages over them, such as the console."""
    from shop.platform.processes.api import run_api, run_front  # noqa: PLC0415 - only this needs uvicorn

    try:
        if service in discovery.fronts():
            run_front(*front_part(service))
        else:
            run_api(*part("api", service))
    except PortTaken as error:
        stop(f"{error}; choose another with SHOP_{service.upper()}__PORT")
    except TooFewFiles as error:
        stop(str(error))
