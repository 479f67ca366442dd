"""Who may use the console: `support` looks, `admin` acts.

Without required tokens (development), everyone with network access may do both. Otherwise a person logs in with its account
of the shop. The tokens stay in this process; the browser gets a random session id in a cookie that no script can
read and that no other site can send. A restart of the console ends its sessions.
"""

import asyncio
import json
import secrets
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.requests import Request

from shop.platform.auth.rules import ALL, Rule
from shop.platform.problems import Forbidden, Unauthenticated
from shop.platform.settings import NotConfigured, Settings
from shop.services.console.reading import Reading

COOKIE = "__Host-console"
"""The prefix has browsers refuse it without `Secure`, with a `Domain`, or for a part of the paths."""

LOOKS, ACTS = "support", "admin"

_MOST_SESSIONS = 1000
_SESSION_S = 12 * 3600
"""Seconds after a login. Then the person has to log in again."""
_SPARE_S = 30
"""A token that is valid for less is refreshed before it is used."""
_WITHIN_S = 10
_MOST_BYTES = 64 * 1024


class NotLoggedIn(Exception):
    """The request has no session; the login page follows."""


class NotAllowed(Exception):
    """The message says which role is needed."""


@dataclass(frozen=True)
class Viewer:
    """Who asks, and whether it may act."""

    name: str
    may_act: bool
    logged_in: bool = True


OPEN = Viewer("development", may_act=True, logged_in=False)
"""The caller of every request if no token is required."""


@dataclass
class _Session:
    email: str
    access_token: str
    refresh_token: str
    until: float
    """When the access token expires, by the wall clock."""
    ends: float
    """By the monotonic clock."""
    refreshing: asyncio.Lock


class Access:
    def __init__(self, settings: Settings, reading: Reading) -> None:
        self.required = settings.auth.required
        self._issuer = settings.auth.issuer.rstrip("/")
        self._sessions: dict[str, _Session] = {}
        self._gate: Any = None
        if self.required:
            # It loads what verifies tokens: ten megabytes.
            from shop.platform.auth.gate import Gate  # noqa: PLC0415

            having = [
                name
                for name, service in reading.services.items()
                if "signing_keys" in service.tables().tables
            ]
            if not having:
                raise NotConfigured(
                    "no service has the keys of tokens, so the console can verify none"
                )
            # Any of them will do. The one that issues tokens has the keys first, and its scope is in all of them.
            having.sort(key=lambda name: not settings.service(name).issues_tokens)
            self._gate = Gate(settings.auth, reading.database(having[0]))
            rule = Rule(f"{having[0]}:read", frozenset({LOOKS, ACTS}), ALL)
            self._guard = self._gate.guard(rule)

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Keys and revocations are kept up to date meanwhile."""
        if self._gate is None:
            yield
            return
        async with self._gate.watching():
            yield

    async def viewer(self, request: Request) -> Viewer:
        """Raises `NotLoggedIn`, `NotAllowed`, and the gate's problems."""
        if not self.required:
            return OPEN
        session = self._sessions.get(request.cookies.get(COOKIE, ""))
        if session is None:
            raise NotLoggedIn
        if session.ends < time.monotonic():
            raise NotLoggedIn
        async with session.refreshing:
            if session.until < time.time() + _SPARE_S:
                await self._refresh(session)
            try:
                return self._judged(session.email, session.access_token)
            except NotLoggedIn:
                # Perhaps its roles are others now: a fresh token says so. If the session has ended, there is none.
                await self._refresh(session)
        return self._judged(session.email, session.access_token)

    async def actor(self, request: Request) -> Viewer:
        """As `viewer`, for what changes something."""
        found = await self.viewer(request)
        if not found.may_act:
            raise NotAllowed(f"this needs the role {ACTS}; {found.name} may only look")
        return found

    async def log_in(self, email: str, password: str, client: str = "") -> str:
        """Opens a session; its id. Raises `NotAllowed` with the reason.

        `client` is the address of the browser: limits on wrong passwords go by it, if the service believes us.
        """
        body = json.dumps({"email": email, "password": password}).encode()
        status, answer = await self._ask("/sessions", body, "application/json", client)
        if status != 201:  # noqa: PLR2004
            raise NotAllowed(str(answer.get("detail") or answer.get("title") or "no session"))
        session = _Session(
            email=email,
            access_token=answer["access_token"],
            refresh_token=answer["refresh_token"],
            until=time.time() + answer["expires_in"],
            ends=time.monotonic() + _SESSION_S,
            refreshing=asyncio.Lock(),
        )
        try:
            self._judged(email, session.access_token)
        except NotLoggedIn as error:
            raise NotAllowed(str(error) or "the token of the new session was refused") from None
        if len(self._sessions) >= _MOST_SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        id_ = secrets.token_urlsafe(32)
        self._sessions[id_] = session
        return id_

    def log_out(self, request: Request) -> None:
        self._sessions.pop(request.cookies.get(COOKIE, ""), None)

    def _judged(self, email: str, token: str) -> Viewer:
        scope: dict[str, Any] = {"headers": [(b"authorization", b"Bearer " + token.encode())]}
        try:
            caller = self._guard(scope)
        except Unauthenticated as error:
            raise NotLoggedIn(str(error)) from None
        except Forbidden:
            raise NotAllowed(f"{email} has neither the role {LOOKS} nor {ACTS}") from None
        return Viewer(email, may_act=ACTS in caller.roles)

    async def _refresh(self, session: _Session) -> None:
        form = {"grant_type": "refresh_token", "refresh_token": session.refresh_token}
        body = urllib.parse.urlencode(form).encode()
        status, answer = await self._ask("/token", body, "application/x-www-form-urlencoded")
        if status != 200:  # noqa: PLR2004
            raise NotLoggedIn
        session.access_token = answer["access_token"]
        session.refresh_token = answer.get("refresh_token", session.refresh_token)
        session.until = time.time() + answer["expires_in"]

    async def _ask(
        self, path: str, body: bytes, kind: str, client: str = ""
    ) -> tuple[int, Mapping[str, Any]]:
        loop = asyncio.get_running_loop()
        headers = {"Content-Type": kind, "User-Agent": "eventshop-console"}
        if client:
            headers["X-Forwarded-For"] = client
        return await loop.run_in_executor(None, partial(_send, self._issuer + path, body, headers))


def _send(url: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, Mapping[str, Any]]:
    request = urllib.request.Request(url, body, dict(headers), method="POST")  # noqa: S310 - of the settings
    try:
        with urllib.request.urlopen(request, timeout=_WITHIN_S) as answer:  # noqa: S310 - of the settings
            return answer.status, _object(answer.read(_MOST_BYTES))
    except urllib.error.HTTPError as error:
        with error:
            return error.code, _object(error.read(_MOST_BYTES))
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise NotAllowed(f"the issuer of tokens at {url} can't be reached: {reason}") from None


def _object(body: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(body or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
