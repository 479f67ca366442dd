"""`shop certificate`: what `shop up --gateway` shows to clients on this machine."""

from typing import Annotated

import typer

from shop.cli.common import DEFAULT_DATA, DataDir, stop


def certificate(
    host: Annotated[
        list[str] | None,
        typer.Argument(help="a name or an address of this machine; may be repeated"),
    ] = None,
    data: DataDir = DEFAULT_DATA,
) -> None:
    """Make a new certificate for the gateway of `shop up`, for localhost and other names of this machine."""
    try:
        from devstack.certificate import HOSTS, VALID_FOR, Certificate  # noqa: PLC0415 - only this needs trustme
    except ModuleNotFoundError as error:
        stop(
            f"`shop certificate` runs from the project's own folder: {error.name} is not installed here"
        )

    made = Certificate(data / "gateway" / "certificate")
    hosts = [*HOSTS, *(host or [])]
    try:
        made.make(hosts)
    except ValueError as error:
        stop(f"{', '.join(host or [])}: not all of these are names or addresses of a host: {error}")
    except OSError as error:
        stop(f"the certificate can't be written: {error.strerror}: {error.filename or made.folder}")
    typer.echo(
        f"{made.chain} is for {', '.join(hosts)}, for {VALID_FOR.days} days. Clients have to trust "
        f"{made.authority}: curl --cacert {made.authority} …"
    )
