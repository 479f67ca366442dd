"""The ports that `shop up` needs on this machine."""

import errno
import time
from collections.abc import Iterable
from dataclasses import dataclass

from devstack.supervisor import Pause, StartFailed
from shop.platform.processes.listening import PortTaken, bind


@dataclass(frozen=True)
class WantedPort:
    owner: str
    host: str
    port: int
    way_out: str
    """What a person can do if the port can't be used."""


def check_ports(wanted: Iterable[WantedPort], pause: Pause, within: float) -> None:
    """Check that each port is free, or becomes free within `within` s. Raises `StartFailed`.

    After a `kill -9` of the last `shop up`, its processes may still be ending.
    """
    owners: dict[int, str] = {}
    deadline = time.monotonic() + within
    for one in wanted:
        if twin := owners.get(one.port):
            raise StartFailed(
                f"{twin} and {one.owner} were both given port {one.port}: {one.way_out}"
            )
        owners[one.port] = one.owner
        while (error := _error(one.host, one.port)) and error.errno == errno.EADDRINUSE:
            if time.monotonic() >= deadline:
                raise StartFailed(
                    f"port {one.port}, which {one.owner} wants, is in use: stop what "
                    f"listens there, or {one.way_out}"
                )
            pause(0.05)
        if error and error.is_elsewhere:
            raise StartFailed(
                f"{one.host} is not an address of this machine ({error.reason}): set SHOP_HOST to one that is"
            )
        if error:
            raise StartFailed(
                f"port {one.port}, which {one.owner} wants, can't be used "
                f"({error.reason}): {one.way_out}"
            )


def _error(host: str, port: int) -> PortTaken | None:
    try:
        for listener in bind(host, port):
            listener.close()
    except PortTaken as error:
        return error
    return None
