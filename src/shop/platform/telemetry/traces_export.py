"""Sends spans to the collector, in a thread, so that no request ever waits for it.

What has ended waits in a queue with a limit. A collector that is away, slow or silent only fills the queue. Then
spans are dropped and counted. When the process stops, it waits for the collector for `STOP_WITHIN` seconds at most,
and not at all if the last attempt failed.
"""

import logging
import threading
import time
from collections import deque

import structlog
from opentelemetry.context import Context as OtelContext
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from eventspine.backoff import Backoff

_LOG = structlog.get_logger("shop.traces")

STOP_WITHIN = 1.0
"""Seconds that a process which stops waits for the collector at most."""

_ROOM = 4096  # spans; about 8 MB
_AT_ONCE = 256  # spans in one request to the collector
_EVERY = 1.0  # seconds
_SAY_EVERY = 60.0  # seconds


class CollectorAway(Exception):
    """The collector did not take spans."""


class Export(SpanProcessor):
    """The queue and its thread. `on_end` is called in the event loop, and never waits."""

    def __init__(self, exporter: SpanExporter, endpoint: str) -> None:
        self._exporter = exporter
        self._endpoint = endpoint
        self._ended: deque[ReadableSpan] = deque()
        self._some = threading.Event()
        self._stopping = threading.Event()
        self._fails = False
        self._counting = threading.Lock()
        """Held by the thread, and by the one that stops it, while they count. Requests do not take it."""
        self._closed = False
        self._on_its_way = 0
        self._backoff = Backoff(_LOG, "traces", endpoint=endpoint)
        self._said = 0
        self._said_at = 0.0
        self._why = _Why()
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
        self.sent = 0
        """Spans that the collector has taken."""
        self.dropped = {"queue_full": 0, "not_taken": 0, "stopped": 0, "rate_limited": 0}
        """Spans that the collector never gets, by the reason. `rate_limited` are requests that were not traced,
        because too many were in that second."""

    def start(self) -> None:
        self._thread.start()

    def on_start(self, span: Span, parent_context: OtelContext | None = None) -> None:
        pass

    def on_end(self, span: ReadableSpan) -> None:
        if len(self._ended) >= _ROOM:
            self.dropped["queue_full"] += 1
            return
        self._ended.append(span)
        if not self._some.is_set():
            self._some.set()

    def close(self) -> None:
        """Send what is left, within `STOP_WITHIN` seconds. What is not sent by then is dropped."""
        self._stopping.set()
        self._some.set()
        if self._fails:
            self._exporter.shutdown()  # ends a pause before the next attempt
        self._thread.join(STOP_WITHIN)
        if self._thread.is_alive() and not self._fails:
            self._exporter.shutdown()
        with self._counting:
            self.dropped["stopped"] += len(self._ended) + self._on_its_way
            self._closed = True
        self._say_dropped()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._some.wait()
            self._stopping.wait(_EVERY)
            self._some.clear()
            while batch := self._next():
                self._send(batch)
                # What has ended meanwhile waits for the next time: a request to the collector costs 2 ms.
                if len(self._ended) < _AT_ONCE and not self._stopping.is_set():
                    break
            if time.monotonic() - self._said_at > _SAY_EVERY:
                self._say_dropped()

    def _next(self) -> list[ReadableSpan]:
        with self._counting:
            if self._closed or (self._fails and self._stopping.is_set()):
                return []
            batch = [self._ended.popleft() for _ in range(min(len(self._ended), _AT_ONCE))]
            self._on_its_way = len(batch)
            return batch

    def _send(self, batch: list[ReadableSpan]) -> None:
        self._why.reason = "it took too long"
        is_taken = self._exporter.export(batch) is SpanExportResult.SUCCESS
        with self._counting:
            if self._closed:
                return  # they have been counted as dropped
            self._on_its_way = 0
            if is_taken:
                self.sent += len(batch)
            else:
                self.dropped["not_taken"] += len(batch)
        self._fails = not is_taken
        if is_taken:
            self._backoff.over()
        else:
            self._backoff.pause(CollectorAway(self._why.reason))

    def _say_dropped(self) -> None:
        total = sum(self.dropped.values())
        if total > self._said:
            self._said_at = time.monotonic()
            _LOG.warning("traces.dropped", count=total - self._said, **self.dropped)
            self._said = total


class _Why(logging.Handler):
    """Why the exporter did not succeed, which it says only to its logger, at each attempt.

    This project logs it once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reason = ""
        logger = logging.getLogger("opentelemetry.exporter")
        logger.handlers[:] = [self]
        logger.propagate = False

    def emit(self, record: logging.LogRecord) -> None:
        match record.args:
            case (_, int(status), reason):  # "Failed to export %s batch code: %s, reason: %s"
                self.reason = f"it answered {status} {reason}"
            case (BaseException() as error, *_) | (_, None, BaseException() as error):
                self.reason = type(error).__name__  # its text has the address of an object
            case (str(status_reason), _, float()):  # "Transient error %s …, retrying in %.2fs."
                self.reason = f"it answered {status_reason}"
