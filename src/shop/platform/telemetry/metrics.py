"""The metrics of one process: what was measured, and the page that shows it.

A request must cost as little as possible. So nothing here uses the client's counters, with their locks and labels:
the parts of the process add up plain numbers, all in one event loop, and a scrape turns them into metrics.
"""

from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate
from time import time
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

from eventspine.interceptors import Interceptor
from shop.platform.log_ids import TRACEPARENT
from shop.platform.telemetry import declared
from shop.platform.telemetry.declared import Declared
from shop.platform.telemetry.histogram import Histogram, Sample, Source
from shop.platform.telemetry.serving import Page
from shop.platform.telemetry.steps import MeasuredSteps

if TYPE_CHECKING:
    from starlette.types import Scope

    from eventspine.answers import Answer
    from shop.platform.http.interceptors import Observe


class Metrics:
    def __init__(self, part: str) -> None:
        self._part = part
        # A registry of its own, because a test has many apps in one process.
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self._sources: list[Source] = []
        self._requests: dict[tuple[str, str, int], Histogram] = {}
        self._steps = MeasuredSteps()
        self.add(self._of_requests)
        self.add(self._of_steps)
        self.registry.register(_Collector(self._sources))

    def add(self, source: Source) -> None:
        """Show what this source says, too."""
        self._sources.append(source)

    def steps(self) -> tuple[Interceptor, ...]:
        return (self._steps,)

    def observers(self) -> "tuple[Observe, ...]":
        return (_measuring(self._requests),)

    def page(self, accept: str) -> Page:
        """In the format that is asked for. OpenMetrics has exemplars, and the older text format has none."""
        encode, content_type = choose_encoder(accept)
        return Page(200, content_type, encode(self.registry))

    def _of_requests(self) -> Iterator[Sample]:
        for (method, route, status), histogram in self._requests.items():
            yield Sample(declared.REQUEST_SECONDS, (method, route, str(status)), histogram)

    def _of_steps(self) -> Iterator[Sample]:
        steps = self._steps
        yield Sample(declared.COMMIT_SECONDS, (), steps.commits)
        yield Sample(declared.PUBLISHED, (), steps.published)
        if self._part == "worker":
            yield Sample(declared.RELAYED, (), steps.relayed)
            yield Sample(declared.RELAY_BATCH, (), steps.relay_batches)
            yield Sample(declared.APPEND_SECONDS, (), steps.appends)
            yield Sample(declared.RECEIVE_SECONDS, (), steps.receives)


_SAMPLED = frozenset("13579bdf")
"""The last digit of a `traceparent` that says that its trace is recorded."""
_TRACE_ID = slice(3, 35)


def _measuring(requests: dict[tuple[str, str, int], Histogram]) -> "Observe":
    bounds = declared.REQUEST_SECONDS.bounds

    def measured(scope: "Scope", route: str, answer: "Answer", seconds: float) -> None:
        key = (scope["method"], route, answer.status)
        histogram = requests.get(key)
        if histogram is None:
            histogram = requests[key] = Histogram(bounds)
        bucket = bisect_left(bounds, seconds)
        histogram.counts[bucket] += 1
        histogram.sum += seconds
        trace = scope.get(TRACEPARENT)
        if trace is not None and trace[-1] in _SAMPLED:
            histogram.exemplars[bucket] = Exemplar({"trace_id": trace[_TRACE_ID]}, seconds, time())

    return measured


class _Collector(Collector):
    def __init__(self, sources: list[Source]) -> None:
        self._sources = sources

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        found: dict[Declared, dict[tuple[str, ...], float | Histogram]] = {}
        for source in list(self._sources):
            for of, labels, value in source():
                values = found.setdefault(of, {})
                before = values.get(labels, 0)
                if isinstance(value, Histogram) or isinstance(before, Histogram):
                    values[labels] = value
                else:
                    # Two parts with one name, such as two batchers, are shown together.
                    values[labels] = before + value
        for of in declared.ALL:
            if of in found:
                yield _family(of, found[of])


def _family(of: Declared, values: dict[tuple[str, ...], float | Histogram]) -> Metric:
    family: CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily
    if of.kind == "histogram":
        family = HistogramMetricFamily(of.name, of.description, labels=of.labels)
        for labels, value in values.items():
            assert isinstance(value, Histogram)
            family.add_metric(labels, _buckets(value), value.sum)
        return family
    kind = CounterMetricFamily if of.kind == "counter" else GaugeMetricFamily
    family = kind(of.name, of.description, labels=of.labels)
    for labels, value in values.items():
        assert not isinstance(value, Histogram)
        family.add_metric(labels, value)
    return family


def _buckets(histogram: Histogram) -> list[tuple[str, float] | tuple[str, float, Exemplar]]:
    bounds = (*map(str, map(float, histogram.bounds)), "+Inf")
    sums = accumulate(histogram.counts)
    exemplars = histogram.exemplars
    return [
        (bound, count, exemplars[number]) if number in exemplars else (bound, count)
        for number, (bound, count) in enumerate(zip(bounds, sums, strict=True))
    ]
