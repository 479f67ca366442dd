"""Encrypts the private signing keys in the database. The key for that is only in a file.

The file has one key on each line, 32 bytes in base64: the first encrypts, all of them decrypt. To rotate
it, put the new one first, run `shop keys rewrap`, and delete the old one. The file is read each time a signing key
has changed.
"""

import secrets
from base64 import b64decode, b64encode
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from shop.platform.settings import NotConfigured

_SIZE = 32  # bytes: AES-256
_NONCE = 12

SETTING = "SHOP_AUTH__KEY_ENCRYPTION_KEY_FILE"


class Sealed(NamedTuple):
    under: str
    """The name of the key that encrypted it."""
    data: bytes


class KeyEncryption:
    """The keys that are in the file now."""

    def __init__(self, keys: list[bytes]) -> None:
        self._keys = {_name(key): key for key in keys}
        self.newest = _name(keys[0])

    def seal(self, secret: bytes, about: str) -> Sealed:
        """`about` names the data, so that encrypted data can't be exchanged for that of another row."""
        nonce = secrets.token_bytes(_NONCE)
        key = self._keys[self.newest]
        return Sealed(self.newest, nonce + AESGCM(key).encrypt(nonce, secret, about.encode()))

    def open(self, sealed: Sealed, about: str) -> bytes:
        """Raises `NotConfigured` if the key that encrypted it is not in the file."""
        key = self._keys.get(sealed.under)
        if key is None:
            raise NotConfigured(
                f"{SETTING}: the file lacks the key {sealed.under}, which encrypted the signing key {about}; "
                "add that key as another line"
            )
        try:
            return AESGCM(key).decrypt(sealed.data[:_NONCE], sealed.data[_NONCE:], about.encode())
        except InvalidTag:
            raise NotConfigured(f"the stored signing key {about} is damaged; retire it") from None


def read_key_encryption(file: Path | None) -> KeyEncryption:
    """Raises `NotConfigured`."""
    if file is None:
        raise NotConfigured(
            f"{SETTING} is not set: it names the file whose key encrypts signing keys (`shop up --auth` makes one)"
        )
    try:
        lines = file.read_text(encoding="ascii").split()
    except OSError as error:
        raise NotConfigured(f"{SETTING}: cannot read {file}: {error.strerror}") from error
    except UnicodeDecodeError:
        lines = []
    keys = [key for line in lines if (key := _decoded(line))]
    if not keys or len(keys) != len(lines):
        raise NotConfigured(
            f"{SETTING}: {file} must have 32 random bytes in base64 on each line, as `openssl rand -base64 32`"
            " gives them"
        )
    return KeyEncryption(keys)


def new_key_encryption_key() -> str:
    """A new line for the file."""
    return b64encode(secrets.token_bytes(_SIZE)).decode()


def _decoded(line: str) -> bytes | None:
    try:
        key = b64decode(line, validate=True)
    except ValueError:
        return None
    return key if len(key) == _SIZE else None


def _name(key: bytes) -> str:
    return sha256(b"key-encryption key " + key).hexdigest()[:16]
