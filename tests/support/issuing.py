"""An issuer of tokens for tests, the good ones and the bad, with keys of its own."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from uuid import UUID, uuid4

import jwt
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from eventspine.event import Event
from shop.contracts.identity import AccessChanged, KeyState, SessionEnded, SigningKeyChanged

ISSUER, AUDIENCE = "http://127.0.0.1:8001", "eventshop"
SCOPES = ("users:read", "users:write", "orders:read", "orders:write")
SESSION = UUID("0198e9a0-0000-7000-8000-000000000001")
ENDED = UUID("0198e9a0-0000-7000-8000-000000000002")

_ALGORITHMS = {"RS256": RSAAlgorithm, "ES256": ECAlgorithm, "EdDSA": OKPAlgorithm}


@dataclass
class SigningKey:
    kid: str
    alg: str
    private: Any

    @property
    def public_jwk(self) -> dict[str, Any]:
        algorithm: Any = _ALGORITHMS[self.alg]
        jwk: dict[str, Any] = json.loads(algorithm.to_jwk(self.private.public_key()))
        jwk.pop("key_ops", None)
        return {**jwk, "kid": self.kid, "alg": self.alg, "use": "sig"}

    def public(self, encoding: Encoding) -> bytes:
        found: bytes = self.private.public_key().public_bytes(
            encoding, PublicFormat.SubjectPublicKeyInfo
        )
        return found

    def changed(self, state: KeyState = "active", version: int = 1) -> SigningKeyChanged:
        jwk = {} if state == "gone" else self.public_jwk
        return SigningKeyChanged(
            id=f"key:{self.kid}", kid=self.kid, state=state, public_jwk=jwk, version=version
        )


@cache
def key(kid: str = "k1", alg: str = "RS256") -> SigningKey:
    """Always the same for a name, in one run."""
    make: dict[str, Callable[[], Any]] = {
        "RS256": lambda: rsa.generate_private_key(65537, 2048),
        "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
        "EdDSA": ed25519.Ed25519PrivateKey.generate,
    }
    return SigningKey(kid, alg, make[alg]())


def access(
    subject: str, generation: int, *, version: int = 1, locked: bool = False
) -> AccessChanged:
    kind, _, id_ = subject.partition(":")
    of = id_ if kind == "user" else f"client:{id_}"
    return AccessChanged(
        id=f"access:{of}",
        subject=subject,
        roles=["customer"],
        locked=locked,
        generation=generation,
        reason="signed_out_everywhere",
        version=version,
    )


def ended(session: UUID, user_id: int = 1) -> SessionEnded:
    return SessionEnded(
        id=f"session:{session}", session_id=session, user_id=user_id, reason="signed_out", version=1
    )


@dataclass
class Token:
    """Claims, header and key as they should be; a test makes of it what should not be."""

    subject: str = "user:1"
    roles: tuple[str, ...] = ("customer",)
    scopes: tuple[str, ...] = SCOPES
    key: SigningKey = field(default_factory=key)
    claims: dict[str, Any] = field(default_factory=dict)
    header: dict[str, Any] = field(default_factory=dict)
    without: tuple[str, ...] = ()

    def all_claims(self) -> dict[str, Any]:
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": self.subject,
            "iat": now,
            "exp": now + 300,
            "jti": uuid4().hex,
            "client_id": "shop",
            "scope": " ".join(self.scopes),
            "roles": list(self.roles),
            "sid": str(SESSION),
            "gen": 5,
            **self.claims,
        }
        return {name: value for name, value in claims.items() if name not in self.without}

    def all_headers(self) -> dict[str, Any]:
        return {"alg": self.key.alg, "typ": "at+jwt", "kid": self.key.kid, **self.header}

    def signed(self, header: bytes | None = None, claims: bytes | None = None) -> str:
        """`header` and `claims`: JSON to the byte."""
        head = json.dumps(self.all_headers()).encode() if header is None else header
        body = json.dumps(self.all_claims()).encode() if claims is None else claims
        signing = b".".join(map(b64, (head, body)))
        algorithm = jwt.get_algorithm_by_name(self.key.alg)
        return (signing + b"." + b64(algorithm.sign(signing, self.key.private))).decode()

    def mac(self, secret: bytes) -> str:
        """As HS256, with a secret that everybody knows."""
        head = json.dumps({**self.all_headers(), "alg": "HS256"}).encode()
        signing = b".".join(map(b64, (head, json.dumps(self.all_claims()).encode())))
        return (signing + b"." + b64(hmac.digest(secret, signing, hashlib.sha256))).decode()

    def encrypted(self) -> str:
        """The signed token inside a JWE (RFC 7516), for the owner of the private key."""
        head = {
            "alg": "RSA-OAEP-256",
            "enc": "A256GCM",
            "kid": self.key.kid,
            "typ": "at+jwt",
            "cty": "JWT",
        }
        protected, secret, nonce = b64(json.dumps(head).encode()), bytes(32), bytes(12)
        oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
        wrapped = self.key.private.public_key().encrypt(secret, oaep)
        sealed = AESGCM(secret).encrypt(nonce, self.signed().encode(), protected)
        parts = (wrapped, nonce, sealed[:-16], sealed[-16:])
        return b".".join([protected, *map(b64, parts)]).decode()

    def unsigned(self, alg: str) -> str:
        head = json.dumps({**self.all_headers(), "alg": alg}).encode()
        return b".".join(map(b64, (head, json.dumps(self.all_claims()).encode(), b""))).decode()


def b64(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def planted(events: list[Event]) -> list[tuple[str, Mapping[str, Any]]]:
    """Statements that put into tables what these say: for the user service, which publishes them itself."""
    statements: list[tuple[str, Mapping[str, Any]]] = []
    columns: tuple[str, ...]
    for event in events:
        match event:
            case SigningKeyChanged():
                table, key_, columns = "signing_keys", "kid", ("state", "public_jwk")
            case AccessChanged():
                columns = ("roles", "locked", "generation", "reason")
                table, key_ = "access", "subject"
            case _:
                table, key_, columns = "ended_sessions", "session_id", ("user_id", "reason")
        names = (key_, *columns, "version")
        values = {name: _plain(getattr(event, name)) for name in names}
        given = ", ".join(f"%({name})s" for name in names)
        later = ", ".join(f"{name} = excluded.{name}" for name in names[1:])
        sql = f"INSERT INTO {table} ({', '.join(names)}) VALUES ({given}) ON CONFLICT ({key_}) DO UPDATE SET {later}"
        statements.append((sql, values))
    return statements


def _plain(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, dict) else value
