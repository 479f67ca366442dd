"""`shop demo`: one client's requests to the shop, sent again until there is an answer."""

import http.client
import json
import random
import ssl
import time
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

_WITHIN = 20.0  # seconds for an answer
_TRIES = 8
_LONGEST_PAUSE = 3.0  # seconds between two tries


class NoAnswer(Exception):
    """It was tried often enough. The message says why the last one failed."""


class Answer(NamedTuple):
    status: int
    body: bytes
    tries: int
    """1, and one more for each time that it was sent again."""

    @property
    def json(self) -> Mapping[str, Any]:
        found = json.loads(self.body or b"{}")
        return found if isinstance(found, dict) else {}


class Client:
    """Keeps a connection to each API. Used by one thread at a time."""

    def __init__(self, urls: Mapping[str, str], token: str | None) -> None:
        self._urls = {name: urlsplit(url) for name, url in urls.items()}
        self._token = token
        self._open: dict[str, http.client.HTTPConnection] = {}

    def send(
        self,
        api: str,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        key: str | None = None,
        *,
        tries: int = _TRIES,
    ) -> Answer:
        """Send a request, and again if there is no answer or a 429 or 503. Raises `NoAnswer`.

        A request that changes something has an idempotency key, the same one each time. So it is done once, even if
        only its answer was lost.
        """
        said = {"User-Agent": "shop demo"}
        if body is not None:
            said["Content-Type"] = "application/json"
        if key is not None:
            said["Idempotency-Key"] = key
        if self._token is not None:
            said["Authorization"] = f"Bearer {self._token}"
        content = None if body is None else json.dumps(body).encode()
        why = ""
        for tried in range(1, tries + 1):
            wait = min(_LONGEST_PAUSE, 0.1 * 2**tried)
            try:
                status, found, retry_after = self._once(api, method, path, content, said)
            except (OSError, http.client.HTTPException) as error:
                why = str(error) or type(error).__name__
            else:
                if status not in {429, 503}:
                    return Answer(status, found, tried)
                why = f"{status}"
                wait = max(wait, min(_LONGEST_PAUSE, retry_after))
            if tried < tries:
                time.sleep(wait * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
        raise NoAnswer(f"{method} {self._urls[api].geturl()}{path}: {why}")

    def close(self) -> None:
        for connection in self._open.values():
            connection.close()

    def _once(
        self, api: str, method: str, path: str, content: bytes | None, headers: Mapping[str, str]
    ) -> tuple[int, bytes, float]:
        connection = self._open.pop(api, None) or self._connect(api)
        try:
            connection.request(method, self._urls[api].path + path, content, headers)
            answer = connection.getresponse()
            found = answer.read()
        except BaseException:
            connection.close()
            raise
        self._open[api] = connection
        after = answer.getheader("Retry-After", "0")
        return answer.status, found, float(after) if after.isdecimal() else 0.0

    def _connect(self, api: str) -> http.client.HTTPConnection:
        url = self._urls[api]
        host = url.hostname or ""
        if url.scheme == "https":
            return http.client.HTTPSConnection(
                host, url.port, timeout=_WITHIN, context=ssl.create_default_context()
            )
        return http.client.HTTPConnection(host, url.port, timeout=_WITHIN)
