"""A login and a change of a password: limits first, then the hash, then the transaction."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any, NamedTuple

from eventspine.batching import Batcher
from eventspine.context import Request
from eventspine.errors import Unavailable
from shop.platform.http.peer import Asking, Network
from shop.services.users.errors import TooManyAttempts, WrongCredentials
from shop.services.users.identity.limits import Limits, Try, network
from shop.services.users.identity.passwords import Passwords
from shop.services.users.identity.refresh_tokens import opaque_hash
from shop.services.users.identity.schemas import (
    ChangePassword,
    Command,
    Credential,
    FindCredential,
    NewSession,
    OpenedSession,
    OpenSession,
    PasswordChange,
)


class _Right(NamedTuple):
    user_id: int
    password_hash: str
    password_of: datetime


class Logins(NamedTuple):
    finding: Batcher[FindCredential, Credential | None]
    passwords: Passwords
    issuing: Batcher[Request[Command], Any]
    limits: Limits
    proxies: Sequence[Network]
    counts: dict[str, int]
    """Logins by outcome: `succeeded`, `refused` for wrong credentials, `limited`."""

    def admit(self) -> None:
        """Raises `Overloaded`. Only the queue of passwords is checked, because it is the one that fills."""
        self.passwords.admit()

    async def open(self, new: NewSession, asks: Asking) -> OpenedSession:
        """Raises `WrongCredentials`. The error and the work are the same, whether or not the user exists."""
        deadline = self.finding.deadline()
        given = new.device_token
        device = None if given is None else given.get_secret_value()
        hashed = None if device is None else opaque_hash(device)
        found = await self.finding.submit(FindCredential(new.email, None, hashed), deadline)
        known_device = device if found is not None and found.knows_device else None
        password = new.password.get_secret_value()
        one = self._try(new.email.lower(), asks, known_device)
        known, stored, password_of = await self._checked(found, password, one, deadline)
        better = None
        if self.passwords.is_outdated(stored):
            # The password is right, so a full queue refuses nobody: the next login will do it.
            with suppress(Unavailable):
                better = await self.passwords.hash(password, deadline)
        command = OpenSession(known, password_of, better, asks.device(), known_device)
        opened: OpenedSession = await self.issuing.submit(Request(command, asks.context), deadline)
        self._count("succeeded")
        return opened

    async def change(self, user_id: int, change: PasswordChange, asks: Asking) -> None:
        """Raises `WrongCredentials`."""
        deadline = self.finding.deadline()
        one = self._try(f"id {user_id}", asks, None)
        new = change.new_password.get_secret_value()
        if "current_password" in change.model_fields_set:
            current = change.current_password.get_secret_value()
            found = await self.finding.submit(FindCredential(None, user_id, None), deadline)
            right = await self._checked(found, current, one, deadline)
            new_hash = await self.passwords.hash(new, deadline)
            command = ChangePassword(user_id, right.password_of, None, new_hash)
            await self.issuing.submit(Request(command, asks.context), deadline)
            return
        reset = opaque_hash(change.reset_token.get_secret_value())
        with self._counted(one):
            new_hash = await self.passwords.hash(new, deadline)
            command = ChangePassword(user_id, None, reset, new_hash)
            await self.issuing.submit(Request(command, asks.context), deadline)

    def _try(self, account: str, asks: Asking, device: str | None) -> Try:
        return Try(account, network(asks.address(self.proxies)), device)

    def _count(self, outcome: str) -> None:
        self.counts[outcome] += 1

    @contextmanager
    def _counted(self, one: Try) -> Iterator[None]:
        """Counts the attempt as wrong if the block raises `WrongCredentials`, and while it lasts."""
        wait = self.limits.wait(one)
        if wait > 0:
            self._count("limited")
            raise TooManyAttempts(wait)
        self.limits.begin(one)
        try:
            yield
        except WrongCredentials:
            raise
        except BaseException:
            # Nothing was compared.
            self.limits.right(one)
            raise
        self.limits.right(one)

    async def _checked(
        self, found: Credential | None, password: str, one: Try, deadline: float
    ) -> _Right:
        """Returns what is stored, if the password matches it."""
        stored = None if found is None else found.password_hash
        with self._counted(one):
            right = await self.passwords.verify(stored, password, deadline)
            if not right or found is None or stored is None or found.password_of is None:
                self._count("refused")
                raise WrongCredentials
        return _Right(found.user_id, stored, found.password_of)
