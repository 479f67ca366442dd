"""Signing keys: published before they sign, and after; encrypted at rest; rotated while tokens are used."""

import threading
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest

from shop.platform.settings import NotConfigured
from shop.services.users.identity import keys
from shop.services.users.identity.key_encryption import (
    KeyEncryption,
    Sealed,
    new_key_encryption_key,
    read_key_encryption,
)
from shop.services.users.identity.keys import KeyRefused
from tests.support.issuer import Issuer, issuing
from tests.support.serving import problem, serving

TOKEN_S = 300
KEPT_MS = 1000 * (TOKEN_S + 120)


@pytest.fixture
def issuer(users_url: str, tmp_path: Path) -> Any:
    with issuing(users_url, tmp_path) as issuer:
        yield issuer


def states(issuer: Issuer) -> dict[str, str]:
    return {key.kid: key.state for key in issuer.do(keys.keys)}


def later(issuer: Issuer, ms: int) -> None:
    """Workers have run for so long."""
    issuer.served.connection.execute("UPDATE running_time SET ms = ms + %s", [ms])


def rotate(issuer: Issuer, **more: Any) -> keys.Rotated:
    given = {"lead_s": 600, "token_s": TOKEN_S, **more}
    return issuer.do(lambda tx: keys.rotate(tx, issuer.encryption, **given))


def kid(token: str) -> str:
    return str(jwt.get_unverified_header(token)["kid"])


def test_the_first_key_signs_at_once_and_the_next_when_it_was_published_long_enough(
    issuer: Issuer,
) -> None:
    [first] = states(issuer)
    prepared = rotate(issuer)
    assert prepared.activated is None
    assert states(issuer) == {first: "active", prepared.prepared: "initial"}
    later(issuer, 599_000)
    assert rotate(issuer).activated is None
    later(issuer, 1000)
    rotated = rotate(issuer)
    assert rotated.activated == prepared.prepared
    assert states(issuer) == {
        first: "verifying",
        rotated.activated: "active",
        rotated.prepared: "initial",
    }
    later(issuer, KEPT_MS)
    assert rotate(issuer).retired == [first]
    assert states(issuer)[first] == "gone"


def test_every_change_of_a_key_is_published_with_the_public_half_alone(issuer: Issuer) -> None:
    rotate(issuer)
    rotate(issuer, now=True)
    published = issuer.published("signing_key.changed")
    [first, second] = dict.fromkeys(each["kid"] for each in published if each["version"] == 2)
    assert [(each["state"], each["version"]) for each in published if each["kid"] == first] == [
        ("initial", 1),
        ("active", 2),
        ("verifying", 3),
    ]
    assert [each["state"] for each in published if each["kid"] == second] == ["initial", "active"]
    for each in published:
        assert each["id"] == f"key:{each['kid']}"
        assert set(each["public_jwk"]) == {"kty", "n", "e", "kid", "use", "alg"}
    listed = issuer.client.get("/.well-known/jwks.json")
    assert {key["kid"] for key in listed.json()["keys"]} == {each["kid"] for each in published}
    assert listed.headers["cache-control"] == "public, max-age=300"


def test_a_key_whose_tokens_may_be_valid_is_not_retired_unless_it_must_be(issuer: Issuer) -> None:
    [first] = states(issuer)

    def retire(name: str, **more: bool) -> None:
        issuer.do(lambda tx: keys.retire(tx, name, token_s=TOKEN_S, **more))

    for name in (first, "unknown"):
        with pytest.raises(KeyRefused):
            retire(name)
    rotate(issuer)
    rotate(issuer, now=True)
    with pytest.raises(KeyRefused, match="--now"):
        retire(first)
    retire(first, now=True)
    assert states(issuer)[first] == "gone"
    gone = issuer.published("signing_key.changed")[-1]
    assert (gone["kid"], gone["state"], gone["public_jwk"]) == (first, "gone", {})
    with pytest.raises(KeyRefused, match="gone already"):
        retire(first)


def test_private_keys_are_encrypted_and_only_those_that_may_sign_are_there(issuer: Issuer) -> None:
    rotate(issuer)
    rotate(issuer, now=True)
    held = {
        name: (under, bytes(data))
        for name, under, data in issuer.served.rows(
            "SELECT kid, encrypted_under, encrypted FROM private_keys"
        )
    }
    known = states(issuer)
    assert {known[name] for name in held} == {"active", "initial"}
    for name, (under, data) in held.items():
        assert issuer.encryption.open(Sealed(under, data), name).startswith(b"\x30\x82")
        assert b"\x30\x82" not in data[:40]
        with pytest.raises(NotConfigured, match="damaged"):
            issuer.encryption.open(Sealed(under, data), "another")


def test_the_key_encryption_key_is_rotated_with_two_valid_at_once(
    users_url: str, tmp_path: Path
) -> None:
    file = tmp_path / "key-encryption-keys"
    with issuing(users_url, tmp_path) as issuer:
        user = issuer.user()
        old = file.read_text()
        file.write_text(new_key_encryption_key() + "\n" + old)
        both = read_key_encryption(file)
        assert issuer.do(lambda tx: keys.rewrap(tx, both)) == 1
        assert issuer.do(lambda tx: keys.rewrap(tx, both)) == 0
        file.write_text(file.read_text().splitlines()[0] + "\n")
        # Another key has to be read, with the new file.
        rotate_with(issuer, read_key_encryption(file))
        issuer.session(user)
    with serving("users", users_url, auth={"key_encryption_key_file": file}) as served:
        again = Issuer(served, read_key_encryption(file))
        again.session(user)
    file.write_text(old)
    with serving("users", users_url, auth={"key_encryption_key_file": file}) as served:
        refused = Issuer(served, both).log_in(user["email"])
        document = problem(refused, 503, "no-signing-key")
        assert str(tmp_path) not in str(document)


