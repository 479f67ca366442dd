"""After a restore of the service that issues tokens: private keys are not in the log."""

import asyncio
from pathlib import Path

import pytest

from shop.services.users.identity.key_encryption import (
    new_key_encryption_key,
    read_key_encryption,
)
from tests.support.databases import Databases, NewDatabase
from tests.support.issuer import Issuer
from tests.support.living import living, shop
from tests.support.serving import problem, serving


def relayed(urls: Databases) -> None:
    async def relay() -> None:
        async with living(urls) as system, system.moving():
            await system.settled()

    asyncio.run(relay())


@pytest.mark.parametrize(
    "words",
    [
        ("rotate", "--now"),
        pytest.param(("rotate",), marks=pytest.mark.heavy),
        pytest.param(("new", "--if-none"), marks=pytest.mark.heavy),
    ],
)
def test_a_new_key_signs_at_once_and_tokens_of_the_lost_one_stay_valid(
    copied: Databases,
    new_database: NewDatabase,
    templates: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
) -> None:
    file = tmp_path / "key-encryption-keys"
    file.write_text(new_key_encryption_key() + "\n")
    monkeypatch.setenv("SHOP_AUTH__KEY_ENCRYPTION_KEY_FILE", str(file))
    auth = {"key_encryption_key_file": file}
    assert shop(copied, "keys", "new").exit_code == 0
    assert shop(copied, "keys", "rotate").exit_code == 0  # publishes the next
    listed = shop(copied, "keys", "list").output
    active, initial = (line.split()[0] for line in listed.splitlines())
    with serving("users", copied.users, auth=auth) as served:
        before = Issuer(served, read_key_encryption(file))
        token = before.session(before.user())["access_token"]
    relayed(copied)
    lost = copied.but(users=new_database(templates["users"]))
    done = shop(lost, "restore", "users")
    assert done.exit_code == 0, done.output
    assert "run `shop keys new --if-none`" in done.output
    with serving("users", lost.users, auth=auth) as served:
        issuer = Issuer(served, before.encryption)
        user = issuer.user()
        problem(issuer.log_in(user["email"]), 503, "no-signing-key")
        made = shop(lost, "keys", *words)
        assert made.exit_code == 0, made.output
        states = {
            line.split()[0]: line.split()[1]
            for line in shop(lost, "keys", "list").output.splitlines()
        }
        assert states.pop(active) == "verifying"
        assert states.pop(initial) == "gone"
        assert "active" in states.values()
        assert issuer.claims(issuer.session(user)["access_token"])["sub"] == f"user:{user['id']}"
        assert issuer.claims(token)
    relayed(lost)
    audited = shop(lost, "audit")
    assert audited.exit_code == 0, audited.output
