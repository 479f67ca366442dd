"""The REST interface of Kafka Connect, as far as `shop cdc` needs it."""

import json
import time
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import Request, urlopen

_ANSWERS_WITHIN = 10.0  # seconds
_DONE_WITHIN = 60.0  # seconds; a connector that waits for a database takes its time to stop
_AGAIN_AFTER = 0.2


class ConnectAway(Exception):
    """Kafka Connect does not answer, or refuses. The message is one sentence."""


class Connector(NamedTuple):
    """What Connect says of a connector. A connector may be RUNNING while its task has failed, or is not there."""

    state: str
    tasks: tuple[str, ...]
    trace: str
    """Why a task failed: the first line of the last cause."""

    @property
    def runs(self) -> bool:
        return self.state == "RUNNING" and bool(self.tasks) and set(self.tasks) == {"RUNNING"}


class Connect:
    def __init__(self, url: str) -> None:
        if not url.startswith(("http://", "https://")):
            raise ConnectAway(f"SHOP_CONNECT_URL is {url!r}, and not like http://host:8083")
        self._url = url.rstrip("/")

    def find(self, name: str) -> Connector | None:
        """None if Connect does not know this connector."""
        status, found = self._ask("GET", f"/connectors/{quote(name)}/status")
        if status == HTTPStatus.NOT_FOUND:
            return None
        tasks = found.get("tasks", [])
        traces = [task["trace"] for task in tasks if task.get("trace")]
        return Connector(
            found["connector"]["state"],
            tuple(task["state"] for task in tasks),
            _cause(traces[0]) if traces else "",
        )

    def stop(self, name: str) -> None:
        """Stop the connector, and wait until its tasks have ended."""
        self._ask("PUT", f"/connectors/{quote(name)}/stop")
        self._wait(name, lambda found: found.state == "STOPPED" and not found.tasks, "stop")

    def forget_offsets(self, name: str) -> None:
        """Delete what Connect has saved of how far a stopped connector has read."""
        self._repeat("DELETE", f"/connectors/{quote(name)}/offsets")

    def start(self, name: str) -> None:
        """Start a stopped connector, or one whose task has failed. Does not wait."""
        self._repeat("PUT", f"/connectors/{quote(name)}/resume")
        self._repeat("POST", f"/connectors/{quote(name)}/restart?includeTasks=true&onlyFailed=true")

    def _wait(self, name: str, done: Any, verb: str) -> None:
        deadline = time.monotonic() + _DONE_WITHIN
        while (found := self.find(name)) is not None and not done(found):
            if time.monotonic() > deadline:
                raise ConnectAway(f"connector {name} did not {verb} in {_DONE_WITHIN:g} s")
            time.sleep(_AGAIN_AFTER)

    def _repeat(self, method: str, path: str) -> None:
        """Ask again while Connect moves connectors around (409)."""
        deadline = time.monotonic() + _DONE_WITHIN
        while self._ask(method, path)[0] == HTTPStatus.CONFLICT:
            if time.monotonic() > deadline:
                raise ConnectAway(f"Kafka Connect refuses {method} {path}: it is rebalancing")
            time.sleep(_AGAIN_AFTER)

    def _ask(self, method: str, path: str) -> tuple[int, Any]:
        request = Request(self._url + path, method=method)  # noqa: S310 - http or https, by __init__
        try:
            with urlopen(request, timeout=_ANSWERS_WITHIN) as answer:  # noqa: S310 - likewise
                return answer.status, json.loads(answer.read() or b"null")
        except HTTPError as error:
            if error.code in {HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT}:
                return error.code, None
            why = error.read().decode(errors="replace")[:300]
            raise ConnectAway(f"Kafka Connect refuses {method} {path}: {why}") from error
        except (URLError, OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise ConnectAway(f"Kafka Connect at {self._url} does not answer: {reason}") from error


def _cause(trace: str) -> str:
    causes = [line for line in trace.splitlines() if line.startswith("Caused by: ")]
    return (causes[-1].removeprefix("Caused by: ") if causes else trace.splitlines()[0])[:500]
