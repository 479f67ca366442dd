"""A user service that issues tokens, with all that it needs, for as long as a block lasts."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
import jwt

from eventspine.database import Database
from eventspine.outbox import Transaction, transaction
from shop.services.users.identity import keys
from shop.services.users.identity.key_encryption import (
    KeyEncryption,
    new_key_encryption_key,
    read_key_encryption,
)
from tests.support.serving import Served, serving

Result = TypeVar("Result")

PASSWORD = "correct horse battery staple"
ISSUER = "http://127.0.0.1:8001"
AUDIENCE = "eventshop"

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Issuer:
    served: Served
    encryption: KeyEncryption

    @property
    def client(self) -> httpx.Client:
        return self.served.client

    def user(self, password: str | None = PASSWORD) -> dict[str, Any]:
        """A new one."""
        email = f"member{next(_numbers)}@example.com"
        body = {"email": email, "name": "Member"} | ({"password": password} if password else {})
        answer = self.client.post("/users", json=body)
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    def log_in(self, email: str, password: str = PASSWORD, **more: Any) -> httpx.Response:
        return self.client.post("/sessions", json={"email": email, "password": password, **more})

    def session(self, user: dict[str, Any], password: str = PASSWORD) -> dict[str, Any]:
        answer = self.log_in(user["email"], password)
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    def refresh(self, token: str, **more: str) -> httpx.Response:
        form = {"grant_type": "refresh_token", "refresh_token": token, **more}
        return self.client.post("/token", data=form)

    def claims(self, access_token: str) -> dict[str, Any]:
        """Verified as any reader of RFC 7517 would, by the published keys."""
        published = self.client.get("/.well-known/jwks.json").json()
        key_set = jwt.PyJWKSet.from_dict(published)
        key = key_set[jwt.get_unverified_header(access_token)["kid"]]
        options: Any = {"require": ["iss", "aud", "sub", "iat", "exp", "jti", "client_id"]}
        return dict(
            jwt.decode(
                access_token,
                key,
                algorithms=["RS256"],
                issuer=ISSUER,
                audience=AUDIENCE,
                options=options,
            )
        )

    def do(self, work: Callable[[Transaction], Awaitable[Result]]) -> Result:
        """In a transaction of its own, as the command line does."""
        return run(self.served.database_url, work)

    def published(self, type_: str) -> list[dict[str, Any]]:
        return [data for _, kind, _, _, data, _ in self.served.events() if kind == type_]


def run(url: str, work: Callable[[Transaction], Awaitable[Result]]) -> Result:
    async def scenario() -> Result:
        database = Database(url, size=1)
        await database.open()
        try:
            async with transaction(database) as tx:
                return await work(tx)
        finally:
            await database.close()

    return asyncio.run(scenario())


@contextmanager
def issuing(url: str, folder: Path, **settings: Any) -> Iterator[Issuer]:
    file = folder / "key-encryption-keys"
    if not file.exists():
        file.write_text(new_key_encryption_key() + "\n")
    encryption = read_key_encryption(file)
    run(url, lambda tx: keys.first_key(tx, encryption))
    auth = {"key_encryption_key_file": file, **settings.pop("auth", {})}
    with serving("users", url, auth=auth, **settings) as served:
        yield Issuer(served, encryption)
