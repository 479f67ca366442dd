"""A certificate for the gateway on this machine, and the authority that signed it, by trustme."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme
from cryptography import x509

from devstack.files import make_folder

HOSTS = ("localhost", "127.0.0.1", "::1")
VALID_FOR = timedelta(days=365)
RENEWED_BEFORE = timedelta(days=30)


@dataclass(frozen=True)
class Certificate:
    """Where it is."""

    folder: Path

    @property
    def authority(self) -> Path:
        """What a client has to trust."""
        return self.folder / "ca.pem"

    @property
    def chain(self) -> Path:
        return self.folder / "certificate.pem"

    @property
    def key(self) -> Path:
        """Readable for its owner alone."""
        return self.folder / "key.pem"

    def is_good(self) -> bool:
        """Whether there is one, for another month at least."""
        try:
            until = self._read().not_valid_after_utc
            return self.key.stat().st_size > 0 and until > datetime.now(UTC) + RENEWED_BEFORE
        except (OSError, ValueError):
            return False

    def names(self) -> list[str]:
        """The names of hosts that it is for; addresses are not among them."""
        kind = x509.SubjectAlternativeName
        return self._read().extensions.get_extension_for_class(kind).value.get_values_for_type(
            x509.DNSName
        )  # fmt: skip

    def _read(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.chain.read_bytes())

    def make(self, hosts: Sequence[str] = HOSTS) -> None:
        """A new one. The authority's key is not kept: nobody can sign a second certificate with it."""
        authority = trustme.CA(organization_name="eventshop, on this machine only")
        leaf = authority.issue_cert(*hosts, not_after=datetime.now(UTC) + VALID_FOR)
        make_folder(self.folder)
        _write(self.authority, authority.cert_pem.bytes(), 0o644)
        _write(self.chain, b"".join(part.bytes() for part in leaf.cert_chain_pems), 0o644)
        _write(self.key, leaf.private_key_pem.bytes(), 0o600)


def _write(path: Path, content: bytes, mode: int) -> None:
    """The key is never readable for others, not even while it is written."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
