"""Hashes passwords with Argon2id, in a few threads with their own queue.

A hash takes some 35 ms of a processor and 19 MiB. So at most `threads` run at a time, at a lower priority than
everything else, and at most `max_waiting` requests wait for one: more are refused with `Overloaded`. Other
requests never wait behind them.
"""

import asyncio
import os
import secrets
import sys
import threading
from base64 import b64encode
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from math import inf
from typing import Any
from unicodedata import normalize

import structlog
from argon2 import PasswordHasher, Type
from argon2.exceptions import InvalidHashError, VerificationError, VerifyMismatchError

from eventspine.batching import Batcher

_LOG = structlog.get_logger("shop.passwords")

# OWASP's smallest for Argon2id: 19 MiB, two passes, one lane. To raise them is enough: a password that was
# hashed with lower ones is hashed again at its next login.
MEMORY_KIB = 19 * 1024
PASSES = 2
LANES = 1

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
        self._hasher = PasswordHasher(
            time_cost=passes, memory_cost=memory_kib, parallelism=LANES, type=Type.ID
        )
        # The hash of no password. To compare with it is as much work as with a real one, and it never matches.
        parts = (_base64(secrets.token_bytes(16)), _base64(secrets.token_bytes(32)))
        self._of_nobody = (
            f"$argon2id$v=19$m={memory_kib},t={passes},p={LANES}${parts[0]}${parts[1]}"
        )
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
        hashed = await self.queue.submit(lambda: self._hasher.hash(_normal(password)), deadline)
        return str(hashed)

    async def verify(self, stored: str | None, password: str, deadline: float = inf) -> bool:
        """Whether the password matches. If nothing is stored, the same work is done."""
        known = self._of_nobody if stored is None else stored
        return bool(await self.queue.submit(lambda: self._verify(known, password), deadline))

    def is_outdated(self, stored: str) -> bool:
        """Whether it was hashed with other parameters than the current ones."""
        return self._hasher.check_needs_rehash(stored)

    async def close(self) -> None:
        """Finish all accepted work."""
        await self.queue.close()
        self._pool.shutdown(wait=False)

    async def _run(self, works: Sequence[_Work]) -> list[Any]:
        loop = asyncio.get_running_loop()
        return [await loop.run_in_executor(self._pool, work) for work in works]

    def _verify(self, stored: str, password: str) -> bool:
        try:
            return self._hasher.verify(stored, _normal(password))
        except VerifyMismatchError:
            return False
        except (VerificationError, InvalidHashError):
            _LOG.error("passwords.stored_hash_rejected")
            return False


def _normal(password: str) -> str:
    """The same password, typed on another keyboard, may arrive as other code points (NIST SP 800-63B)."""
    return normalize("NFKC", password)


def _base64(value: bytes) -> str:
    return b64encode(value).decode().rstrip("=")


def _give_way() -> None:
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
