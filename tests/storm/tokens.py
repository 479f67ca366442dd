"""The storm's clients are a service with a secret: they come in with tokens of the user service's.

A token is renewed long before it expires, as a careful client does it. So none that is shown has
expired, and whichever key signed it: a 401 is the shop's fault.
"""

import base64
import json
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple
from urllib.error import URLError
from urllib.request import Request, urlopen

from shop.platform import discovery

CLIENT = "storm"
SCOPES = tuple(f"{service}:{deed}" for service in discovery.names() for deed in ("read", "write"))

VALID_S = 120
"""Seconds, of a token."""
_RENEW_AFTER = 10.0
"""Seconds. So a new key is soon used by all clients."""
_LAST_SHOWN_AFTER = VALID_S - 30.0
"""Seconds. An API may take some to begin with a request."""
_PAUSE = 0.2


class _Token(NamedTuple):
    text: str
    at: float
    """When it was asked for; by the monotonic clock."""


class Tokens:
    """Used by many threads."""

    def __init__(self, ports: Sequence[int], secret: str) -> None:
        self._ports = ports
        self._basic = base64.b64encode(f"{CLIENT}:{secret}".encode()).decode()
        self._token = _Token("", -VALID_S)
        self._renewing = threading.Lock()

    def current(self) -> str:
        """Waits while there is none: the user service may be away for longer than a token is valid."""
        while True:
            age = time.monotonic() - self._token.at
            if age > _RENEW_AFTER and self._renewing.acquire(blocking=age > _LAST_SHOWN_AFTER):
                try:
                    self._renew()
                finally:
                    self._renewing.release()
            if time.monotonic() - self._token.at < _LAST_SHOWN_AFTER:
                return self._token.text
            time.sleep(_PAUSE)

    def _renew(self) -> None:
        asked_at = time.monotonic()
        if asked_at - self._token.at <= _RENEW_AFTER:
            return  # while this one waited for its turn
        headers = {"Authorization": f"Basic {self._basic}"}
        for port in self._ports:
            request = Request(
                f"http://127.0.0.1:{port}/token", b"grant_type=client_credentials", headers
            )
            # Not now: it is tried again with the next request.
            with suppress(URLError, OSError, ValueError), urlopen(request, timeout=5) as answer:
                self._token = _Token(json.load(answer)["access_token"], asked_at)
                return
