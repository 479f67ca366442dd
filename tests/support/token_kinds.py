"""Kinds of requests by their tokens: those that are taken, and attacks. Each makes headers for a user."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from cryptography.hazmat.primitives.serialization import Encoding

from tests.support.issuing import (
    AUDIENCE,
    ENDED,
    ISSUER,
    SCOPES,
    SigningKey,
    Token,
    b64,
    bearer,
    key,
)

Headers = Mapping[str, str] | list[tuple[str, str]]
Kind = Callable[[Token], Headers]
"""Given a good token of the user."""

EC, ED = key("k-ec", "ES256"), key("k-ed", "EdDSA")
NEXT, LAST, GONE = key("k-next"), key("k-last"), key("k-gone")
STATES = (
    (key(), "active"),
    (EC, "active"),
    (ED, "active"),
    (NEXT, "initial"),
    (LAST, "verifying"),
    (GONE, "gone"),
)
"""What is published of keys before the matrix is run."""

THIEF = key("thief")
"""A key of somebody else's."""


def _with(**changed: object) -> Kind:
    return lambda good: bearer(replace(good, **changed).signed())  # type: ignore[arg-type]


def _claims(**claims: object) -> Kind:
    return _with(claims=claims)


def _header(**header: object) -> Kind:
    return _with(header=header)


def _without(*names: str) -> Kind:
    return _with(without=names)


def _scopes_but(scope: str) -> Kind:
    return _with(scopes=tuple(each for each in SCOPES if each != scope))


def _stolen(**header: object) -> Kind:
    """Signed with the thief's key, whose place the header tells."""
    return lambda good: bearer(
        replace(good, key=SigningKey(good.key.kid, "RS256", THIEF.private), header=header).signed()
    )


def _payload(change: Callable[[str], str]) -> Kind:
    """Its JSON changed as a text, and signed."""
    return lambda good: bearer(good.signed(claims=change(json.dumps(good.all_claims())).encode()))


def _secret(secret: Callable[[SigningKey], bytes]) -> Kind:
    return lambda good: bearer(good.mac(secret(good.key)))


def _tampered(part: int) -> Kind:
    def headers(good: Token) -> Headers:
        parts = good.signed().split(".")
        if part == 1:
            claims = {**good.all_claims(), "roles": ["admin"]}
            parts[1] = b64(json.dumps(claims).encode()).decode()
        else:
            flipped = "A" if parts[2][10] != "A" else "B"
            parts[2] = parts[2][:10] + flipped + parts[2][11:]
        return bearer(".".join(parts))

    return headers


def _exp(text: str) -> Kind:
    """Another spelling of the number."""

    def headers(good: Token) -> Headers:
        claims = json.dumps({**good.all_claims(), "exp": "HERE"})
        return bearer(good.signed(claims=claims.replace('"HERE"', text).encode()))

    return headers


def _pem(signing: SigningKey) -> bytes:
    return signing.public(Encoding.PEM)


_SOON = int(time.time()) + 3600

TAKEN: dict[str, Kind] = {
    "customer": _with(),
    "support": _with(roles=("customer", "support")),
    "admin": _with(roles=("admin",)),
    "service": _with(subject="service_account:billing", roles=("service",), without=("sid",)),
    "customer, ES256": _with(key=EC),
    "customer, EdDSA": _with(key=ED),
    "customer, key not used yet": _with(key=NEXT),
    "customer, key used no more": _with(key=LAST),
    "customer, scheme in small letters": lambda good: {"Authorization": f"bearer {good.signed()}"},
    "customer, header names another key's place": _header(jku="https://thief.example/jwks"),
    "unknown role": _with(roles=("owner",)),
    **{f"customer without {scope}": _scopes_but(scope) for scope in SCOPES},
    **{f"service without {scope}": _with(
        subject="service_account:billing", roles=("service",),
        scopes=tuple(each for each in SCOPES if each != scope), without=("sid",)) for scope in SCOPES},
}  # fmt: skip

