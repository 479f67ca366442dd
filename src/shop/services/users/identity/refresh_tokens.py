"""Refresh tokens. They are opaque, and only their hashes are stored.

A token has three parts: the id of the session, a secret that all tokens of the session share (the family), and its
own secret. So a token with the right family that is not the newest one was issued earlier, and no list of old tokens
is needed. Without a token of the family, nobody can make the session look stolen.
"""

import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import sha256
from typing import NamedTuple
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

_PREFIX = "eventshop_rt_"
"""So that programs that look for leaked secrets can find it."""

_ID, _FAMILY, _OWN = 16, 16, 32  # bytes
_NONCE = 12


class RefreshToken(NamedTuple):
    session_id: UUID
    family: bytes
    own: bytes

    def text(self) -> str:
        return _PREFIX + _text(self.session_id.bytes + self.family + self.own)

    def family_hash(self) -> bytes:
        return sha256(b"family " + self.family).digest()

    def hash(self) -> bytes:
        return sha256(b"token " + self._bytes()).digest()

    def next(self) -> "RefreshToken":
        return self._replace(own=secrets.token_bytes(_OWN))

    def seal(self, answer: bytes) -> bytes:
        """Encrypt data so that only the holder of this token can read it."""
        nonce = secrets.token_bytes(_NONCE)
        return nonce + AESGCM(self._key()).encrypt(nonce, answer, self.hash())

    def open(self, sealed: bytes) -> bytes:
        """Raises `ValueError` for data that was not encrypted with this token."""
        try:
            return AESGCM(self._key()).decrypt(sealed[:_NONCE], sealed[_NONCE:], self.hash())
        except InvalidTag:
            raise ValueError("another token has sealed it") from None

    def _key(self) -> bytes:
        derived = HKDF(SHA256(), 32, salt=None, info=b"eventshop refresh answer")
        return derived.derive(self._bytes())

    def _bytes(self) -> bytes:
        return self.session_id.bytes + self.family + self.own


def first(session_id: UUID) -> RefreshToken:
    return RefreshToken(session_id, secrets.token_bytes(_FAMILY), secrets.token_bytes(_OWN))


def parse(text: str) -> RefreshToken | None:
    """None for a text that can't be a refresh token."""
    try:
        value = urlsafe_b64decode(text.removeprefix(_PREFIX) + "==")
    except ValueError:
        return None
    if not text.startswith(_PREFIX) or len(value) != _ID + _FAMILY + _OWN:
        return None
    token = RefreshToken(
        UUID(bytes=value[:_ID]), value[_ID : _ID + _FAMILY], value[_ID + _FAMILY :]
    )
    return token if token.text() == text else None


def opaque(kind: str) -> str:
    """A secret that is handed out once: 32 random bytes."""
    return f"eventshop_{kind}_{_text(secrets.token_bytes(_OWN))}"


def opaque_hash(text: str) -> bytes:
    """The hash of a secret with 256 random bits. Nobody can guess one, so a fast hash is enough."""
    return sha256(text.encode()).digest()


def _text(value: bytes) -> str:
    return urlsafe_b64encode(value).decode().rstrip("=")
