"""Outside issuers: a real HTTP server in a thread, which answers well, badly, slowly or not at all."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from starlette.types import Scope

from eventspine.database import Database
from shop.platform.auth import issuers as module
from shop.platform.auth.gate import Gate
from shop.platform.auth.rules import Rule
from shop.platform.auth.settings import AuthSettings
from shop.platform.problems import Problem, TemporarilyUnavailable, Unauthenticated
from tests.support.issuing import Token, key
from tests.support.shop import free_ports

READ = Rule("notes:read", frozenset({"customer", "support", "admin", "service"}), "own")


@dataclass
class Provider:
    """An OpenID Connect issuer. `answer` makes what it says of its keys."""

    server: ThreadingHTTPServer
    keys: list[dict[str, Any]] = field(default_factory=list)
    answer: Callable[[BaseHTTPRequestHandler], bytes] | None = None
    asked: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def documents(self, handler: BaseHTTPRequestHandler) -> bytes:
        self.asked.append(handler.path)
        if handler.path == "/.well-known/openid-configuration":
            return json.dumps({"issuer": self.name, "jwks_uri": f"{self.name}/jwks"}).encode()
        if self.answer is not None:
            return self.answer(handler)
        return json.dumps({"keys": self.keys}).encode()

    @property
    def fetches(self) -> int:
        return self.asked.count("/jwks")


@pytest.fixture
def provider() -> Iterator[Provider]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = issuer.documents(self)
            self.send_response(302 if body == b"elsewhere" else 200)
            if body == b"elsewhere":
                self.send_header("location", f"{issuer.name}/more")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            try:
                self.wfile.write(body)
            except OSError:
                pass  # it was told enough

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    issuer = Provider(server, [key("p1").public_jwk])
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield issuer
    server.shutdown()
    server.server_close()
    thread.join(10)


@dataclass
class Door:
    gate: Gate

    def ask(self, token: str) -> Any:
        guard = self.gate.guard(READ)
        assert guard
        request: Scope = {"headers": [(b"authorization", f"Bearer {token}".encode())]}
        return guard(request)

    def refused(self, token: str) -> type[Problem]:
        with pytest.raises(Problem) as refused:
            self.ask(token)
        return type(refused.value)

    async def taken(self, token: str) -> Any:
        while True:
            try:
                return self.ask(token)
            except Problem:
                await asyncio.sleep(0.01)


@asynccontextmanager
async def door(provider: Provider, **more: Any) -> AsyncIterator[Door]:
    said = {"issuer": provider.name, "audience": "shop", **more}
    settings = AuthSettings.model_validate({"required": True, "issuers": [said]})
    gate = Gate(settings, Database(""))
    tasks = [asyncio.create_task(each.watch()) for each in gate._outside.values()]
    try:
        yield Door(gate)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def token(provider: Provider, kid: str = "p1", **claims: Any) -> str:
    said = {"iss": provider.name, "aud": ["shop", "account"], "scope": "notes:read", **claims}
    return Token(
        "4711", key=key(kid), claims=said, without=("jti", "client_id", "sid", "gen")
    ).signed()


async def test_its_tokens_are_taken_by_the_keys_that_discovery_leads_to(provider: Provider) -> None:
    async with door(provider, roles_claim="realm_access.roles") as at:
        roles = ["support", "owner"]
        asks = await at.taken(token(provider, realm_access={"roles": roles}))
    assert asks.subject == f"app_user:{provider.name}#4711"
    assert (asks.user_id, asks.roles, asks.scopes) == (None, {"support"}, {"notes:read"})
    assert (asks.reads, asks.writes) == (None, 0)


@pytest.mark.parametrize("sub", ["user:1", "service_account:billing", "1"])
async def test_its_users_are_never_ours(provider: Provider, sub: str) -> None:
    async with door(provider) as at:
        asks = await at.taken(token(provider, sub=sub))
    assert asks.subject == f"app_user:{provider.name}#{sub}"
    assert (asks.user_id, asks.reads) == (None, 0)


async def test_it_can_not_speak_for_us_nor_for_others(provider: Provider) -> None:
    async with door(provider) as at:
        await at.taken(token(provider))
        assert at.refused(token(provider, iss="http://127.0.0.1:8001")) is TemporarilyUnavailable
        at.gate._own.keys = {"k1": at.gate._outside[provider.name].issuer.keys["p1"]}
        assert at.refused(token(provider, iss="http://127.0.0.1:8001")) is Unauthenticated
        assert at.refused(token(provider, aud=["another"])) is Unauthenticated


async def test_a_flood_of_unknown_kids_is_one_fetch_a_minute(provider: Provider) -> None:
    async with door(provider) as at:
        await at.taken(token(provider))
        outside = at.gate._outside[provider.name]
        flood = [token(provider, f"unknown {n}") for n in range(3)]
        assert {at.refused(each) for each in flood * 30} == {Unauthenticated}
        assert provider.fetches == 1
        outside._began -= 60
        provider.keys.append(key("p2").public_jwk)
        # It is being fetched: not the client's fault.
        assert at.refused(token(provider, "p2")) is TemporarilyUnavailable
        assert {at.refused(each) for each in flood * 30} == {TemporarilyUnavailable}
        await at.taken(token(provider, "p2"))
        assert {at.refused(each) for each in flood * 30} == {Unauthenticated}
        assert provider.fetches == 2


NONSENSE: dict[str, Callable[[BaseHTTPRequestHandler], bytes]] = {
    "no JSON": lambda _: b"<html>down for maintenance</html>",
    "no object": lambda _: b"[]",
    "no keys": lambda _: b'{"keys": []}',
    "keys of no use": lambda _: json.dumps(
        {"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "p1"}, {"kty": "RSA", "kid": "p1"}, 7]}
    ).encode(),
    "too much": lambda _: b'{"keys": [' + b" " * 1_000_000 + b"]}",
    "deep": lambda _: b'{"keys": ' + b"[" * 100_000,
    "elsewhere": lambda _: b"elsewhere",
}


@pytest.mark.parametrize("what", NONSENSE)
async def test_an_issuer_that_answers_nonsense_keeps_its_last_good_keys(
    provider: Provider, what: str
) -> None:
    async with door(provider) as at:
        good = token(provider)
        await at.taken(good)
        provider.answer = NONSENSE[what]
        outside = at.gate._outside[provider.name]
        outside._began -= 60
        assert outside.want()
        while outside._wanted.is_set():
            await asyncio.sleep(0.01)
        assert provider.fetches == 2
        assert at.ask(good).subject.endswith("#4711")
        assert at.ask(token(provider)).subject.endswith("#4711")


async def test_an_issuer_that_is_down_keeps_its_last_good_keys(provider: Provider) -> None:
    async with door(provider) as at:
        await at.taken(token(provider))
        outside = at.gate._outside[provider.name]
        [nobodys] = free_ports(1)
        outside._url = f"http://127.0.0.1:{nobodys}/jwks"
        outside._began -= 60
        assert outside.want()
        while outside._wanted.is_set():
            await asyncio.sleep(0.01)
        assert at.ask(token(provider)).subject.endswith("#4711")


async def test_a_slow_issuer_does_not_keep_the_event_loop(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_WITHIN", 5.0)
    let = threading.Event()

    def slowly(_: BaseHTTPRequestHandler) -> bytes:
        let.wait(30)
        return b"{}"

    provider.answer = slowly
    async with door(provider) as at:
        while not provider.fetches:
            await asyncio.sleep(0.01)
        longest, before = 0.0, time.perf_counter()
        for _ in range(30):
            await asyncio.sleep(0.01)
            assert at.refused(token(provider)) is TemporarilyUnavailable
            now = time.perf_counter()
            longest, before = max(longest, now - before), now
        assert longest < 3
        let.set()


async def test_another_typ_must_be_allowed_by_name(provider: Provider) -> None:
    jwt = Token(
        "4711", key=key("p1"), header={"typ": "JWT"},
        claims={"iss": provider.name, "aud": "shop", "scp": ["notes:read"], "roles": "admin"},
        without=("jti", "client_id", "sid", "gen", "scope"),
    ).signed()  # fmt: skip
    async with door(provider) as at:
        await at.taken(token(provider))
        assert at.refused(jwt) is Unauthenticated
    async with door(provider, typ="JWT") as at:
        assert (await at.taken(jwt)).roles == frozenset()


async def test_a_discovery_document_of_another_issuer_is_not_believed(provider: Provider) -> None:
    """Nor one that leads from https to http."""
    other = replace(provider)
    with pytest.raises(module.NoKeys, match="another issuer"):
        module._discovered(other.name, {"issuer": "https://x", "jwks_uri": "https://x/jwks"})
    with pytest.raises(module.NoKeys, match="from https to http"):
        module._discovered("https://x", {"issuer": "https://x", "jwks_uri": "http://x/jwks"})
