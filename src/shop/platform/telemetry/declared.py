"""All metrics of the shop: names, units, labels and meanings. Nothing else may be shown.

Names follow Prometheus' conventions: base units, `_total` for counters. Those of HTTP are OpenTelemetry's semantic
conventions. Every label has a fixed number of values: no id, path, address or text of a client is one.
docs/operations.md has the table (`metrics_table`).
"""

from typing import Literal, NamedTuple

Kind = Literal["counter", "gauge", "histogram"]


class Declared(NamedTuple):
    name: str
    kind: Kind
    description: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()
    """Of a histogram: the upper bounds of its buckets, without infinity."""
    of: str = "API"
    """The processes that have it."""


_REQUEST_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_COMMIT_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0)
_BATCH_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_COMMANDS = (1, 2, 4, 8, 16, 32, 64, 128)
_EVENTS = (1, 4, 16, 64, 256, 1024, 4096, 16384)

REQUEST_SECONDS = Declared(
    "http_server_request_duration_seconds",
    "histogram",
    "Time from a request's head to its answer, by route template, method and status. In OpenMetrics, buckets have"
    " the trace id of a sampled request as an exemplar",
    ("http_request_method", "http_route", "http_response_status_code"),
    _REQUEST_SECONDS,
)
UNROUTED = Declared(
    "shop_http_unrouted_requests_total",
    "counter",
    "Requests that no route of the service answered: unknown paths, other methods, health checks, documents",
    ("http_response_status_code",),
)
CONNECTIONS = Declared("shop_http_connections", "gauge", "Open connections of clients")
CONNECTIONS_REFUSED = Declared(
    "shop_http_connections_refused_total",
    "counter",
    "Connections that were refused, because SHOP_MAX_CONNECTIONS others were busy",
)
IDLE_CLOSED = Declared(
    "shop_http_idle_connections_closed_total",
    "counter",
    "Idle connections that were closed to make room for new ones",
)
READY = Declared(
    "shop_ready",
    "gauge",
    "1 if the process could work at its last look, a few seconds ago: /health/ready says the same",
    of="API, worker",
)
BATCH_COMMANDS = Declared(
    "shop_batch_commands",
    "histogram",
    "Commands that were executed together, by batcher. Load makes batches larger",
    ("batcher",),
    _COMMANDS,
)
BATCH_WAITING = Declared(
    "shop_batch_waiting_commands", "gauge", "Commands that wait for their batch", ("batcher",)
)
BATCH_REFUSED = Declared(
    "shop_batch_refused_commands_total",
    "counter",
    "Commands that were refused under load: `full`, too many waited already; `late`, no turn came in time",
    ("batcher", "reason"),
)
REPEATED_KEYS = Declared(
    "shop_idempotency_repeats_total",
    "counter",
    "Requests that were answered with the stored answer of an earlier request with the same idempotency key",
)
COMMIT_SECONDS = Declared(
    "shop_commit_duration_seconds",
    "histogram",
    "Time of a commit, with the write of the outbox",
    (),
    _COMMIT_SECONDS,
    of="API, worker",
)
PUBLISHED = Declared(
    "shop_events_published_total",
    "counter",
    "Events that were committed to the outbox",
    of="API, worker",
)
POOL_CONNECTIONS = Declared(
    "shop_db_pool_connections",
    "gauge",
    "Connections to PostgreSQL, by state: `used` or `idle`",
    ("state",),
    of="API, worker",
)
POOL_MOST = Declared(
    "shop_db_pool_connections_max",
    "gauge",
    "Connections that the pool may have",
    of="API, worker",
)
POOL_WAITING = Declared(
    "shop_db_pool_waiting", "gauge", "Callers that wait for a connection", of="API, worker"
)
POOL_ERRORS = Declared(
    "shop_db_pool_errors_total",
    "counter",
    "Failures of the pool: `timeout`, no connection was free in time; `connect`, PostgreSQL could not be reached or"
    " refused; `lost`, a connection was found broken",
    ("reason",),
    of="API, worker",
)
TOKENS = Declared(
    "shop_auth_tokens_total",
    "counter",
    "Access tokens: `remembered`, found among the tokens that were verified before; `verified` anew; `refused`",
    ("outcome",),
)
TOKENS_REMEMBERED = Declared(
    "shop_auth_remembered_tokens", "gauge", "Verified tokens that are remembered"
)
OUTCOMES = Declared(
    "shop_outcomes_total",
    "counter",
    "What the service counts of its own, such as logins: by action and outcome",
    ("action", "outcome"),
)

