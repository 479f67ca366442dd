"""Measures the cost of the interceptor chains: without interceptors, and with ones that do nothing."""

from benchmarks.in_turn import Both, measured
from benchmarks.load import require_wrk
from benchmarks.report import Row, Section, spread
from benchmarks.stage import Stage
from benchmarks.windows import SHORT

TITLE = "Interceptors"
HOW = """\
CPU time (user and system) of an API process for each `POST /orders`, over 64 kept-alive connections. **In turn** means: while
the load goes on, one process takes a part out and puts it back, ten times a second. Two processes, and two measurements that are seconds
apart, differ by more than such a part costs (`benchmarks/in_turn.py`). A ratio is that of two turns that follow each other, and a figure
the mean of the middle half of those of a load of ten seconds. The first process has no interceptors; the part is the code that calls them. The other
one has interceptors that do nothing, around each request, each commit and each event; they are the part. Neither has
metrics, which are an interceptor too.
"""

_BARE = {"SHOP_TELEMETRY__METRICS": "false"}
_NOTHING = {**_BARE, "SHOP_INTERCEPTORS": "benchmarks.switched:nothing"}


def run(stage: Stage) -> Section:
    require_wrk()
    none = measured(stage, "seams", _BARE, seconds=10, window=SHORT)
    nothing = measured(stage, "interceptors", _NOTHING, seconds=10, window=SHORT)
    return Section(
        TITLE,
        HOW,
        [
            _row("no interceptor, against no code that calls them", none, 1.01),
            _row("interceptors that do nothing, against none", nothing, 1.02),
        ],
    )


def _row(which: str, both: Both, most: float) -> Row:
    return Row(
        f"CPU time of an order with {which}", both.cpu, "×", at_least=most, less_is_better=True,
        measured=f"{spread(both.cpu_with, 'µs')} against {spread(both.cpu_without, 'µs')}",
    )  # fmt: skip
