"""Limits wrong passwords, so that nobody can lock another user out.

Only wrong attempts count. Each API process counts them in memory, by a monotonic clock. So no address is stored, and
setting the clock changes nothing. `docs/decisions` has the reasons.

* A device that has logged in to the account before has its own attempts. Nobody else can use them up.
* Other devices share the attempts of their address: a few for each account, and some for all accounts together.
* If an account is tried from many addresses, each of them gets only one attempt, until the others stop. So the owner
  can always log in from a new address with the right password.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address
from typing import NamedTuple

_MOST_REMEMBERED = 50_000
"""The most keys of each kind. The one with the oldest last wrong attempt is removed first."""

_LONGEST = 64
"""Characters that are kept of a text that is not an address. A proxy may pass on any text."""

_IPV6_HOME = 64
"""Bits of an IPv6 network that belongs to one customer of a provider."""


class Limit(NamedTuple):
    """So many wrong attempts at once; then one more after every so many seconds."""

    at_once: int
    seconds: float


class Rates(NamedTuple):
    device: Limit = Limit(10, 60.0)
    address_and_account: Limit = Limit(5, 60.0)
    address: Limit = Limit(50, 5.0)
    account: Limit = Limit(50, 60.0)


class Try(NamedTuple):
    """One attempt at an account. `device` is set if the account knows the device."""

    account: str
    address: str
    device: str | None


class Limits:
    def __init__(
        self, rates: Rates | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        rates = rates or Rates()
        self._device = _Counter(rates.device, clock)
        self._pair = _Counter(rates.address_and_account, clock)
        self._address = _Counter(rates.address, clock)
        self._account = _Counter(rates.account, clock)

    def wait(self, one: Try) -> float:
        """Seconds until this attempt is allowed; 0 if it is allowed now."""
        if one.device is not None:
            return self._device.wait((one.account, one.device))
        pair = (one.account, one.address)
        wait = max(self._pair.wait(pair), self._address.wait(one.address))
        if self._account.wait(one.account) > 0:
            return max(wait, self._pair.wait(pair, at_once=1))
        return wait

    def begin(self, one: Try) -> None:
        """Count the attempt as wrong, until `right` is called. Otherwise concurrent attempts would not be limited."""
        for counter, key in self._counted(one):
            counter.add(key)

    def right(self, one: Try) -> None:
        """The password was right, so the attempt does not count."""
        for counter, key in self._counted(one):
            counter.take_back(key)

    def _counted(self, one: Try) -> "list[tuple[_Counter, object]]":
        if one.device is not None:
            return [(self._device, (one.account, one.device))]
        return [
            (self._pair, (one.account, one.address)),
            (self._address, one.address),
            (self._account, one.account),
        ]


class _Counter:
    """A leaky bucket for each key. It is one number: the time when it will be empty."""

    def __init__(self, limit: Limit, clock: Callable[[], float]) -> None:
        self._limit = limit
        self._clock = clock
        self._empty_at: OrderedDict[object, float] = OrderedDict()

    def wait(self, key: object, at_once: int | None = None) -> float:
        empty_at = self._empty_at.get(key, 0.0)
        most = self._limit.at_once if at_once is None else at_once
        return max(0.0, empty_at - self._clock() - (most - 1) * self._limit.seconds)

    def add(self, key: object) -> None:
        begins = max(self._clock(), self._empty_at.pop(key, 0.0))
        self._empty_at[key] = begins + self._limit.seconds
        if len(self._empty_at) > _MOST_REMEMBERED:
            self._empty_at.popitem(last=False)

    def take_back(self, key: object) -> None:
        if key in self._empty_at:
            self._empty_at[key] -= self._limit.seconds


def network(address: str) -> str:
    """The unit that counts as one address. For IPv6 it is the network of 64 bits."""
    try:
        known = ip_address(address)
    except ValueError:
        return address[:_LONGEST]
    if isinstance(known, IPv6Address):
        if known.ipv4_mapped is not None:
            return str(known.ipv4_mapped)
        return f"{IPv6Address(int(known) >> _IPV6_HOME << _IPV6_HOME)}/{_IPV6_HOME}"
    return str(known)
