"""Each attack is refused for its own reason: so that no check stands in for another that is missing."""

import time

import pytest

from shop.platform.auth.tokens import BadKey, Issuer, Refused, key_of, verify
from tests.support.issuing import AUDIENCE, ISSUER, Token, key
from tests.support.token_kinds import REFUSED, STATES, TAKEN

ISSUERS = {
    ISSUER: Issuer(
        ISSUER,
        AUDIENCE,
        own=True,
        keys={each.kid: key_of(each.public_jwk) for each, state in STATES if state != "gone"},
    )
}

ALGORITHM, FORM, OBJECT = (
    "its algorithm is not one of",
    "not a JWT of three",
    "JSON object with each",
)
SIGNATURE, KID, NUMBER = "its signature is wrong", "no key of its issuer", "its exp is not a whole"

REASONS = {
    "refresh token": FORM,
    "expired": "it has expired",
    "not yet valid": "not valid yet",
    "valid for too long": "valid for too long",
    "wrong audience": "another audience",
    "wrong issuer": "issuer is unknown",
    **{f"alg {alg}": FORM for alg in ("none", "None", "NONE", "nOnE")},
    "alg none, signed": ALGORITHM,
    "alg RS512": ALGORITHM,
    "alg of another key's kind": "its algorithm is not that of its key",
    **{f"HS256 with {what}": ALGORITHM for what in ("the key as PEM", "the key as DER",
                                                    "the key as JWK", "a leading blank")},
    **dict.fromkeys(("jwk", "jku", "x5u", "x5c"), SIGNATURE),
    **dict.fromkeys(("kid ../", "kid SQL", "kid NUL", "unknown key", "key just retired"), KID),
    "kid is a list": "its kid is not a text",
    "no kid": "its kid is not a text",
    "9 KB": "more than 8192 bytes",
    "unknown crit": "its header has crit",
    "b64 false": "its header has crit",
    "five parts": FORM,
    "encrypted": FORM,
    "two parts": FORM,
    "padding": FORM,
    "id token": "its typ is not",
    "no typ": "its typ is not",
    **{f"array {name}": f"its {name} is not a text" for name in ("iss", "sub")},
    **{f"no {name}": f"its {name} is not a text" for name in ("iss", "sub", "sid", "jti")},
    "array aud": "another audience",
    "no aud": "another audience",
    "no exp": NUMBER,
    "no gen": "its gen is not a whole",
    "no roles": "its roles are not a list",
    "roles as text": "its roles are not a list",
    "sub of another form": "neither a user nor a service",
    **dict.fromkeys(("a member twice", "a header member twice", "not an object", "deep"), OBJECT),
    **dict.fromkeys(("exp NaN", "exp Infinity", "exp 1e400", "exp of 5000 digits"), OBJECT),
    **dict.fromkeys(("exp as text", "exp true", "exp with a fraction"), NUMBER),
    **dict.fromkeys(("tampered signature", "tampered claims"), SIGNATURE),
}  # fmt: skip

LATER = {"no token", "empty token", "basic", "two tokens", "generation too low", "session ended"}
"""The gate refuses these, before a token is looked at or after."""


def sent(what: str, kinds: object = REFUSED) -> bytes:
    headers = kinds[what](Token())  # type: ignore[index]
    return str(headers["Authorization"])[7:].encode()


def test_every_attack_has_a_reason() -> None:
    assert set(REFUSED) - LATER == set(REASONS)


@pytest.mark.parametrize("what", REASONS)
def test_an_attack_is_refused_for_its_own_reason(what: str) -> None:
    with pytest.raises(Refused) as refused:
        verify(sent(what), ISSUERS, time.time())
    assert REASONS[what] in str(refused.value)
    # It stands in a header, between quotation marks (RFC 6750, 3).
    assert str(refused.value).isascii() and not {'"', "\\"} & set(str(refused.value))


def test_the_issuers_own_span_of_time_is_judged_too() -> None:
    """Whatever the clock says: a revocation is forgotten once every token of before it has expired."""
    now = int(time.time())
    long = Token(claims={"iat": now - 200, "exp": now + 401}).signed().encode()
    with pytest.raises(Refused, match="valid for more than 600 seconds"):
        verify(long, ISSUERS, now)
    verify(Token(claims={"iat": now - 200, "exp": now + 400}).signed().encode(), ISSUERS, now)


@pytest.mark.parametrize("what", TAKEN)
def test_a_good_token_is_taken(what: str) -> None:
    verified = verify(sent(what, TAKEN), ISSUERS, time.time())
    assert verified.caller.subject in {"user:1", "service_account:billing"}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"kty": "oct", "k": "c2VjcmV0"}, "must be RSA"),
        ({"alg": "RS512"}, "its algorithm must be RS256"),
        ({"alg": "HS256"}, "its algorithm must be RS256"),
        ({"use": "enc"}, "not for signatures"),
        ({"n": "AQAB"}, None),
        ({"kty": "EC", "crv": "P-521"}, "must be RSA"),
        ({"n": None}, None),
    ],
)
def test_a_key_that_is_not_for_us_is_refused(change: dict[str, object], why: str | None) -> None:
    with pytest.raises(BadKey, match=why):
        key_of({**key().public_jwk, **change})


def test_a_private_member_is_never_kept() -> None:
    """A JWK that was published by mistake with it makes a public key all the same."""
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    assert isinstance(key_of({**key().public_jwk, "d": "AQAB"}).key, RSAPublicKey)
