"""The gate of an API process: it verifies each request's token, and applies the route's rule.

A token's signature is verified once. Then the token is found in a cache, by its SHA-256. What can change is checked at
every hit: `exp` and `nbf`, the subject's generation, the session. Only accepted tokens are cached, for a minute at
most. A change of the keys empties the cache.

In front of the cache, the tokens that were used last are found without a hash: by the end of the header, and then all
of it is compared (`docs/decisions/0033`).
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import NamedTuple, NoReturn

from starlette.types import Scope

from eventspine.database import Database
from shop.platform.auth.caller import ROLES, Caller
from shop.platform.auth.issuers import Outside
from shop.platform.auth.known import Known
from shop.platform.auth.limits import Limits
from shop.platform.auth.rules import Rule
from shop.platform.auth.settings import AuthSettings
from shop.platform.auth.tokens import Issuer, Refused, UnknownKey, verify
from shop.platform.problems import (
    Forbidden,
    InsufficientScope,
    TemporarilyUnavailable,
    TooManyRequests,
    Unauthenticated,
)

Guard = Callable[[Scope], Caller | None]
"""Returns the caller. Raises a `Problem`."""

REMEMBERED = 10_000
"""The most tokens in the cache. One more replaces the oldest."""
REMEMBERED_S = 60.0

RECENT = 2000
"""The most tokens that are found without a hash. Each is kept as a whole, with up to 8 KiB."""

_END = 32
"""Bytes at the end of a header by which it is looked for: of a signature. What has another signature is not found."""

_BEARER = b"Bearer "


class _Taken(NamedTuple):
    """A verified token. It holds all that a hit needs, so that a hit looks nothing up in `caller`."""

    header: bytes
    """The whole header, where the token is found without a hash."""
    until: float
    """When it must be verified again, by the monotonic clock."""
    caller: Caller
    subject: str
    session: str
    generation: float
    scopes: frozenset[str]
    not_before: float
    expires: float
    limits: Limits


class Gate:
    def __init__(self, settings: AuthSettings, database: Database) -> None:
        own = Issuer(settings.issuer, settings.audience, own=True)
        self.known = Known(database, own, self._forget)
        self._outside = {said.issuer: Outside(said, self._forget) for said in settings.issuers}
        self._issuers = {name: each.issuer for name, each in self._outside.items()}
        self._issuers[own.name] = own
        self._own = own
        self._taken: dict[bytes, _Taken] = {}
        self._recent: dict[bytes, _Taken] = {}
        self.counts = [0, 0, 0]
        """Counts of tokens: all, those that were verified, those that were refused."""
        self._limits = Limits(settings.requests_a_second)
        self._service_limits = Limits(settings.service_requests_a_second)

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """While the block runs, keys and revocations are kept up to date."""
        tasks = [asyncio.create_task(self.known.watch())]
        tasks += [asyncio.create_task(each.watch()) for each in self._outside.values()]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    @property
    def remembered(self) -> int:
        """The number of tokens in the cache."""
        return len(self._taken)

    def check_ready(self) -> None:
        """Raises `TemporarilyUnavailable` as long as no keys have been read."""
        if not self.known.loaded:
            raise TemporarilyUnavailable("The keys of tokens have not been read yet")

    def guard(self, rule: Rule) -> Guard | None:
        """The function that a route with this rule calls for each request; None if the route is public."""
        scope, roles = rule.scope, rule.roles
        if scope is None:
            return None
        any_role = roles == ROLES
        recent, looked_up, verified = self._recent, self._looked_up, self._verified
        known = self.known
        generations, ended = known.generations, known.ended
        monotonic, wall = time.monotonic, time.time
        counts = self.counts

        def guard(request: Scope) -> Caller:
            given = _authorization(request)
            now = monotonic()
            found = recent.get(given[-_END:])
            if found is None or found[0] != given or now >= found[1]:
                found = looked_up(given, now)
            _, _, caller, subject, session, generation, scopes, not_before, expires, limits = found
            # These may have changed since the token was verified.
            if not not_before <= wall() < expires:
                verified(_token(given), now)
            counts[0] += 1
            if generations.get(subject, -1) > generation:
                raise Unauthenticated("its subject's access has changed since it was issued")
            if session in ended:
                raise Unauthenticated("its session has ended")
            if wait := limits.take(subject, now):
                raise TooManyRequests(wait)
            if scope not in scopes:
                raise InsufficientScope(scope)
            if not any_role and not roles & caller.roles:
                raise Forbidden(f"It needs one of the roles {', '.join(sorted(roles))}")
            return caller

        return guard

    def _looked_up(self, given: bytes, now: float) -> _Taken:
        token = _token(given)
        found = self._taken.get(sha256(token).digest())
        if found is None or now >= found.until:
            found = self._verified(token, now)
        recent = self._recent
        if len(recent) >= RECENT:
            del recent[next(iter(recent))]
        found = recent[given[-_END:]] = found._replace(header=given)
        return found

    def _verified(self, token: bytes, now: float) -> _Taken:
        try:
            caller, expires, not_before = verify(token, self._issuers, time.time())
        except UnknownKey as error:
            self._count_refused()
            self._unknown_key(error)
        except Refused as error:
            self._count_refused()
            raise Unauthenticated(str(error)) from None
        self.counts[1] += 1
        if len(self._taken) >= REMEMBERED:
            del self._taken[next(iter(self._taken))]
        found = self._taken[sha256(token).digest()] = _Taken(
            b"",
            now + REMEMBERED_S,
            caller,
            caller.subject,
            caller.session,
            caller.generation,
            caller.scopes,
            not_before,
            expires,
            self._service_limits if "service" in caller.roles else self._limits,
        )
        return found

    def _count_refused(self) -> None:
        self.counts[0] += 1
        self.counts[2] += 1

    def _unknown_key(self, error: UnknownKey) -> NoReturn:
        outside = self._outside.get(error.issuer.name)
        if (outside is not None and outside.want()) or not error.issuer.keys:
            raise TemporarilyUnavailable("The keys of the token's issuer are being read")
        raise Unauthenticated(str(error)) from None

    def _forget(self) -> None:
        self._taken.clear()
        self._recent.clear()


def _authorization(request: Scope) -> bytes:
    """The header's value. Raises `Unauthenticated`."""
    given: bytes | None = None
    for name, value in request["headers"]:
        if name == b"authorization":
            if given is not None:
                raise Unauthenticated("more than one Authorization header was sent")
            given = value
    if given is None:
        raise Unauthenticated
    return given


def _token(given: bytes) -> bytes:
    """Raises `Unauthenticated`."""
    scheme = given[:7]
    if scheme != _BEARER and scheme.lower() != b"bearer ":
        raise Unauthenticated("the Authorization header is not of the form Bearer token")
    return given[7:]
