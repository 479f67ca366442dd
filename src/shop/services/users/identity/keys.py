"""Signing keys and their states: `initial`, `active`, `verifying`, `gone`.

A key is published before it signs, and stays published until no token that it signed can be valid. So every service
has the key of each token that it has to verify. Both times are counted in running time, which stops while no worker
runs. Without a worker, no key is published either.
"""

import json
from collections.abc import Sequence
from hashlib import sha256
from typing import Any, NamedTuple

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from jwt.utils import base64url_encode

from eventspine.context import NOBODY
from eventspine.outbox import Transaction
from eventspine.running_time import LONGEST_STEP
from shop.contracts.identity import KeyState, SigningKeyChanged
from shop.services.users.identity.key_encryption import KeyEncryption, Sealed

ALGORITHMS = ("RS256", "ES256", "EdDSA")
"""RS256 is the default: it is the cheapest to verify, and a token is verified more often than it is signed."""

MARGIN_S = 2 * LONGEST_STEP
"""Seconds that a key is kept after its last token has expired. They allow for differing clocks, and for the largest step
of the running time."""

_RSA_BITS = 2048

_REQUIRED = ("kty", "crv", "n", "e", "x", "y")
"""The members of a public key, of any kind."""

# Only one command at a time may change keys.
_LOCK = "SELECT pg_advisory_xact_lock(7420)"

_KEYS = """
SELECT kid, state, version, (running_ms() - changed_ms) / 1000.0, algorithm, encrypted_under,
    public_jwk->>'alg'
FROM signing_keys LEFT JOIN private_keys USING (kid)
ORDER BY changed_ms, changed_in, kid
"""

_STORE_PRIVATE = """
INSERT INTO private_keys (kid, algorithm, encrypted_under, encrypted)
VALUES (%(kid)s, %(algorithm)s, %(under)s, %(data)s)
"""

_SET = """
INSERT INTO signing_keys AS k (kid, state, public_jwk, version)
VALUES (%(kid)s, %(state)s, %(public_jwk)s::jsonb, 1)
ON CONFLICT (kid) DO UPDATE SET
    state = excluded.state,
    public_jwk = CASE WHEN excluded.state = 'gone' THEN '{}'::jsonb ELSE k.public_jwk END,
    version = k.version + 1
RETURNING version, public_jwk
"""

_DROP_PRIVATE = "DELETE FROM private_keys WHERE kid = %(kid)s"

_PRIVATE = "SELECT kid, encrypted_under, encrypted FROM private_keys ORDER BY kid FOR UPDATE"

_REWRAP = """
UPDATE private_keys SET encrypted_under = %(under)s, encrypted = %(data)s WHERE kid = %(kid)s
"""


class KeyRefused(Exception):
    """The command would cause valid tokens to be refused. The message says what to do."""


class SigningKey(NamedTuple):
    kid: str
    state: KeyState
    version: int
    age_s: float
    """Seconds of running time in this state."""
    algorithm: str
    encrypted_under: str | None
    """None without a private key. It is deleted when the key stops signing, and a restore has none."""

    @property
    def signs(self) -> bool:
        return self.state == "active" and self.encrypted_under is not None


class Rotated(NamedTuple):
    activated: str | None
    prepared: str | None
    retired: Sequence[str]
    waits_s: float
    """Seconds until the prepared key may sign."""


async def keys(tx: Transaction) -> list[SigningKey]:
    """All keys: first those that are not gone, then those that are. Those that have been in their state longest come first."""
    rows = await tx.fetch(_KEYS)
    found = [
        SigningKey(kid, state, version, float(age), algorithm or published or "", under)
        for kid, state, version, age, algorithm, under, published in rows
    ]
    return sorted(found, key=lambda key: key.state == "gone")


async def new_key(
    tx: Transaction, encryption: KeyEncryption, algorithm: str = ALGORITHMS[0]
) -> SigningKey:
    """Publish a key. The first one signs at once, because there are no tokens of another key."""
    await tx.execute(_LOCK)
    return await _new(tx, encryption, algorithm)


async def first_key(tx: Transaction, encryption: KeyEncryption) -> SigningKey | None:
    """Create a key that signs, if there is none. For a new or a restored shop."""
    await tx.execute(_LOCK)
    if any(key.signs for key in await keys(tx)):
        return None
    return await _new(tx, encryption, ALGORITHMS[0])


async def rotate(
    tx: Transaction,
    encryption: KeyEncryption,
    *,
    lead_s: float,
    token_s: float,
    now: bool = False,
    algorithm: str = ALGORITHMS[0],
) -> Rotated:
    """Let the next key sign, prepare the one after it, and retire those whose tokens have expired.

    If the next key was published less than `lead_s` ago, only old keys are retired, unless `now` is given.
    """
    await tx.execute(_LOCK)
    known = await keys(tx)
    retired = [
        key.kid
        for key in known
        if (key.state == "verifying" and key.age_s >= token_s + MARGIN_S)
        # Its private half was lost with the database, so it never signs.
        or (key.state == "initial" and not key.encrypted_under)
    ]
    for kid in retired:
        await _set(tx, kid, "gone")
    waiting = [key for key in known if key.state == "initial" and key.encrypted_under]
    if not waiting:
        prepared = await _new(tx, encryption, algorithm)
        activated = prepared.kid if prepared.state == "active" else None
        return Rotated(activated, prepared.kid, retired, 0 if activated else lead_s)
    following = waiting[0]
    if following.age_s < lead_s and not now:
        return Rotated(None, None, retired, lead_s - following.age_s)
    for key in known:
        if key.state == "active":
            await _set(tx, key.kid, "verifying")
    await _set(tx, following.kid, "active")
    prepared = waiting[1] if len(waiting) > 1 else await _new(tx, encryption, algorithm)
    return Rotated(following.kid, prepared.kid, retired, lead_s)


