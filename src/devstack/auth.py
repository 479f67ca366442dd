"""What `shop up --auth` adds: tokens are required, and the user service has a key to sign them."""

import os
import secrets
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path

from devstack.files import make_folder

_ISSUER, _FILE = "SHOP_AUTH__ISSUER", "SHOP_AUTH__KEY_ENCRYPTION_KEY_FILE"

FIRST_KEY = ("keys", "new", "--if-none")
"""The command that makes a signing key, if there is none."""


def auth_settings(data: Path, issuer: str, given: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Settings for all processes; what is set in the environment wins. Makes the key-encryption key."""
    file = Path(given.get(_FILE) or data / "keys" / "key-encryption-key").absolute()
    if not file.exists() and _FILE not in given:
        make_folder(file.parent, 0o700)
        _write_secret(file, b64encode(secrets.token_bytes(32)).decode() + "\n")
    return {
        "SHOP_AUTH__REQUIRED": "true",
        _ISSUER: given.get(_ISSUER) or issuer,
        _FILE: str(file),
    }


def _write_secret(file: Path, text: str) -> None:
    """There as a whole or not at all, and never for others to read."""
    unfinished = file.with_name(f"{file.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    unfinished.replace(file)
