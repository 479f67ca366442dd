"""`shop api`: the HTTP API of one service."""

from shop.cli.common import (
    Name,
    part,
    stop,
)
from shop.platform.processes.files import TooFewFiles
from shop.platform.processes.listening import PortTaken


def api(service: Name) -> None:
    """Run the HTTP API of one service."""
    from shop.platform.processes.api import run_api  # noqa: PLC0415 - only this needs uvicorn

    chosen, settings = part("api", service)
    try:
        run_api(chosen, settings)
    except PortTaken as error:
        stop(f"{error}; choose another with SHOP_{service.upper()}__PORT")
    except TooFewFiles as error:
        stop(str(error))