def rotate_with(issuer: Issuer, encryption: KeyEncryption) -> None:
    for _ in range(2):
        issuer.do(lambda tx: keys.rotate(tx, encryption, lead_s=0, token_s=TOKEN_S, now=True))


@pytest.mark.parametrize("text", ["", "x", "AAAA\n", "é"])
def test_a_file_without_keys_is_refused_in_a_sentence(tmp_path: Path, text: str) -> None:
    file = tmp_path / "keys"
    file.write_text(text, encoding="latin-1")
    with pytest.raises(NotConfigured, match="openssl rand -base64 32"):
        read_key_encryption(file)
    for missing in (None, tmp_path / "missing"):
        with pytest.raises(NotConfigured, match="SHOP_AUTH__KEY_ENCRYPTION_KEY_FILE"):
            read_key_encryption(missing)


def test_without_a_key_a_login_says_what_is_missing(users_url: str) -> None:
    with serving("users", users_url) as served:
        body = {"email": "a@example.com", "name": "A", "password": "four words of mine"}
        assert served.client.post("/users", json=body).status_code == 201
        del body["name"]
        refused = served.client.post("/sessions", json=body)
        document = problem(refused, 503, "no-signing-key")
        assert "shop keys new" in document["detail"]
        assert refused.headers["retry-after"] == "30"
        assert served.rows("SELECT FROM sessions") == []


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_each_algorithm_signs_what_a_library_verifies_by_the_published_key(
    issuer: Issuer, algorithm: str
) -> None:
    user = issuer.user()
    rotate(issuer, algorithm=algorithm)
    rotate(issuer, now=True)
    token = issuer.session(user)["access_token"]
    published = issuer.client.get("/.well-known/jwks.json").json()
    key = jwt.PyJWKSet.from_dict(published)[kid(token)]
    assert jwt.get_unverified_header(token)["alg"] == algorithm
    jwt.decode(token, key, algorithms=[algorithm], audience="eventshop")


@pytest.mark.heavy
def test_rotations_of_both_kinds_of_keys_under_load_refuse_nobody(
    users_url: str, tmp_path: Path
) -> None:
    with issuing(users_url, tmp_path, auth={"required": True}) as issuer:
        user = issuer.user()
        seen: set[str] = set()
        answers: list[int] = []
        stop = threading.Event()

        def use() -> None:
            """Each token is used until the end: those of all keys are."""
            tokens = []
            with httpx.Client(base_url=issuer.client.base_url, timeout=20) as client:
                refresh = issuer.session(user)["refresh_token"]
                while not stop.is_set():
                    form = {"grant_type": "refresh_token", "refresh_token": refresh}
                    refreshed = client.post("/token", data=form)
                    if refreshed.status_code == 429:
                        stop.wait(0.2)
                    else:
                        answers.append(refreshed.status_code)
                        refresh = refreshed.json()["refresh_token"]
                        tokens.append(refreshed.json()["access_token"])
                        seen.add(kid(tokens[-1]))
                    for token in tokens[-3:] + tokens[:3]:
                        headers = {"Authorization": f"Bearer {token}"}
                        answered = client.get(f"/users/{user['id']}", headers=headers)
                        if answered.status_code != 429:
                            answers.append(answered.status_code)
                    issuer.served.connection.execute(
                        "UPDATE refresh_answers SET answered_at = answered_at - interval '31 seconds'"
                    )

        loads = [threading.Thread(target=use) for _ in range(2)]
        for load in loads:
            load.start()
        try:
            for _ in range(3):
                rotate(issuer, lead_s=1)  # publishes the next
                threading.Event().wait(4.0)  # an API reads keys once a second
                later(issuer, 1000)
                rotate(issuer, lead_s=1)
                threading.Event().wait(1.5)
            # And the key that encrypts them, by the steps of docs/operations.md.
            file = tmp_path / "key-encryption-keys"
            new = new_key_encryption_key() + "\n"
            file.write_text(new + file.read_text())
            both = read_key_encryption(file)
            assert issuer.do(lambda tx: keys.rewrap(tx, both))
            file.write_text(new)
            later(issuer, 1000)
            issuer.do(
                lambda tx: keys.rotate(tx, read_key_encryption(file), lead_s=1, token_s=TOKEN_S)
            )
            threading.Event().wait(1.5)
        finally:
            stop.set()
            for load in loads:
                load.join(30)
        assert len(seen) >= 4
        assert set(answers) == {200}


def test_the_metadata_is_that_of_rfc_8414(issuer: Issuer) -> None:
    answer = issuer.client.get("/.well-known/oauth-authorization-server")
    assert answer.json() == {
        "issuer": "http://127.0.0.1:8001",
        "token_endpoint": "http://127.0.0.1:8001/token",
        "jwks_uri": "http://127.0.0.1:8001/.well-known/jwks.json",
        "scopes_supported": ["users:read", "users:write", "orders:read", "orders:write"],
        "response_types_supported": [],
        "grant_types_supported": ["refresh_token", "client_credentials"],
        "token_endpoint_auth_methods_supported": [
            "client_secret_basic",
            "client_secret_post",
            "none",
        ],
    }
    # It issues no id tokens, so it is no OpenID provider, and does not say so.
    problem(issuer.client.get("/.well-known/openid-configuration"), 404, "not-found")