RELAY_LEADS = Declared(
    "shop_relay_leads", "gauge", "1 if this process feeds the log from the outbox", of="worker"
)
RELAYED = Declared(
    "shop_relay_events_total", "counter", "Events that the log has confirmed", of="worker"
)
RELAY_BATCH = Declared(
    "shop_relay_batch_events",
    "histogram",
    "Events that were appended together",
    (),
    _EVENTS,
    of="worker",
)
APPEND_SECONDS = Declared(
    "shop_relay_append_duration_seconds",
    "histogram",
    "Time until the log has confirmed a batch; a batch that failed is counted too",
    (),
    _BATCH_SECONDS,
    of="worker",
)
CONSUMED = Declared(
    "shop_consumer_records_total",
    "counter",
    "Records that were read and whose checkpoints have moved",
    ("consumer",),
    of="worker",
)
APPLIED = Declared(
    "shop_consumer_events_total", "counter", "Events that were applied", ("consumer",), of="worker"
)
REPEATS = Declared(
    "shop_consumer_repeats_total",
    "counter",
    "Records that were recognised as repeats, and not applied again",
    ("consumer",),
    of="worker",
)
PARKED = Declared(
    "shop_consumer_parked_total",
    "counter",
    "Records that could not be applied and were parked, without those that only wait behind another",
    ("consumer",),
    of="worker",
)
RECEIVE_SECONDS = Declared(
    "shop_consumer_batch_duration_seconds",
    "histogram",
    "Time in which a batch of records was applied and committed; a batch that failed is counted too",
    (),
    _BATCH_SECONDS,
    of="worker",
)
LOOP_IDLE = Declared(
    "shop_loop_idle_seconds",
    "gauge",
    "Time since a loop of the worker last made a turn. A loop that waits for a database makes turns too",
    ("loop",),
    of="worker",
)
DATABASE_UP = Declared(
    "shop_database_up",
    "gauge",
    "1 if the service's database answered at the last look",
    of="API, worker",
)
LOG_UP = Declared(
    "shop_event_log_up",
    "gauge",
    "1 if the log answered about this topic at the last look",
    ("topic",),
    of="worker",
)
RELAY_LED = Declared(
    "shop_outbox_led",
    "gauge",
    "1 if any worker of the service leads the relay; missing while the database is away",
    of="API, worker",
)
OUTBOX_EVENTS = Declared(
    "shop_outbox_lag_events",
    "gauge",
    "Events in the outbox that wait for the log",
    of="API, worker",
)
OUTBOX_SECONDS = Declared(
    "shop_outbox_lag_seconds",
    "gauge",
    "Age of the oldest event that waits for the log, by the database's clock; 0 if none waits",
    of="API, worker",
)
LAG_RECORDS = Declared(
    "shop_consumer_lag_records",
    "gauge",
    "Records between the service's own checkpoint and the end of the partition",
    ("consumer", "topic", "partition"),
    of="worker",
)
LAG_SECONDS = Declared(
    "shop_consumer_lag_seconds",
    "gauge",
    "Age of the oldest record that waits in the partition with the largest lag; 0 if none waits",
    ("consumer", "topic"),
    of="worker",
)
PARKED_KEYS = Declared(
    "shop_parked_keys",
    "gauge",
    "Keys whose events wait behind a parked event",
    ("consumer", "topic"),
    of="worker",
)
PARKED_RECORDS = Declared(
    "shop_parked_records",
    "gauge",
    "Parked records; 1001 means that there are more than 1000",
    ("consumer",),
    of="worker",
)
LOOKED = Declared(
    "shop_look_age_seconds",
    "gauge",
    "Time since the last look at the database and the log, from which the gauges above are",
    of="API, worker",
)
DONE = Declared(
    "shop_progress_done",
    "gauge",
    "How much of a step is done, in events or tables, by command and step",
    ("command", "step"),
    of="`shop audit`, `shop rebuild`, `shop restore`",
)
EXPECTED = Declared(
    "shop_progress_expected",
    "gauge",
    "How much there is to do in that step",
    ("command", "step"),
    of="`shop audit`, `shop rebuild`, `shop restore`",
)
SPANS_SENT = Declared(
    "shop_traces_spans_sent_total",
    "counter",
    "Spans that the collector has taken",
    of="API, worker, with a collector",
)
SPANS_DROPPED = Declared(
    "shop_traces_spans_dropped_total",
    "counter",
    "Spans that the collector never gets, by the reason",
    ("reason",),
    of="API, worker, with a collector",
)

ALL: tuple[Declared, ...] = tuple(
    value for value in list(globals().values()) if isinstance(value, Declared)
)