REFUSED: dict[str, Kind] = {
    "no token": lambda _: {},
    "empty token": lambda _: {"Authorization": "Bearer"},
    "basic": lambda _: {"Authorization": "Basic dXNlcjoxOng="},
    "two tokens": lambda good: [("Authorization", f"Bearer {good.signed()}")] * 2,
    "expired": _claims(exp=int(time.time()) - 1, iat=int(time.time()) - 301),
    "not yet valid": _claims(nbf=_SOON),
    "valid for too long": _claims(exp=_SOON),
    "wrong audience": _claims(aud="another-shop"),
    "wrong issuer": _claims(iss="https://thief.example"),
    "alg none": lambda good: bearer(good.unsigned("none")),
    "alg None": lambda good: bearer(good.unsigned("None")),
    "alg NONE": lambda good: bearer(good.unsigned("NONE")),
    "alg nOnE": lambda good: bearer(good.unsigned("nOnE")),
    "alg none, signed": _header(alg="none"),
    "alg RS512": _header(alg="RS512"),
    "alg of another key's kind": _header(alg="ES256"),
    "HS256 with the key as PEM": _secret(_pem),
    "HS256 with the key as DER": _secret(lambda signing: signing.public(Encoding.DER)),
    "HS256 with the key as JWK": _secret(lambda signing: json.dumps(signing.public_jwk).encode()),
    "HS256 with a leading blank": _secret(lambda signing: b" " + _pem(signing)),
    "jwk": _stolen(jwk=THIEF.public_jwk),
    "jku": _stolen(jku="https://thief.example/jwks"),
    "x5u": _stolen(x5u="https://thief.example/cert"),
    "x5c": _stolen(x5c=[b64(_pem(THIEF)).decode()]),
    "kid ../": _header(kid="../../dev/null"),
    "kid SQL": _header(kid="k1' OR '1'='1"),
    "kid NUL": _header(kid="k1\0"),
    "kid is a list": _header(kid=["k1"]),
    "no kid": lambda good: bearer(
        good.signed(header=json.dumps({"alg": "RS256", "typ": "at+jwt"}).encode())
    ),
    "9 KB": _claims(more="x" * 9000),
    "unknown crit": _header(crit=["exp"]),
    "b64 false": _header(b64=False, crit=["b64"]),
    "five parts": lambda good: bearer(good.signed() + ".AAAA.AAAA"),
    "encrypted": lambda good: bearer(good.encrypted()),
    "two parts": lambda good: bearer(good.signed().rpartition(".")[0]),
    "padding": lambda good: bearer(good.signed() + "="),
    "id token": _header(typ="JWT"),
    "no typ": lambda good: bearer(
        good.signed(header=json.dumps({"alg": "RS256", "kid": good.key.kid}).encode())
    ),
    "refresh token": lambda _: bearer("r1." + "Zm9vYmFy" * 6),
    "array iss": _claims(iss=[ISSUER]),
    "array aud": _claims(aud=[AUDIENCE]),
    "array sub": _claims(sub=["user:1"]),
    "no iss": _without("iss"),
    "no aud": _without("aud"),
    "no sub": _without("sub"),
    "no exp": _without("exp"),
    "no gen": _without("gen"),
    "no sid": _without("sid"),
    "no jti": _without("jti"),
    "no roles": _without("roles"),
    "roles as text": _claims(roles="admin"),
    "sub of another form": _claims(sub="admin"),
    "a member twice": _payload(lambda claims: claims[:-1] + ', "roles": ["admin"]}'),
    "a header member twice": lambda good: bearer(
        good.signed(header=b'{"alg":"none","alg":"RS256","typ":"at+jwt","kid":"k1"}')
    ),
    "not an object": lambda good: bearer(good.signed(claims=b"[]")),
    "deep": lambda good: bearer(good.signed(claims=b"[" * 5000)),
    "exp as text": _exp('"9999999999"'),
    "exp true": _exp("true"),
    "exp with a fraction": _exp(f"{_SOON}.5"),
    "exp NaN": _exp("NaN"),
    "exp Infinity": _exp("Infinity"),
    "exp 1e400": _exp("1e400"),
    "exp of 5000 digits": _exp("9" * 5000),
    "tampered signature": _tampered(2),
    "tampered claims": _tampered(1),
    "key just retired": _with(key=GONE),
    "unknown key": _with(key=THIEF),
    "generation too low": _claims(gen=4),
    "session ended": _claims(sid=str(ENDED)),
}

UNREADABLE: dict[str, Kind] = {
    "1 MB": _claims(more="x" * 1_000_000),
    "kid 1 MB": _header(kid="k" * 1_000_000),
}
"""The server refuses such a head before there is a request."""

KINDS = {**TAKEN, **REFUSED, **UNREADABLE}