async def retire(tx: Transaction, kid: str, *, token_s: float, now: bool = False) -> None:
    """Refuse the tokens of a key from now on. Raises `KeyRefused` if some may be valid, unless `now` is given."""
    await tx.execute(_LOCK)
    known = {key.kid: key for key in await keys(tx)}
    key = known.get(kid)
    if key is None:
        raise KeyRefused(f"there is no key {kid}; `shop keys list` shows them")
    if key.state == "gone":
        raise KeyRefused(f"the key {kid} is gone already")
    if key.state == "active":
        raise KeyRefused(
            f"the key {kid} signs; let another sign first: `shop keys rotate`"
            " (or, if it was stolen, `shop keys rotate --now`)"
        )
    left = token_s + MARGIN_S - key.age_s
    if key.state == "verifying" and left > 0 and not now:
        raise KeyRefused(
            f"tokens that {kid} signed may be valid for another {left:.0f} s; retire it then, or, if it was"
            " stolen, with --now"
        )
    await _set(tx, kid, "gone")


async def rewrap(tx: Transaction, encryption: KeyEncryption) -> int:
    """Encrypt every private key with the first key of the file. Returns how many were encrypted with another one."""
    await tx.execute(_LOCK)
    moved = 0
    for kid, under, data in await tx.fetch(_PRIVATE):
        if under != encryption.newest:
            sealed = encryption.seal(encryption.open(Sealed(under, data), kid), kid)
            await tx.execute(_REWRAP, {"kid": kid, "under": sealed.under, "data": sealed.data})
            moved += 1
    return moved


async def _new(tx: Transaction, encryption: KeyEncryption, algorithm: str) -> SigningKey:
    private, public_jwk = _made(algorithm)
    kid = public_jwk["kid"]
    sealed = encryption.seal(private, kid)
    await tx.execute(
        _STORE_PRIVATE,
        {"kid": kid, "algorithm": algorithm, "under": sealed.under, "data": sealed.data},
    )
    version = await _set(tx, kid, "initial", public_jwk)
    state: KeyState = "initial"
    known = await keys(tx)
    if not any(key.signs for key in known):
        for key in known:
            # Private halves were lost with the database. What they signed may still be valid.
            if key.state == "active":
                await _set(tx, key.kid, "verifying")
            elif key.state == "initial" and not key.encrypted_under:
                await _set(tx, key.kid, "gone")
        version, state = await _set(tx, kid, "active"), "active"
    return SigningKey(kid, state, version, 0.0, algorithm, sealed.under)


async def _set(
    tx: Transaction, kid: str, state: KeyState, public_jwk: dict[str, Any] | None = None
) -> int:
    given = {"kid": kid, "state": state, "public_jwk": json.dumps(public_jwk or {})}
    [(version, jwk)] = await tx.fetch(_SET, given)
    if state in {"verifying", "gone"}:
        # A private key that no longer signs is deleted, so that it can't be stolen.
        await tx.execute(_DROP_PRIVATE, {"kid": kid})
    event = SigningKeyChanged(
        id=f"key:{kid}", version=version, kid=kid, state=state, public_jwk=jwk
    )
    tx.publish(event, NOBODY)
    return int(version)


def _made(algorithm: str) -> tuple[bytes, dict[str, Any]]:
    """The private key in PKCS #8, and the public one as RFC 7517 has it. `kid` is its thumbprint (RFC 7638)."""
    private: Any
    match algorithm:
        case "RS256":
            private = rsa.generate_private_key(public_exponent=65537, key_size=_RSA_BITS)
        case "ES256":
            private = ec.generate_private_key(ec.SECP256R1())
        case "EdDSA":
            private = ed25519.Ed25519PrivateKey.generate()
        case _:
            raise KeyRefused(
                f"there is no algorithm {algorithm}; there are: {', '.join(ALGORITHMS)}"
            )
    made = jwt.get_algorithm_by_name(algorithm)
    jwk: dict[str, Any] = dict(made.to_jwk(private.public_key(), as_dict=True))
    required: dict[str, Any] = {name: jwk[name] for name in _REQUIRED if name in jwk}
    canonical = json.dumps(required, sort_keys=True, separators=(",", ":")).encode()
    kid = base64url_encode(sha256(canonical).digest()).decode()
    encoded: bytes = private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return encoded, {**required, "kid": kid, "use": "sig", "alg": algorithm}
