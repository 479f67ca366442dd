"""The metrics of one process, and the page that shows them."""

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder

from eventspine.interceptors import Interceptor
from shop.platform.telemetry.serving import Page

if TYPE_CHECKING:
    from shop.platform.http.interceptors import RouteInterceptor


class Metrics:
    def __init__(self) -> None:
        # A registry of its own, because a test has many apps in one process.
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    def steps(self) -> tuple[Interceptor, ...]:
        return ()

    def routes(self) -> "tuple[RouteInterceptor, ...]":
        return ()

    def page(self, accept: str) -> Page:
        """In the format that is asked for. OpenMetrics has exemplars, and the older text format has none."""
        encode, content_type = choose_encoder(accept)
        return Page(200, content_type, encode(self.registry))
