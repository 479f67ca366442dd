"""Hashes passwords with Argon2id, in a few threads with their own queue.

A hash takes some 12 ms of a processor and 19 MiB. So at most `threads` run at a time, at a lower priority than
everything else, and at most `max_waiting` requests wait for one: more are refused with `Overloaded`. Other
requests never wait behind them.
"""

import asyncio
import os
import re
import secrets
import sys
import threading
from base64 import b64decode, b64encode
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from hmac import compare_digest
from math import inf
from typing import Any
from unicodedata import normalize

import structlog
from nacl import bindings as sodium
from nacl.exceptions import InvalidkeyError
from nacl.exceptions import RuntimeError as Failed

from eventspine.batching import Batcher
from eventspine.errors import Unavailable

_LOG = structlog.get_logger("shop.passwords")

# OWASP's smallest for Argon2id: 19 MiB, two passes, one lane. To raise them is enough: a password that was
# hashed with lower ones is hashed again at its next login.
MEMORY_KIB = 19 * 1024
PASSES = 2

_SALT, _HASH = 16, 32
"""Bytes, of the hashes that are made here."""

# As those of libsodium and of the reference implementation are. Others may have more lanes, or another salt.
_MADE_HERE = re.compile(
    r"\$argon2id\$v=19\$m=([0-9]{1,7}),t=([0-9]{1,3}),p=1\$([A-Za-z0-9+/]{22})\$([A-Za-z0-9+/]{43})"
)
_MADE_ELSEWHERE = re.compile(
    r"\$argon2id\$v=19\$m=[0-9]+,t=[0-9]+,p=[0-9]+\$[A-Za-z0-9+/]+\$[A-Za-z0-9+/]+"
)

_NICE = 10
"""How much lower the threads' priority is than that of the process. Only on Linux, where threads have priorities."""

_Work = Callable[[], Any]


class Passwords:
    """See the module. Raises `Overloaded`, as a batcher does."""

    concurrency = 0
    """It uses no connection."""

    def __init__(
        self,
        *,
        threads: int = 1,
        max_waiting: int = 64,
        timeout: float = 10.0,
        memory_kib: int = MEMORY_KIB,
        passes: int = PASSES,
    ) -> None:
        self._passes, self._memory_kib = passes, memory_kib
        self._prefix = f"$argon2id$v=19$m={memory_kib},t={passes},p=1$"
        # The hash of no password. To compare with it is as much work as with a real one, and it never matches.
        parts = (_base64(secrets.token_bytes(size)) for size in (_SALT, _HASH))
        self._of_nobody = self._prefix + "$".join(parts)
        self._pool = ThreadPoolExecutor(
            threads, thread_name_prefix="passwords", initializer=_give_way
        )
        self.queue: Batcher[_Work, Any] = Batcher(
            self._run,
            max_batch=1,
            max_waiting=max_waiting,
            timeout=timeout,
            concurrency=threads,
            name="passwords",
        )

    def admit(self) -> None:
        """Raises `Overloaded` if there is no room for another request."""
        self.queue.admit()

    async def hash(self, password: str, deadline: float = inf) -> str:
        """The stored form of a password: the parameters, a salt and the hash."""
        return str(await self.queue.submit(lambda: self._hash(password), deadline))

    async def verify(self, stored: str | None, password: str, deadline: float = inf) -> bool:
        """Whether the password matches. If nothing is stored, the same work is done."""
        known = self._of_nobody if stored is None else stored
        return bool(await self.queue.submit(lambda: self._verify(known, password), deadline))

    def is_outdated(self, stored: str) -> bool:
        """Whether it was hashed with other parameters than the current ones."""
        return not stored.startswith(self._prefix)

    async def close(self) -> None:
        """Finish all accepted work."""
        await self.queue.close()
        self._pool.shutdown(wait=False)

    async def _run(self, works: Sequence[_Work]) -> list[Any]:
        loop = asyncio.get_running_loop()
        try:
            return [await loop.run_in_executor(self._pool, work) for work in works]
        except Failed as error:
            # Memory is the one thing that can be missing. It does not mean that the password is wrong.
            raise Unavailable(
                f"no {self._memory_kib} KiB of memory for a password's hash"
            ) from error

    def _hash(self, password: str) -> str:
        hashed = sodium.crypto_pwhash_str_alg(
            _normal(password),
            self._passes,
            self._memory_kib * 1024,
            sodium.crypto_pwhash_ALG_ARGON2ID13,
        )
        return hashed.decode()

    def _verify(self, stored: str, password: str) -> bool:
        try:
            return _matches(stored, _normal(password))
        except ValueError:
            _LOG.error("passwords.stored_hash_rejected")
            return False


def _matches(stored: str, password: bytes) -> bool:
    """Raises `ValueError` for what is not the hash of a password, `Failed` without memory."""
    parts = _MADE_HERE.fullmatch(stored)
    if parts is None:
        if _MADE_ELSEWHERE.fullmatch(stored) is None:
            raise ValueError("not Argon2id")
        try:
            return sodium.crypto_pwhash_str_verify(stored.encode(), password)
        except InvalidkeyError:
            return False
    memory_kib, passes, salt, expected = parts.groups()
    # Not `crypto_pwhash_str_verify`, which says that the password is wrong if there is no memory.
    derived = sodium.crypto_pwhash_alg(
        _HASH,
        password,
        b64decode(salt + "=="),
        int(passes),
        int(memory_kib) * 1024,
        sodium.crypto_pwhash_ALG_ARGON2ID13,
    )
    return compare_digest(_base64(derived), expected)


def _normal(password: str) -> bytes:
    """The same password, typed on another keyboard, may arrive as other code points (NIST SP 800-63B)."""
    return normalize("NFKC", password).encode()


def _base64(value: bytes) -> str:
    return b64encode(value).decode().rstrip("=")


def _give_way() -> None:
    if sys.platform == "linux":
        thread = threading.get_native_id()
        with suppress(OSError):
            # Relative, because the process may have a low priority itself.
            nice = os.getpriority(os.PRIO_PROCESS, thread) + _NICE
            os.setpriority(os.PRIO_PROCESS, thread, min(nice, 19))
