"""Checks that a secret is good enough for production, and that other users can't read its file."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from shop.platform import secret_files
from shop.platform.secret_files import passwords
from shop.platform.settings import PREFIX

SHORTEST = 16
"""The least number of characters of a secret."""

_LEAST_VARIETY = 6  # different characters

_KNOWN = frozenset(
    [
        "admin",
        "changeme",
        "change-me",
        "default",
        "eventshop",
        "example",
        "guest",
        "letmein",
        "password",
        "postgres",
        "qwerty",
        "root",
        "secret",
        "shop",
        "swordfish",
        "test",
        "welcome",
    ]
)
"""Known passwords, in lower case, without digits and signs at the end."""

_READ_BY_OTHERS, _WRITTEN_BY_OTHERS = 0o007, 0o022


@dataclass(frozen=True)
class Refusal:
    sentence: str
    allowed_by: str = ""
    """The name in `SHOP_PRODUCTION_ALLOWS` that accepts it, if it may be accepted."""

    def __str__(self) -> str:
        if not self.allowed_by:
            return self.sentence
        return f"{self.sentence} (SHOP_PRODUCTION_ALLOWS={self.allowed_by} accepts it)"


def check_secret(
    variable: str, secret: str, said: dict[str, str], *, user: str = ""
) -> Iterator[Refusal]:
    """`said` has the secrets that were seen before, and their settings. `user` is the user that logs in with the secret."""
    path = from_files().get(variable)
    if path is None:
        yield Refusal(
            f"{variable} holds a secret in the environment, which child processes and crash reports show: use"
            f" {variable}_FILE",
            "secrets-in-environment",
        )
    else:
        yield from check_rights(f"{variable}_FILE", path)
    if not secret:
        yield Refusal(f"{variable}_FILE: {path} is empty: write the secret into it")
        return
    for each in passwords(secret):
        if (owner := said.setdefault(each, variable)) != variable:
            yield Refusal(f"{variable} is the same as {owner}: give each its own")
        if each.lower().rstrip("0123456789!.-_") in _KNOWN | {user.lower()}:
            yield Refusal(
                f"{variable} is a password that is tried first by everybody: make a new one"
            )
        elif len(each) < SHORTEST:
            yield Refusal(f"{variable} has {len(each)} characters: use {SHORTEST} or more")
        elif len(set(each)) < _LEAST_VARIETY:
            yield Refusal(f"{variable} is of a few characters, repeated: make a random one")


def check_rights(variable: str, path: Path) -> Iterator[Refusal]:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        yield Refusal(f"{variable}: cannot read {path}: {error.strerror}")
        return
    if mode & _READ_BY_OTHERS:
        yield Refusal(
            f"{variable}: every user of this machine may read {path}: chmod o-rwx",
            "readable-secrets",
        )
    elif mode & _WRITTEN_BY_OTHERS:
        yield Refusal(
            f"{variable}: others than its owner may change {path}: chmod go-w", "readable-secrets"
        )


def from_files() -> Mapping[str, Path]:
    """The settings that come from files."""
    return secret_files.files(os.environ, PREFIX)
