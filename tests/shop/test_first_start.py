"""The first keys and the first admin, by the steps that docs/operations.md has for a new shop."""

import re
from pathlib import Path

import pytest

from shop.services.users.identity.key_encryption import new_key_encryption_key
from tests.support.databases import Databases
from tests.support.documented import commands
from tests.support.living import shop

STEPS = commands("First start in production", "keys", "users")


def test_each_step_for_keys_and_the_first_admin_succeeds(
    copied: Databases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "key-encryption-keys"
    file.write_text(new_key_encryption_key() + "\n")
    monkeypatch.setenv("SHOP_AUTH__KEY_ENCRYPTION_KEY_FILE", str(file))
    assert [words[:2] for words in STEPS] == [
        ["keys", "new"],
        ["keys", "rotate"],
        ["users", "admin"],
    ]
    said = ""
    for words in STEPS:
        typed = "correct horse battery staple\n" * 2 if words[0] == "users" else None
        done = shop(copied, *words, typed=typed)
        assert done.exit_code == 0, f"{words}: {done.output}"
        said += done.output
    assert (
        "the next key may sign in 600 s, when every service knows it; the next `shop keys" in said
    )
    assert "is an admin" in said
    states = [line.split()[1] for line in shop(copied, "keys", "list").output.splitlines()]
    assert sorted(states) == ["active", "initial"]


def test_a_rotation_that_comes_too_early_changes_nothing_and_says_so(
    copied: Databases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "key-encryption-keys"
    file.write_text(new_key_encryption_key() + "\n")
    monkeypatch.setenv("SHOP_AUTH__KEY_ENCRYPTION_KEY_FILE", str(file))
    for words in (("keys", "new"), ("keys", "rotate")):
        assert shop(copied, *words).exit_code == 0
    before = shop(copied, "keys", "list").output
    early = shop(copied, "keys", "rotate")
    assert early.exit_code == 1
    told = (
        r"shop: the next key may sign in \d+ s, when every service knows it; run this again then\n"
    )
    assert re.fullmatch(told, early.output)
    assert shop(copied, "keys", "list").output == before
