"""Loads the interceptors of a process: those of its telemetry, and those that a setting names.

The telemetry is the outermost, so that it sees what the others do. With `SHOP_INTERCEPTORS=acme.metrics:interceptors`, every process calls that function with its kind and its
service: `interceptors("api", "orders")`. So a team can extend the shop without changing its code.
"""

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

from eventspine.interceptors import Interceptor, chained
from eventspine.steps import Steps
from shop.platform.settings import NotConfigured
from shop.platform.telemetry.process import Telemetry

if TYPE_CHECKING:
    from shop.platform.http.interceptors import RouteInterceptor
    from shop.platform.telemetry.tracing import Tracing


class Interceptors(NamedTuple):
    """The interceptors of a process. The first of each kind is the outermost."""

    steps: "tuple[Interceptor, ...]" = ()
    """Interceptors around the steps of the spine."""
    routes: "tuple[RouteInterceptor, ...]" = ()
    """Interceptors around the requests of an API."""


Factory = Callable[[str, str], Interceptors]
"""Called with the kind of process (`api`, `worker` or `parked`) and the service."""


def interceptors(
    names: str, part: str, service: str, telemetry: "Telemetry | Tracing | None" = None
) -> Interceptors:
    """The interceptors of the telemetry, and then of all functions that are named, in that order.

    Raises `NotConfigured`.
    """
    steps: list[Interceptor] = [] if telemetry is None else [*telemetry.steps()]
    routes: list[RouteInterceptor] = []
    for name in names.split(","):
        if name.strip():
            found = _factory(name.strip())(part, service)
            steps += found.steps
            routes += found.routes
    return Interceptors(tuple(steps), tuple(routes))


def steps(
    names: str, part: str, service: str, telemetry: "Telemetry | Tracing | None" = None
) -> Steps:
    """The interceptors of a process without an API. Raises `NotConfigured`."""
    return chained(interceptors(names, part, service, telemetry).steps)


def _factory(name: str) -> Factory:
    module, _, attribute = name.partition(":")
    try:
        factory: Factory = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise NotConfigured(
            f"SHOP_INTERCEPTORS: cannot load {name}: {error}. It must be module:function"
        ) from error
    return factory
