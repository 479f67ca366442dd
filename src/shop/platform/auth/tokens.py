"""Verifies one access token, or refuses it with a reason. Nothing here waits or does I/O.

A token is a JWT by RFC 9068. PyJWT verifies its signature. Its JSON is read here, because duplicate members and
numbers such as NaN must not mean one thing here and another thing elsewhere. The key is found by `kid` among the
issuer's keys, and the key determines the algorithm. Other fields about keys in the header (`jwk`, `jku`, `x5u`, …) are
not read.
"""

import json
import re
from base64 import urlsafe_b64decode
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf, isfinite
from typing import Any, NamedTuple, NoReturn

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt import PyJWK
from jwt.api_jws import PyJWS

from shop.platform.auth.caller import ROLES, Caller, caller
from shop.platform.auth.settings import LONGEST_TOKEN_S

ALGORITHMS = ("RS256", "ES256", "EdDSA")
MOST_BYTES = 8192
"""The largest token, in bytes. The user service's have some 700; tokens with many groups have some thousands."""

SKEW_S = 10
"""Seconds that a token may be used before its `nbf`, because an issuer's clock may be ahead."""

_AHEAD_S = 300
"""Seconds that the user service's clock may be ahead. Revocations are forgotten after twice `LONGEST_TOKEN_S`, so
by then every token must have expired by this clock, too."""

_LEAST_RSA_BITS = 2048
_TYPES = {"at+jwt", "application/at+jwt"}
_TOKEN = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")
_USER = re.compile(r"user:([1-9][0-9]{0,18})")
_SERVICE = re.compile(r"service_account:[A-Za-z0-9._-]{1,100}")
_OUTSIDE_SUBJECT = re.compile(r"[\x21-\x7e]{1,255}")
_JWS = PyJWS(algorithms=list(ALGORITHMS))


class Refused(Exception):
    """The token is refused. The client gets the message, so it is plain ASCII without quotation marks."""


class UnknownKey(Refused):
    """No key of the issuer has this `kid`."""

    def __init__(self, issuer: "Issuer") -> None:
        super().__init__("no key of its issuer has its kid")
        self.issuer = issuer


class BadKey(ValueError):
    """A JWK that can't be used, with the reason."""


@dataclass
class Issuer:
    """An issuer whose tokens are accepted, and its keys. `keys` is always replaced as a whole."""

    name: str
    audience: str
    own: bool
    """Whether it is the user service of this shop."""
    roles_claim: str = "roles"
    typ: str = "at+jwt"
    keys: Mapping[str, PyJWK] = field(default_factory=dict)


class Verified(NamedTuple):
    caller: Caller
    expires: float
    """By the wall clock, like `exp`."""
    not_before: float


def key_of(jwk: Mapping[str, Any]) -> PyJWK:
    """A public key for verifying. Raises `BadKey`."""
    kind = jwk.get("kty"), jwk.get("crv")
    of_kind = {("RSA", None): "RS256", ("EC", "P-256"): "ES256", ("OKP", "Ed25519"): "EdDSA"}
    algorithm = of_kind.get(kind)  # type: ignore[arg-type]
    if algorithm is None:
        raise BadKey(f"it must be RSA, P-256 or Ed25519, and is {kind}")
    if jwk.get("alg", algorithm) not in {algorithm, "Ed25519" if algorithm == "EdDSA" else ""}:
        raise BadKey(f"its algorithm must be {algorithm}, and is {jwk.get('alg')}")
    if jwk.get("use", "sig") != "sig":
        raise BadKey("it is not for signatures")
    public = {name: value for name, value in jwk.items() if name not in {"d", "key_ops"}}
    try:
        key = PyJWK(public, algorithm)
    except (jwt.PyJWTError, ValueError, TypeError, KeyError) as error:
        raise BadKey(str(error)) from None
    if isinstance(key.key, RSAPublicKey) and key.key.key_size < _LEAST_RSA_BITS:
        raise BadKey(f"it has {key.key.key_size} bits, and must have {_LEAST_RSA_BITS}")
    return key


def verify(token: bytes, issuers: Mapping[str, Issuer], now: float) -> Verified:
    """`now` is the time of the wall clock. Raises `Refused`."""
    if len(token) > MOST_BYTES:
        raise Refused(f"it has more than {MOST_BYTES} bytes")
    parts = _TOKEN.fullmatch(token.decode("latin-1"))
    if parts is None:
        raise Refused("it is not a JWT of three parts")
    header = _object(parts[1], "header")
    claims = _object(parts[2], "payload")
    issuer = issuers.get(_text(claims, "iss"))
    if issuer is None:
        raise Refused("its issuer is unknown")
    _check_header(header, issuer)
    kid = _text(header, "kid")
    key = issuer.keys.get(kid)
    if key is None:
        raise UnknownKey(issuer)
    if header.get("alg") != key.algorithm_name:
        raise Refused("its algorithm is not that of its key")
    try:
        _JWS.decode_complete(token, key, algorithms=[key.algorithm_name])
    except (jwt.PyJWTError, ValueError, TypeError):
        raise Refused("its signature is wrong") from None
    return _judged(claims, issuer, now)


