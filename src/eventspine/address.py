"""Where a database is, and with which password.

A password that is rotated changes while processes run, and for a while two of them are in use. So an
address may be a function, which is asked at every new connection for the URLs to try, the first first.
"""

from collections.abc import Callable, Sequence

Address = str | Callable[[], Sequence[str]]
"""A URL, or what gives URLs of the same database, at least one."""


def urls(address: Address) -> Sequence[str]:
    """Those to try now."""
    return [address] if isinstance(address, str) else address()
