"""Fetches the keys of outside issuers, in the background.

A fetch runs in a thread, so it does not block the event loop. It has a deadline and a size limit, and follows no
redirect. If it fails, or finds no usable key, the last good keys stay. A token with an unknown `kid` causes another
fetch, at most once a minute for each issuer.
"""

import asyncio
import json
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from http.client import HTTPException
from math import inf
from typing import Any
from urllib.error import HTTPError

import structlog

from eventspine.backoff import Backoff
from shop.platform.auth.settings import OutsideIssuer
from shop.platform.auth.tokens import BadKey, Issuer, key_of

_LOG = structlog.get_logger("shop.auth")

_AGAIN = 600.0
"""Seconds after which keys are fetched again. A key that its issuer has withdrawn is then dropped."""
_LEAST = 60.0
"""Seconds between two fetches."""
_WITHIN = 5.0
"""Seconds for an answer. A fetch asks twice at most."""
_MOST_BYTES = 512 * 1024
_MOST_KEYS = 100


class NoKeys(Exception):
    """The issuer returned no usable keys. The message is the reason."""


class Outside:
    """One outside issuer. `changed` is called when its keys have changed."""

    def __init__(self, said: OutsideIssuer, changed: Callable[[], None]) -> None:
        self.issuer = Issuer(
            said.issuer, said.audience, own=False, roles_claim=said.roles_claim, typ=said.typ
        )
        self._url = said.jwks_url
        self._changed = changed
        self._jwks: Mapping[str, Any] = {}
        self._wanted = asyncio.Event()
        self._began = -inf
        self._backoff = Backoff(_LOG, "auth", issuer=said.issuer)

    def want(self) -> bool:
        """Call this for a token with an unknown `kid`. Returns whether the keys are being fetched now."""
        if time.monotonic() - self._began >= _LEAST:
            self._wanted.set()
        return self._wanted.is_set()

    async def watch(self) -> None:
        """Fetch until it is cancelled."""
        while True:
            self._began = time.monotonic()
            try:
                self._take(await _in_thread(partial(_fetch, self.issuer.name, self._url)))
            except NoKeys as error:
                self._backoff.pause(error)
                pause = _LEAST
            else:
                self._backoff.over()
                pause = _AGAIN
            self._wanted.clear()
            try:
                async with asyncio.timeout(pause):
                    await self._wanted.wait()
            except TimeoutError:
                pass

    def _take(self, jwks: Mapping[str, Any]) -> None:
        if jwks == self._jwks:
            return
        keys = {}
        for kid, jwk in jwks.items():
            try:
                keys[kid] = key_of(jwk)
            except BadKey:
                continue  # for encryption, or of an unsupported kind
        if not keys:
            raise NoKeys("it has no key that could verify a token: RSA, P-256 or Ed25519")
        self.issuer.keys = keys
        self._jwks = jwks
        self._changed()


async def _in_thread(fetch: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
    """Uses no thread of asyncio's, because a process waits for those when it ends. Raises `NoKeys`."""
    loop = asyncio.get_running_loop()
    fetched: asyncio.Future[Mapping[str, Any] | NoKeys] = loop.create_future()

    def settle(outcome: Mapping[str, Any] | NoKeys) -> None:
        if not fetched.done():
            fetched.set_result(outcome)

    def run() -> None:
        outcome: Mapping[str, Any] | NoKeys
        try:
            outcome = fetch()
        except NoKeys as error:
            outcome = error
        except Exception as error:  # noqa: BLE001 - an issuer may answer anything
            outcome = NoKeys(f"its keys could not be read: {error}")
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(settle, outcome)

    threading.Thread(target=run, name="keys", daemon=True).start()
    try:
        async with asyncio.timeout(2 * _WITHIN + 1):
            outcome = await fetched
    except TimeoutError:
        raise NoKeys("its keys did not come in time") from None
    if isinstance(outcome, NoKeys):
        raise outcome
    return outcome


def _fetch(issuer: str, url: str | None) -> Mapping[str, Any]:
    """Its JWKs by `kid`. Raises `NoKeys`."""
    try:
        if url is None:
            url = _discovered(
                issuer, _get(f"{issuer.rstrip('/')}/.well-known/openid-configuration")
            )
        keys = _get(url).get("keys")
    except (OSError, HTTPException, ValueError, RecursionError) as error:
        raise NoKeys(f"its keys could not be fetched: {error}") from None
    if not isinstance(keys, list):
        raise NoKeys("its key set has no list of keys")
    found: dict[str, Any] = {}
    for jwk in keys[:_MOST_KEYS]:
        if isinstance(jwk, dict) and isinstance(jwk.get("kid"), str):
            found.setdefault(jwk["kid"], jwk)
    return found


def _discovered(issuer: str, document: Mapping[str, Any]) -> str:
    url = document.get("jwks_uri")
    if document.get("issuer") != issuer:
        raise NoKeys("its discovery document names another issuer")
    if not isinstance(url, str) or not url.startswith(("https://", "http://")):
        raise NoKeys("its discovery document has no jwks_uri")
    if issuer.startswith("https://") and not url.startswith("https://"):
        raise NoKeys("its discovery document leads from https to http")
    return url


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """None: it is an error."""


def _get(url: str) -> Mapping[str, Any]:
    """A JSON object. Raises `OSError`, `ValueError` and what `http.client` raises."""
    until = time.monotonic() + _WITHIN
    try:
        opened = urllib.request.build_opener(_NoRedirect).open(url, timeout=_WITHIN)
    except HTTPError as error:
        error.close()
        raise ValueError(f"it answers with the status {error.code}") from None
    body = b""
    with opened as answer:
        while part := answer.read1(64 * 1024):
            body += part
            if len(body) > _MOST_BYTES:
                raise ValueError(f"it answers with more than {_MOST_BYTES} bytes")
            if time.monotonic() > until:
                raise TimeoutError(f"it took more than {_WITHIN:g} s")
    found = json.loads(body)
    if not isinstance(found, dict):
        raise ValueError("it answers with no JSON object")  # noqa: TRY004 - of a value that came
    return found