def _check_header(header: Mapping[str, Any], issuer: Issuer) -> None:
    for name in ("crit", "b64", "enc", "zip"):
        if name in header:
            raise Refused(f"its header has {name}, which is not understood")
    typ = header.get("typ")
    wanted = _TYPES if issuer.typ == "at+jwt" else {issuer.typ.lower()}
    if not isinstance(typ, str) or typ.lower() not in wanted:
        raise Refused(f"its typ is not {issuer.typ}")
    if header.get("alg") not in ALGORITHMS:
        raise Refused(f"its algorithm is not one of {' '.join(ALGORITHMS)}")


def _judged(claims: Mapping[str, Any], issuer: Issuer, now: float) -> Verified:
    expires = _number(claims, "exp")
    not_before = _number(claims, "nbf") if "nbf" in claims else -inf
    if now >= expires:
        raise Refused("it has expired")
    if now + SKEW_S < not_before:
        raise Refused("it is not valid yet")
    subject = _text(claims, "sub")
    _check_audience(claims.get("aud"), issuer)
    if issuer.own:
        if expires - now > LONGEST_TOKEN_S + _AHEAD_S:
            raise Refused("it would be valid for too long: a clock is wrong")
        asks = _ours(claims, subject, expires)
    else:
        asks = _outside(claims, subject, issuer)
    return Verified(asks, expires, not_before - SKEW_S)


def _check_audience(audience: Any, issuer: Issuer) -> None:
    # RFC 9068 allows a list. The user service writes none; other issuers name themselves beside the audience.
    many = isinstance(audience, list) and not issuer.own
    if issuer.audience not in (audience if many else [audience]):
        raise Refused("it is for another audience")


def _ours(claims: Mapping[str, Any], subject: str, expires: int) -> Caller:
    issued = _number(claims, "iat")
    if not 0 < expires - issued <= LONGEST_TOKEN_S:
        raise Refused(f"it is valid for more than {LONGEST_TOKEN_S} seconds")
    _text(claims, "jti")
    user = _USER.fullmatch(subject)
    if user is None and not _SERVICE.fullmatch(subject):
        raise Refused("its sub is neither a user nor a service")
    roles = claims.get("roles")
    if not isinstance(roles, list) or not all(isinstance(role, str) for role in roles):
        raise Refused("its roles are not a list of names")
    return caller(
        subject,
        int(user[1]) if user else None,
        frozenset(roles) & ROLES,
        scopes=frozenset(_text(claims, "scope", "").split()),
        client_id=_text(claims, "client_id"),
        session=_text(claims, "sid") if user else _text(claims, "sid", ""),
        generation=_number(claims, "gen"),
    )


def _outside(claims: Mapping[str, Any], subject: str, issuer: Issuer) -> Caller:
    """It is never a user of this shop, whatever its `sub` is, because two issuers may use the same ids."""
    if not _OUTSIDE_SUBJECT.fullmatch(subject):
        raise Refused("its sub has characters that are not allowed")
    scope = claims.get("scope", claims.get("scp", ""))
    scopes = scope if isinstance(scope, list) else str(scope).split()
    return caller(
        f"app_user:{issuer.name}#{subject}",
        None,
        frozenset(_names(_at(claims, issuer.roles_claim))) & ROLES,
        scopes=frozenset(_names(scopes)),
        client_id=str(claims.get("client_id", claims.get("azp", ""))),
    )


def _at(claims: Any, path: str) -> Any:
    """Looks first for a claim with exactly this name, because some issuers use URLs as names. Then the dots divide it."""
    if isinstance(claims, dict) and path in claims:
        return claims[path]
    for name in path.split("."):
        claims = claims.get(name) if isinstance(claims, dict) else None
    return claims


def _names(found: Any) -> list[str]:
    return [each for each in found if isinstance(each, str)] if isinstance(found, list) else []


def _text(members: Mapping[str, Any], name: str, default: str | None = None) -> str:
    value = members.get(name, default)
    if not isinstance(value, str):
        raise Refused(f"its {name} is not a text")
    return value


def _number(claims: Mapping[str, Any], name: str) -> int:
    value = claims.get(name)
    if type(value) is not int:
        raise Refused(f"its {name} is not a whole number")
    return value


def _object(part: str, what: str) -> dict[str, Any]:
    try:
        found = json.loads(
            urlsafe_b64decode(part + "=" * (-len(part) % 4)).decode(),
            object_pairs_hook=_unique,
            parse_constant=_no_number,
            parse_float=_finite,
        )
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise Refused(f"its {what} is not a JSON object with each member once")
    return found


def _unique(members: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(members)
    if len(found) != len(members):
        raise ValueError("a member is given twice")
    return found


def _no_number(text: str) -> NoReturn:
    raise ValueError(text)


def _finite(text: str) -> float:
    number = float(text)
    if not isfinite(number):
        raise ValueError(text)
    return number
