"""Makes a certificate for the gateway on this machine, and the authority that signs it, with trustme."""

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
    """The folder of the certificate."""

    folder: Path

    @property
    def authority(self) -> Path:
        """The authority's certificate, which a client has to trust."""
        return self.folder / "ca.pem"

    @property
    def chain(self) -> Path:
        return self.folder / "certificate.pem"

    @property
    def key(self) -> Path:
        """The private key. Only its owner can read it."""
        return self.folder / "key.pem"

    def is_good(self) -> bool:
        """Whether there is a certificate that is valid for another month."""
        try:
            until = self._read().not_valid_after_utc
            return self.key.stat().st_size > 0 and until > datetime.now(UTC) + RENEWED_BEFORE
        except (OSError, ValueError):
            return False

    def names(self) -> list[str]:
        """The host names that it is for, without addresses."""
        kind = x509.SubjectAlternativeName
        return self._read().extensions.get_extension_for_class(kind).value.get_values_for_type(
            x509.DNSName
        )  # fmt: skip

    def _read(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.chain.read_bytes())

    def make(self, hosts: Sequence[str] = HOSTS) -> None:
        """Make a new certificate. The authority's key is not kept, so nobody can sign another certificate with it."""
        authority = trustme.CA(organization_name="eventshop, on this machine only")
        leaf = authority.issue_cert(*hosts, not_after=datetime.now(UTC) + VALID_FOR)
        make_folder(self.folder)
        _write(self.authority, authority.cert_pem.bytes(), 0o644)
        _write(self.chain, b"".join(part.bytes() for part in leaf.cert_chain_pems), 0o644)
        _write(self.key, leaf.private_key_pem.bytes(), 0o600)


def _write(path: Path, content: bytes, mode: int) -> None:
    """Write a file. A key is never readable for others, not even while it is written."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
