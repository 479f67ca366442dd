"""Signs access tokens with the active key. They are JWTs as in RFC 9068."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import jwt
import structlog
from cryptography.hazmat.primitives.serialization import load_der_private_key

from eventspine.outbox import Transaction
from shop.platform.auth.settings import AuthSettings
from shop.platform.settings import NotConfigured
from shop.services.users.errors import NoSigningKey
from shop.services.users.identity.access import Access
from shop.services.users.identity.key_encryption import Sealed, read_key_encryption

_LOG = structlog.get_logger("shop.signing")

_LOOK_EVERY = 1.0
"""Seconds for which a key may still sign after another one has become the active key."""

_ACTIVE = """
SELECT kid, algorithm, encrypted_under, encrypted
FROM signing_keys JOIN private_keys USING (kid) WHERE state = 'active'
"""


class Subject(NamedTuple):
    """The subject and the contents of a token."""

    sub: str
    client_id: str
    scope: str
    access: Access
    sid: UUID | None


class _Key(NamedTuple):
    kid: str
    algorithm: str
    private: Any


class Signer:
    """Keeps the active key in memory. A process has one."""

    def __init__(self, settings: AuthSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._issuer = settings.issuer
        self._audience = settings.audience
        self.expires_in = settings.access_token_s
        self._file: Path | None = settings.key_encryption_key_file
        self._clock = clock
        self._key: _Key | None = None
        self._looked_at = -_LOOK_EVERY

    async def sign(self, tx: Transaction, subject: Subject) -> str:
        """A token. Raises `NoSigningKey`."""
        key = await self._active(tx)
        now = int(time.time())
        claims: dict[str, Any] = {
            "iss": self._issuer,
            "aud": self._audience,
            "sub": subject.sub,
            "iat": now,
            "exp": now + self.expires_in,
            "jti": str(uuid4()),
            "client_id": subject.client_id,
            "scope": subject.scope,
            "roles": subject.access.roles,
            "gen": subject.access.generation,
        }
        if subject.sid is not None:
            claims["sid"] = str(subject.sid)
        return jwt.encode(
            claims, key.private, key.algorithm, headers={"typ": "at+jwt", "kid": key.kid}
        )

    async def _active(self, tx: Transaction) -> _Key:
        now = self._clock()
        if self._key is None or now - self._looked_at >= _LOOK_EVERY:
            self._key = self._read(await tx.fetch(_ACTIVE))
            self._looked_at = now
        return self._key

    def _read(self, rows: Sequence[Sequence[Any]]) -> _Key:
        if not rows:
            raise NoSigningKey("Make one with `shop keys new`")
        [(kid, algorithm, under, data)] = rows
        if self._key is not None and self._key.kid == kid:
            return self._key
        try:
            private = read_key_encryption(self._file).open(Sealed(under, data), kid)
        except NotConfigured as error:
            # The message names a file, so clients must not see it.
            _LOG.error("signing.key_rejected", kid=kid, error=str(error))
            raise NoSigningKey("The log of this service says why") from error
        return _Key(kid, algorithm, load_der_private_key(private, None))
