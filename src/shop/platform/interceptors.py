"""The interceptors that a process runs with: those of the shop's own, and those that a setting names.

`SHOP_INTERCEPTORS=acme.metrics:interceptors` has every process call that function with what it is and
whose: `interceptors("api", "orders")`. So a team adds to the shop without a change in it.
"""

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

from eventspine.interceptors import Interceptor, Steps
from shop.platform.settings import NotConfigured

if TYPE_CHECKING:
    from shop.platform.http.interceptors import RouteInterceptor


class Interceptors(NamedTuple):
    """The first of each is the outermost."""

    steps: "tuple[Interceptor, ...]" = ()
    """Around the steps of the spine."""
    routes: "tuple[RouteInterceptor, ...]" = ()
    """Around the requests that an API answers."""


Factory = Callable[[str, str], Interceptors]
"""Given the part (`api`, `worker` or `parked`) and the service."""


def interceptors(names: str, part: str, service: str) -> Interceptors:
    """Of all that are named, in that order. Raises `NotConfigured`."""
    steps: list[Interceptor] = []
    routes: list[RouteInterceptor] = []
    for name in names.split(","):
        if name.strip():
            found = _factory(name.strip())(part, service)
            steps += found.steps
            routes += found.routes
    return Interceptors(tuple(steps), tuple(routes))


def steps(names: str, part: str, service: str) -> Steps:
    """For a process that answers no requests. Raises `NotConfigured`."""
    return Steps(interceptors(names, part, service).steps)


def _factory(name: str) -> Factory:
    module, _, attribute = name.partition(":")
    try:
        factory: Factory = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise NotConfigured(
            f"SHOP_INTERCEPTORS: cannot load {name}: {error}. It must be module:function"
        ) from error
    return factory
